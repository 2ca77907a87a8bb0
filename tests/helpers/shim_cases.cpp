// What the shim (csrc/cuda/shim.h) must do and must refuse: shim_cases NAME ORDER prints what came of it.
#include <cstdio>
#include <iostream>
#include <map>
#include <string>

#include "device.h"

using namespace pixelfast::cuda;

namespace {

int failures = 0;
void expect(bool right) { failures += !right; }
float* numbers() { return reinterpret_cast<float*>(shared_memory() + 64); }
uint64_t* barrier() { return reinterpret_cast<uint64_t*>(shared_memory()); }

void exchange(bool wait) {
  numbers()[thread()] = static_cast<float>(thread());
  if (wait) block_barrier();
  expect(numbers()[(thread() + 33) % threads()] == static_cast<float>((thread() + 33) % threads()));
  if (wait) block_barrier();
}

void neighbours(bool wait) {
  for (int turn = 1; turn < 4; turn++) {
    *of_rank(numbers() + thread(), (rank() + 1) % ranks()) = static_cast<float>(turn * 100 + rank());
    cluster_barrier();
    expect(numbers()[thread()] == static_cast<float>(turn * 100 + (rank() + ranks() - 1) % ranks()));
    if (wait) cluster_barrier();
  }
  cluster_barrier();
}

// Each block sends each other block its threads' numbers, which are there once the mbarrier's phase has ended.
void later(bool wait, int announced) {
  if (thread() == 0) mbarrier_init(barrier(), 1);
  cluster_barrier();
  for (int turn = 0; turn < 4; turn++) {
    if (thread() == 0) mbarrier_arrive(barrier(), announced * threads() * ranks());
    for (int r = 0; r < ranks(); r++) store_async(numbers() + rank() * threads() + thread(), r, static_cast<float>(turn * 50 + thread()), barrier());
    if (wait) mbarrier_wait(barrier(), turn % 2);
    for (int i = 0; i < threads() * ranks(); i++) expect(numbers()[i] == static_cast<float>(turn * 50 + i % threads()));
    cluster_barrier();  // nobody sends the next numbers while these are looked at
  }
}

float sum(float x) {
  for (int lanes = 16; lanes; lanes /= 2) x += shuffle_xor(x, lanes);
  return x;
}

const std::map<std::string, void (*)()> kCases = {
    {"exchange", [] { exchange(true); }},
    {"exchange without a barrier", [] { exchange(false); }},
    {"neighbours", [] { neighbours(true); }},
    {"neighbours without a barrier", [] { neighbours(false); }},
    {"later", [] { later(true, 4); }},
    {"later without a wait", [] { later(false, 4); }},
    {"later with too many bytes", [] { later(true, 8); }},
    {"shuffle", [] { expect(sum(static_cast<float>(thread() % 32)) == 496.0f); expect(shuffle(thread() + 0.5, 7) == thread() / 32 * 32 + 7.5); }},
    {"half a shuffle", [] { if (thread() % 32 < 16) sum(1.0f); }},
    {"divergent barrier", [] { if (thread() < 32) block_barrier(); else
                                 block_barrier(); }},
    {"a barrier that half the block reaches", [] { if (thread() < 32) block_barrier(); }},
    {"block against cluster", [] { if (thread() < 32) block_barrier(); else cluster_barrier(); }},
    {"a store beyond", [] { store_async(numbers() + 1000000, 0, 1.0f, barrier()); }},
    {"to a block that has ended", [] { if (rank() == 1) { mbarrier_init(barrier(), 1); cluster_barrier(); } else { cluster_barrier(); store_async(numbers(), 1, 1.0f, barrier()); } }},
    {"unwritten memory", [] { expect(numbers()[0] != numbers()[0]); }},
};

}  // namespace

int main(int, char** arguments) {
  try {
    const auto order = static_cast<shim::Order>(std::stoi(arguments[2]));
    shim::Cluster(2, 64, 64 + 4 * 128, order, 5).run(kCases.at(arguments[1]));
    std::cout << (failures ? "wrong" : "right") << "\n";
  } catch (const shim::Error& error) {
    std::cout << error.what() << "\n";
  }
  return 0;
}
