// The cluster kernel on a GPU: its launch, and the copies to and from the device. Nothing here has met a GPU yet.
#include <cuda_runtime.h>

#include <limits>

#include "engine.h"
#include "sampler.h"

namespace pixelfast::cuda {
namespace {

constexpr int kThreads = 256;

template <int N>
__global__ void __launch_bounds__(kThreads, 1) cluster_kernel(const __grid_constant__ Tables tables, const __grid_constant__ CallTable call) {
  Sampler<N>(tables, call).run();
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw DeviceError(std::string(what) + ": " + cudaGetErrorString(error));
}

// Memory of the device, freed with the call.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    for (void* pointer : pointers_) cudaFree(pointer);
  }
  template <class T>
  T* make(size_t count) {
    void* pointer = nullptr;
    if (count == 0) return nullptr;
    check(cudaMalloc(&pointer, count * sizeof(T)), "the GPU's memory does not suffice");
    pointers_.push_back(pointer);
    return static_cast<T*>(pointer);
  }
  template <class T>
  T* copy(const T* from, size_t count) {
    T* to = make<T>(count);
    if (count) check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), "copying to the GPU");
    return to;
  }
  template <class T>
  T* copy(const std::vector<T>& from) {
    return copy(from.data(), from.size());
  }

 private:
  std::vector<void*> pointers_;
};

template <class T>
void fetch(T* to, const T* from, size_t count) {
  if (to) check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyDeviceToHost), "copying from the GPU");
}

Tables on_device(const Plan& plan, Memory& memory) {
  Tables t = plan.tables;
  t.buffers = memory.copy(plan.buffers), t.slots = memory.copy(plan.slots), t.pixels = memory.copy(plan.pixels);
  t.leaves = memory.copy(plan.leaves), t.ops = memory.copy(plan.ops), t.instructions = memory.copy(plan.instructions);
  t.steps = memory.copy(plan.steps), t.draws = memory.copy(plan.draws), t.encodes = memory.copy(plan.encodes);
  t.encodes_of = memory.copy(plan.encodes_of), t.floats = memory.copy(plan.floats);
  return t;
}

template <int N>
void launch(const Tables& tables, const CallTable& call, const Shape& shape, size_t shared_bytes) {
  auto* kernel = cluster_kernel<N>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "asking for shared memory");
  if (shape.ranks > 8) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "asking for a large cluster");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(shape.ranks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((call.images + N - 1) / N * shape.ranks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, tables, call), "launching the cluster kernel");
  check(cudaDeviceSynchronize(), "running the cluster kernel");
}

}  // namespace

std::string unavailable() {
  int count = 0, device = 0, major = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return std::string("CUDA says: ") + cudaGetErrorString(error);
  }
  if (count == 0) return "there is no CUDA device";
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
    return "the CUDA device does not answer";
  // sm_90a is code for this generation alone.
  if (major != 9) return "the kernel is compiled for GPUs of compute capability 9.0 (Hopper), and this one has " + std::to_string(major);
  return "";
}

Engine::Engine(Program program) : program_(std::move(program)) {}

std::optional<Failure> Engine::sample(const HostCall& host) const {
  if (host.images == 0) return std::nullopt;
  int device = 0, shared = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "finding the device");
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking the device");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking the device");
  const Shape shape = choose_shape(program_, host.images, static_cast<size_t>(shared), 8, multiprocessors);
  const Plan plan = make_plan(program_, shape);

  Memory memory;
  const Tables tables = on_device(plan, memory);
  const size_t pixels = static_cast<size_t>(program_.height) * program_.width * program_.channels;
  const size_t places = pixels * static_cast<size_t>(host.images);
  std::vector<FieldEntry> fields;
  std::vector<float> field_values;
  for (size_t i = 0; i < host.fields.size(); i++) {
    const HostField& field = host.fields[i];
    fields.push_back(field_entry(program_.fields[i], field.sizes, static_cast<int64_t>(field_values.size())));
    field_values.insert(field_values.end(), field.values, field.values + field.sizes[0] * field.sizes[1] * field.sizes[2] * field.sizes[3]);
  }
  CallTable call{};
  call.images = host.images, call.temperature = host.temperature;
  call.noise = memory.copy(host.noise, places);
  call.given = host.given ? memory.copy(host.given, places) : nullptr;
  call.fields = memory.copy(fields), call.field_values = memory.copy(field_values);
  call.values = memory.make<int32_t>(places);
  if (host.log_prob) call.log_prob = memory.copy(std::vector<double>(host.images, 0.0));
  if (host.parameters) call.parameters = memory.make<float>(places * program_.parameters);
  const unsigned long long none = std::numeric_limits<unsigned long long>::max();
  call.failure = memory.copy(&none, 1);
  const size_t blocks = static_cast<size_t>((host.images + shape.images - 1) / shape.images) * shape.ranks;
  call.replicas = memory.make<float>(blocks * plan.replica), call.replica = plan.replica;
  call.drawn = memory.make<int32_t>(blocks * pixels * shape.images);

  const auto with = shape.images == 1 ? launch<1> : shape.images == 2 ? launch<2> : shape.images == 4 ? launch<4> : launch<8>;
  with(tables, call, shape, plan.shared_bytes);
  unsigned long long failure = none;
  fetch(&failure, call.failure, 1);
  fetch(host.values, call.values, places);
  fetch(host.log_prob, call.log_prob, static_cast<size_t>(host.images));
  fetch(host.parameters, call.parameters, places * program_.parameters);
  if (failure == none) return std::nullopt;
  const unsigned long long pixel = failure >> 24;
  const auto channel = static_cast<int>(pixel % program_.channels), col = static_cast<int>(pixel / program_.channels % program_.width);
  return Failure{static_cast<int>(failure & 0xffffff), static_cast<int>(pixel / program_.channels / program_.width), col, channel};
}

}  // namespace pixelfast::cuda
