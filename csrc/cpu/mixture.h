// One draw from a discretized mixture of logistics, given the pixel's channels before; formulas in pixelfast/distributions/mixture.py.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "../program.h"

namespace pixelfast {

// Its scratch belongs to one thread.
class MixtureDraw {
 public:
  MixtureDraw(const Mixture& mixture, int channels, int levels, double temperature);

  // `parameters` (P) of a pixel, and its values `pixel`, of which those before `channel` are known. `log_prob` may be null.
  // False: the parameters describe no distribution.
  bool draw(const float* parameters, const int32_t* pixel, int channel, double noise, int& value, double* log_prob);

 private:
  // As a channel has it, given those before: scale = 1 / sharpness, and a bin is 2 `half` scales wide.
  struct Component {
    double weight, mean, log_scale, sharpness, half;
  };
  // What all its bins share, for temperatures other than 1: q = exp(-half), and `inner` is the weight times 1 - q^2.
  struct Bins {
    double mean, sharpness, half, q, log_weight, log_inner, weight, inner;
  };

  double parameter(const float* parameters, int component, int kind, int colour) const;
  Component component(const float* parameters, int i, const int32_t* pixel, int channel) const;
  bool condition(const float* parameters, const int32_t* pixel, int channel);
  double log_bin(const Component& component, int value) const;
  double log_gap(const Component& component) const;
  int search(double noise) const;
  bool draw_tempered(double noise, int& value, double* log_prob);
  double log_prob_of(int value);
  void prepare_bins();
  double exponent(const Bins& component, int value) const;
  double denominator(const Bins& component, int value) const;
  double share(const Bins& component, int value) const;
  double log_mixture(int value) const;

  double axis(int value) const { return 2.0 * value / (levels_ - 1) - 1.0; }

  const Mixture mixture_;
  const int channels_, levels_;
  const double temperature_;
  std::vector<Component> components_, heavy_;  // all, and those that a draw can see
  std::vector<double> log_weights_, shares_;  // shares in the probability of a value
  // For temperatures other than 1: logarithms of the K probabilities, then both with the temperature.
  std::vector<Bins> bins_;
  std::vector<double> axis_, logs_, probabilities_;
};

}  // namespace pixelfast
