// One draw from a discretized mixture. What all families of components share is in mixture_impl.h; a family is a file of its own,
// with its formulas: logistic.cpp.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "../program.h"

namespace pixelfast {

// Its scratch belongs to one thread.
class MixtureDraw {
 public:
  virtual ~MixtureDraw() = default;

  // `parameters` (P) of a pixel, and its values `pixel`, of which those before `channel` are known. `log_prob` may be null.
  // False: the parameters describe no distribution.
  virtual bool draw(const float* parameters, const int32_t* pixel, int channel, double noise, int& value,
                    double* log_prob) = 0;
};

struct MixtureShape {
  Mixture mixture;
  int channels, levels, parameters;
};

std::unique_ptr<MixtureDraw> mixture_of_logistics(const MixtureShape& shape, double temperature);
std::unique_ptr<MixtureDraw> mixture_of_gaussians(const MixtureShape& shape, double temperature);

// Null for heads that are no mixtures.
std::unique_ptr<MixtureDraw> make_mixture(Distribution head, const MixtureShape& shape, double temperature);

}  // namespace pixelfast
