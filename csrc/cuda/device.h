// What a kernel of this folder may use, in two worlds: CUDA's own for sm_90, or the shim's on a processor.
//
// A cluster of blocks works together; `rank` is a block's number in it. Device code is ordinary C++ between these calls:
// no other intrinsics, no textures, no dynamic allocation.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#define PIXELFAST_DEVICE __device__ __forceinline__

namespace pixelfast::cuda {

PIXELFAST_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
PIXELFAST_DEVICE int threads() { return static_cast<int>(blockDim.x); }
PIXELFAST_DEVICE int rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return static_cast<int>(r);
}
PIXELFAST_DEVICE int ranks() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
  return static_cast<int>(r);
}
PIXELFAST_DEVICE int cluster() { return static_cast<int>(blockIdx.x) / ranks(); }

PIXELFAST_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char pixelfast_shared[];
  return pixelfast_shared;
}

PIXELFAST_DEVICE void block_barrier() { __syncthreads(); }
// What a thread wrote before, in whatever memory, the cluster's others see after.
PIXELFAST_DEVICE void cluster_barrier() {
  __syncwarp();  // the lanes arrive as one
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

PIXELFAST_DEVICE float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }
PIXELFAST_DEVICE double shuffle(double value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

PIXELFAST_DEVICE uint32_t shared_address(const void* here) { return static_cast<uint32_t>(__cvta_generic_to_shared(here)); }
PIXELFAST_DEVICE uint32_t address_in(const void* here, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(here)), "r"(rank));
  return there;
}
// The same place in another block's shared memory.
PIXELFAST_DEVICE float* of_rank(float* here, int rank) {
  uint64_t there;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(here), "r"(rank));
  return reinterpret_cast<float*>(there);
}

// An mbarrier whose phase ends once `arrivals` threads have arrived and the bytes that they announced have come.
PIXELFAST_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
PIXELFAST_DEVICE void mbarrier_arrive(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
PIXELFAST_DEVICE void mbarrier_wait(uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred ended;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n@!ended bra again;\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// Stores into the shared memory of a block and counts the bytes at its mbarrier, some time later.
PIXELFAST_DEVICE void store_async(float* here, int rank, float value, uint64_t* barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(address_in(here, rank)),
               "r"(__float_as_uint(value)), "r"(address_in(barrier, rank))
               : "memory");
}
PIXELFAST_DEVICE void lower(unsigned long long* least, unsigned long long value) { atomicMin(least, value); }

}  // namespace pixelfast::cuda

#else

#include "shim.h"

#define PIXELFAST_DEVICE inline

namespace pixelfast::cuda {

inline int& cluster_number() {
  static thread_local int number = 0;
  return number;
}

PIXELFAST_DEVICE shim::Cluster& here() { return *shim::Cluster::current(); }
PIXELFAST_DEVICE int thread() { return here().self().thread; }
PIXELFAST_DEVICE int threads() { return here().threads(); }
PIXELFAST_DEVICE int rank() { return here().self().block; }
PIXELFAST_DEVICE int ranks() { return here().blocks(); }
PIXELFAST_DEVICE int cluster() { return cluster_number(); }
PIXELFAST_DEVICE unsigned char* shared_memory() { return here().shared(rank()); }

PIXELFAST_DEVICE void block_barrier(int line = __builtin_LINE()) { here().barrier(shim::Wait::block, line); }
PIXELFAST_DEVICE void cluster_barrier(int line = __builtin_LINE()) { here().barrier(shim::Wait::cluster, line); }

template <class T>
T shuffled(T value, int lane, int line) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = here().shuffle(bits, lane, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
PIXELFAST_DEVICE float shuffle_xor(float value, int lanes, int line = __builtin_LINE()) {
  return shuffled(value, (thread() % shim::kWarp) ^ lanes, line);
}
PIXELFAST_DEVICE double shuffle(double value, int lane, int line = __builtin_LINE()) { return shuffled(value, lane, line); }

template <class T>
T* of_rank(T* address, int rank) {
  return reinterpret_cast<T*>(here().shared(rank) + (reinterpret_cast<unsigned char*>(address) - shared_memory()));
}
PIXELFAST_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) { here().mbarrier_init(barrier, arrivals); }
PIXELFAST_DEVICE void mbarrier_arrive(uint64_t* barrier, int bytes) { here().mbarrier_arrive(barrier, bytes); }
PIXELFAST_DEVICE void mbarrier_wait(uint64_t* barrier, unsigned parity, int line = __builtin_LINE()) {
  here().mbarrier_wait(barrier, parity, line);
}
PIXELFAST_DEVICE void store_async(float* address, int rank, float value, uint64_t* barrier) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  here().store_later(rank, reinterpret_cast<uint32_t*>(of_rank(address, rank)), word, of_rank(barrier, rank));
}
PIXELFAST_DEVICE void lower(unsigned long long* least, unsigned long long value) {
  if (value < *least) *least = value;
}

}  // namespace pixelfast::cuda

#endif
