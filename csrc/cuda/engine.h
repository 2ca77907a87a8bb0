// The cluster kernel from the host's side. No header of CUDA is needed to use it (cuda/kernel.cu has the rest).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../program.h"
#include "plan.h"

namespace pixelfast::cuda {

// What is wrong with the device or the driver, in CUDA's words.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An empty text if there is a device that the kernel can run on, otherwise why there is none.
std::string unavailable();

// A field's array on the host: sizes (images or 1, rows or 1, columns or 1, features).
struct HostField {
  const float* values;
  int64_t sizes[4];
};

// Arrays on the host, as in engines/request.py; nullptr where not wanted or not given.
struct HostCall {
  int images;
  double temperature;
  const float* noise;
  const int32_t* given;
  std::vector<HostField> fields;
  int32_t* values;
  double* log_prob;
  float* parameters;
};

struct Failure {
  int image, row, col, channel;
};

class Engine {
 public:
  explicit Engine(Program program);
  // Where parameters describe no distribution, the first such place. Throws DeviceError, Unsupported.
  std::optional<Failure> sample(const HostCall& call) const;

 private:
  Program program_;
};

}  // namespace pixelfast::cuda
