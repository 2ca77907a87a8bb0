// How blocks of a cluster hand numbers to each other: what latencies.cu times, and tests run on a processor by the shim.
//
// Each function runs as all threads of a cluster and returns a number that only right hand-overs give. Shared memory holds
// two mbarriers, and from `kBoxes` on two boxes of (blocks x threads) floats, which take turns: whoever writes to a box again
// knows by the turn between that everybody has read it.
#pragma once

#include "device.h"

namespace pixelfast::cuda {

constexpr int kBoxes = 128;

PIXELFAST_DEVICE uint64_t* hop_barrier(int which) { return reinterpret_cast<uint64_t*>(shared_memory()) + which; }
PIXELFAST_DEVICE float* hop_box(int which) {
  return reinterpret_cast<float*>(shared_memory() + kBoxes) + which * ranks() * threads();
}
inline size_t hop_bytes(int blocks, int threads) { return kBoxes + 2 * sizeof(float) * static_cast<size_t>(blocks) * threads; }

PIXELFAST_DEVICE void prepare_hops() {
  if (thread() == 0) mbarrier_init(hop_barrier(0), 1), mbarrier_init(hop_barrier(1), 1);
  cluster_barrier();
}

// Nothing but the barrier; the number of turns.
PIXELFAST_DEVICE float cluster_barriers(int turns) {
  float turn = 0;
  for (int t = 0; t < turns; t++) {
    cluster_barrier();
    turn += 1;
  }
  return turn;
}

// Every thread hands its number to all blocks; each then takes that of the next thread of the next block.
PIXELFAST_DEVICE float numbers_by_barrier(int turns) {
  const int place = rank() * threads() + thread(), from = (rank() + 1) % ranks() * threads() + (thread() + 1) % threads();
  float number = static_cast<float>(place);
  for (int t = 0; t < turns; t++) {
    for (int r = 0; r < ranks(); r++) *of_rank(hop_box(t % 2) + place, r) = number;
    cluster_barrier();
    number = hop_box(t % 2)[from];
  }
  cluster_barrier();
  return number;
}

// The same with stores that count at the receiver's mbarrier: no block waits for another's end of turn.
PIXELFAST_DEVICE float numbers_by_store(int turns) {
  const int place = rank() * threads() + thread(), from = (rank() + 1) % ranks() * threads() + (thread() + 1) % threads();
  float number = static_cast<float>(place);
  for (int t = 0; t < turns; t++) {
    uint64_t* barrier = hop_barrier(t % 2);
    if (thread() == 0) mbarrier_arrive(barrier, static_cast<int>(sizeof(float)) * ranks() * threads());
    for (int r = 0; r < ranks(); r++) store_async(hop_box(t % 2) + place, r, number, barrier);
    mbarrier_wait(barrier, t / 2 % 2);
    number = hop_box(t % 2)[from];
  }
  cluster_barrier();
  return number;
}

// One token goes round the blocks and grows at each hop; in block 0: turns x blocks.
PIXELFAST_DEVICE float token_by_store(int turns) {
  float token = 0;
  if (thread() == 0) {
    const int next = (rank() + 1) % ranks();
    for (int t = 0; t < turns; t++) {
      mbarrier_arrive(hop_barrier(0), sizeof(float));
      if (rank() == 0) store_async(hop_box(0), next, token + 1, hop_barrier(0));
      mbarrier_wait(hop_barrier(0), t % 2);
      token = *hop_box(0);
      if (rank() != 0) store_async(hop_box(0), next, token + 1, hop_barrier(0));
    }
  }
  cluster_barrier();
  return token;
}

}  // namespace pixelfast::cuda
