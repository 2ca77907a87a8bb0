// The latencies that decide between designs of a GPU engine, as lines of JSON: one for each, as soon as it is measured.
//
//   nvcc -gencode=arch=compute_90a,code=sm_90a -std=c++17 -O3 -cudart=static -I csrc/cuda benchmarks/gpu/latencies.cu -o latencies
//
// A value is (time of 2 T turns - time of T turns) / T, so that launching cancels: the median of `kRuns`, with the least and
// the most. Each kernel also computes something that only right hand-overs give; without it the value is not shown. A wait
// that takes seconds gives up: a hang would take the device with it.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "hops.h"

namespace {

using namespace pixelfast::cuda;

constexpr int kRuns = 9;
constexpr int kThreads = 256;
constexpr long long kPatience = 4'000'000'000;  // cycles that a thread waits for another

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// ---------------------------------------------------------------- kernels

__global__ void add_one(unsigned* count) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *count += 1;
}

// Starts while the kernel before ends, and waits for its results.
__global__ void add_one_early(unsigned* count) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (blockIdx.x == 0 && threadIdx.x == 0) *count += 1;
}

enum class Hop { barrier, numbers_by_barrier, numbers_by_store, token_by_store };

template <Hop H>
__global__ void __launch_bounds__(kThreads, 1) hops(int turns, unsigned* wrong) {
  prepare_hops();
  float found = 0, expected = 0;
  if constexpr (H == Hop::barrier) {
    found = cluster_barriers(turns), expected = static_cast<float>(turns);
  } else if constexpr (H == Hop::token_by_store) {
    found = token_by_store(turns), expected = rank() == 0 && thread() == 0 ? static_cast<float>(turns) * ranks() : found;
  } else {
    found = H == Hop::numbers_by_barrier ? numbers_by_barrier(turns) : numbers_by_store(turns);
    expected = static_cast<float>((rank() + turns) % ranks() * threads() + (thread() + turns) % threads());
  }
  if (found != expected) atomicAdd(wrong, 1u);
}

__global__ void block_barriers(int turns, unsigned* wrong) {
  __shared__ int turn;
  if (threadIdx.x == 0) turn = 0;
  __syncthreads();
  for (int t = 0; t < turns; t++) {
    if (threadIdx.x == t % blockDim.x) turn = turn + 1;
    __syncthreads();
  }
  if (turn != turns) atomicAdd(wrong, 1u);
}

__device__ unsigned load_acquire(const unsigned* from) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ void store_release(unsigned* to, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ bool wait_for(const unsigned* flag, unsigned least) {
  const long long begin = clock64();
  while (load_acquire(flag) < least)
    if (clock64() - begin > kPatience) return false;
  return true;
}

// Two blocks answer each other by flags in global memory, two hops a turn.
__global__ void flag_hops(int turns, unsigned* wrong, unsigned* flags) {
  unsigned* mine = flags + 64 * blockIdx.x;
  const unsigned* other = flags + 64 * (1 - blockIdx.x);
  for (int t = 1; t <= turns; t++) {
    if (blockIdx.x == 0) store_release(mine, t);
    if (!wait_for(other, t)) {
      atomicAdd(wrong, 1u);
      return;
    }
    if (blockIdx.x == 1) store_release(mine, t);
  }
}

// All blocks meet at a counter in global memory.
__global__ void grid_barriers(int turns, unsigned* wrong, unsigned* counter) {
  for (int t = 1; t <= turns; t++) {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(counter, 1u);
      if (!wait_for(counter, t * gridDim.x)) atomicAdd(wrong, 1u), t = turns;
    }
    __syncthreads();
  }
}

__device__ uint4 load_from_l2(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

// Each block reads all of a buffer of ones, `turns` times.
__global__ void __launch_bounds__(1024) reads(int turns, unsigned* wrong, const uint4* buffer, int count) {
  constexpr int kEach = 8;
  unsigned sum = 0, own = 0;
  for (int t = 0; t < turns; t++)
    for (int i = threadIdx.x; i < count; i += kEach * blockDim.x) {
      uint4 v[kEach];
#pragma unroll
      for (int e = 0; e < kEach; e++) v[e] = load_from_l2(buffer + i + e * blockDim.x);
#pragma unroll
      for (int e = 0; e < kEach; e++) sum += v[e].x + v[e].y + v[e].z + v[e].w;
      own += 4 * kEach;
    }
  if (sum != own) atomicAdd(wrong, 1u);
}

// ---------------------------------------------------------------- measuring

struct Device {
  cudaDeviceProp properties{};
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  unsigned* wrong = nullptr;   // how many threads found what they should not
  unsigned* words = nullptr;   // flags and counters
  static constexpr size_t kWords = 1024;

  Device() {
    int device = 0;
    check(cudaGetDevice(&device), "finding the device");
    check(cudaGetDeviceProperties(&properties, device), "asking the device");
    if (properties.major != 9) throw std::runtime_error("these kernels are compiled for GPUs of compute capability 9.0 (Hopper)");
    check(cudaStreamCreate(&stream), "making a stream");
    check(cudaEventCreate(&begin), "making an event");
    check(cudaEventCreate(&end), "making an event");
    check(cudaMalloc(&wrong, sizeof(unsigned)), "memory");
    check(cudaMalloc(&words, kWords * sizeof(unsigned)), "memory");
  }
  void clear() const {
    check(cudaMemsetAsync(wrong, 0, sizeof(unsigned), stream), "clearing");
    check(cudaMemsetAsync(words, 0, kWords * sizeof(unsigned), stream), "clearing");
  }
  double seconds(const std::function<void()>& launch) const {
    clear();
    check(cudaEventRecord(begin, stream), "recording");
    launch();
    check(cudaGetLastError(), "launching");
    check(cudaEventRecord(end, stream), "recording");
    check(cudaEventSynchronize(end), "running");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    return milliseconds * 1e-3;
  }
  unsigned read(const unsigned* from) const {
    unsigned value = 0;
    check(cudaMemcpy(&value, from, sizeof value, cudaMemcpyDeviceToHost), "copying");
    return value;
  }
};

void say(const std::string& name, const std::string& rest) {
  std::printf("{\"kind\": \"latency\", \"name\": \"%s\", %s}\n", name.c_str(), rest.c_str());
  std::fflush(stdout);
}

// Launches `run(turns)`, with T turns and 2 T; the difference, over T and `parts`, goes out times `scale`.
void measure(const Device& device, const std::string& name, const char* unit, int turns, double parts, double scale,
             const std::function<void(int)>& run, bool inverse = false) {
  try {
    std::vector<double> found;
    for (int i = 0; i <= kRuns; i++) {
      const double once = device.seconds([&] { run(turns); }), twice = device.seconds([&] { run(2 * turns); });
      if (device.read(device.wrong)) throw std::runtime_error("the blocks found wrong numbers, or waited in vain");
      const double each = (twice - once) / turns / parts;
      if (i) found.push_back(inverse ? scale / each : scale * each);  // the first run warms up
    }
    std::sort(found.begin(), found.end());
    if (!std::isfinite(found.front()) || !std::isfinite(found.back()) || found.front() <= 0)
      throw std::runtime_error("twice the turns took no longer: nothing was measured");
    char text[200];
    std::snprintf(text, sizeof text, "\"value\": %.4g, \"unit\": \"%s\", \"least\": %.4g, \"most\": %.4g, \"runs\": %d",
                  found[found.size() / 2], unit, found.front(), found.back(), kRuns);
    say(name, text);
  } catch (const std::exception& error) {
    std::string reason = error.what();
    std::replace(reason.begin(), reason.end(), '"', '\'');
    say(name, "\"failed\": \"" + reason + "\"");
  }
}

constexpr double kMicroseconds = 1e6;

// A chain of dependent kernels, captured once and replayed.
void graph_nodes(const Device& device, const char* name, int blocks, int threads, bool early) {
  constexpr int kNodes = 500;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal), "capturing");
  for (int i = 0; i < kNodes; i++) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks), config.blockDim = dim3(threads), config.stream = device.stream;
    config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
    check(cudaLaunchKernelEx(&config, early ? add_one_early : add_one, device.words), "capturing a launch");
  }
  check(cudaStreamEndCapture(device.stream, &graph), "capturing");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiating a graph");
  measure(device, name, "us", 4, kNodes, kMicroseconds, [&](int turns) {
    for (int t = 0; t < turns; t++) check(cudaGraphLaunch(executable, device.stream), "launching a graph");
  });
  const unsigned made = device.read(device.words);
  if (made != 8 * kNodes) say(std::string(name) + ", order", "\"failed\": \"kernels of a chain ran at the same time\"");
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

template <Hop H>
void cluster(const Device& device, const std::string& name, int blocks, int turns, double parts) {
  const size_t bytes = hop_bytes(blocks, kThreads);
  auto* kernel = hops<H>;
  measure(device, name + ", " + std::to_string(blocks) + " blocks", "us", turns, parts, kMicroseconds, [&](int count) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory");
    if (blocks > 8) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "a large cluster");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks), config.blockDim = dim3(kThreads), config.dynamicSmemBytes = bytes;
    config.stream = device.stream, config.attrs = &attribute, config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, count, device.wrong), "launching a cluster");
  });
}

void read_rates(const Device& device) {
  constexpr int kCount = 82 * 8 * 1024;  // of 16 bytes: 10.7 MB, as much as model b has of weights in bf16; whole turns of all threads
  std::vector<unsigned> ones(4 * kCount, 1u);
  uint4* buffer = nullptr;
  check(cudaMalloc(&buffer, kCount * sizeof(uint4)), "memory");
  check(cudaMemcpy(buffer, ones.data(), kCount * sizeof(uint4), cudaMemcpyHostToDevice), "copying");
  const int all = device.properties.multiProcessorCount;
  for (const int blocks : {1, 8, all})
    measure(device, "L2 reads of 10.7 MB, each of " + std::to_string(blocks) + " SMs", "GB/s for each SM", blocks == 1 ? 20 : 40, 1,
            kCount * sizeof(uint4) * 1e-9, [&](int turns) { reads<<<blocks, 1024, 0, device.stream>>>(turns, device.wrong, buffer, kCount); }, true);
  cudaFree(buffer);
}

void run() {
  const Device device;
  graph_nodes(device, "node of a CUDA graph, 1 block", 1, 32, false);
  graph_nodes(device, "node of a CUDA graph, a block for each SM", device.properties.multiProcessorCount, 128, false);
  graph_nodes(device, "node of a CUDA graph, programmatic launch, a block for each SM", device.properties.multiProcessorCount, 128, true);
  measure(device, "launch from the processor, no graph", "us", 2000, 1, kMicroseconds, [&](int turns) {
    for (int t = 0; t < turns; t++) add_one<<<1, 32, 0, device.stream>>>(device.words);
  });
  measure(device, "block barrier, 256 threads", "us", 20000, 1, kMicroseconds,
          [&](int turns) { block_barriers<<<1, kThreads, 0, device.stream>>>(turns, device.wrong); });
  measure(device, "global flag hop", "us", 2000, 2, kMicroseconds,
          [&](int turns) { flag_hops<<<2, 1, 0, device.stream>>>(turns, device.wrong, device.words); });
  measure(device, "barrier of a block on each SM, by a counter", "us", 1000, 1, kMicroseconds, [&](int turns) {
    unsigned *wrong = device.wrong, *words = device.words;
    void* arguments[] = {&turns, &wrong, &words};
    check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(grid_barriers), dim3(device.properties.multiProcessorCount), dim3(kThreads),
                                      arguments, 0, device.stream), "launching all blocks together");
  });
  read_rates(device);
  // Last, since these alone would wait without end for a number that does not come.
  for (const int blocks : {8, 4, 16}) {
    cluster<Hop::barrier>(device, "cluster barrier", blocks, 2000, 1);
    cluster<Hop::token_by_store>(device, "st.async hop", blocks, 500, blocks);
    cluster<Hop::numbers_by_barrier>(device, "all to all, 256 floats a block, by cluster barrier", blocks, 2000, 1);
    cluster<Hop::numbers_by_store>(device, "all to all, 256 floats a block, by st.async", blocks, 2000, 1);
  }
}

}  // namespace

int main() {
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "latencies: %s\n", error.what());
    return 1;
  }
}
