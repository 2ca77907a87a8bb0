// Products with weights in pairs of bfloat16: their inputs are rounded first, once for all panels.
#pragma once

#include <vector>

#include "../aligned.h"
#include "ops.h"

namespace pixelfast {

// What such products need while they run; one for each thread.
class RoundedInputs {
 public:
  // Room for products of up to `most_pairs` pairs and `most_taps` taps.
  RoundedInputs(size_t most_pairs, size_t most_taps);

  void run(ProductCall call, const Kernels& kernels);

 private:
  AlignedFloats pairs_;  // (rows of a chunk, pairs of all taps)
  std::vector<Tap> taps_;
};

}  // namespace pixelfast
