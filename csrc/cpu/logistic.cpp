// Mixtures of logistics whose weights, for a channel, are the posterior given the channels before; formulas in
// pixelfast/distributions/mixture.py.
#include "mixture_impl.h"

namespace pixelfast {
namespace {

// Narrower bins than this many scales have a probability of next to nothing, whose logarithm needs that of the scale.
constexpr double kNarrow = 1e-6;

double log_sigmoid(double t) { return std::min(t, 0.0) - std::log1p(std::exp(-std::fabs(t))); }

double sigmoid(double t) { return 1.0 / (1.0 + std::exp(-t)); }

// sigmoid(z + h) - sigmoid(z - h) = E (1 - q^2) / (q (1 + E^2) + E (1 + q^2)), where E = exp(-|z|) and q = exp(-h), as
// factor (1 - q^2) / denominator. The larger of E and q is divided out, since both may underflow.
struct Bin {
  double factor, log_factor, denominator;
};

Bin bin(double z, double h, double q) {
  const double distance = std::fabs(z) - h, ratio = std::exp(-std::fabs(distance));
  if (distance >= 0) {
    const double far = ratio * q;
    return {ratio, -distance, (1.0 + far * far) + ratio * (1.0 + q * q)};
  }
  const double far = std::exp(-std::fabs(z));
  return {1.0, 0.0, ratio * (1.0 + far * far) + (1.0 + q * q)};
}

class Logistic {
 public:
  // scale = 1 / sharpness, and a bin is 2 `half` scales wide.
  struct Component {
    double weight, mean, log_scale, sharpness, half;
  };
  // q = exp(-half), and `inner` is the weight times 1 - q^2.
  struct Bins {
    double mean, sharpness, half, q, log_weight, log_inner, weight, inner;
  };

  explicit Logistic(const MixtureShape& shape) : mixture_(shape.mixture), levels_(shape.levels) {}

  double log_weight(const float* parameters, int i, const int32_t* pixel, int channel) const {
    double log_weight = parameter(parameters, mixture_, mixture_.weights, i);
    for (int before = 0; before < channel; before++)
      log_weight += log_bin(component(parameters, i, pixel, before), pixel[before]);
    return log_weight;
  }

  Component component(const float* parameters, int i, const int32_t* pixel, int channel) const {
    Component made{};
    made.mean = parameter(parameters, mixture_, mixture_.means, i, channel);
    // R -> G: a; R, G -> B: b, c, which follow each other.
    for (int before = 0; before < channel; before++)
      made.mean += edge(pixel[before]) *
                   std::tanh(parameter(parameters, mixture_, mixture_.coefficients, i, channel - 1 + before));
    made.log_scale = std::max(parameter(parameters, mixture_, mixture_.scales, i, channel),
                              static_cast<double>(mixture_.log_scale_min));
    made.sharpness = std::exp(-made.log_scale);
    made.half = made.sharpness / (levels_ - 1);
    return made;
  }

  double log_bin(const Component& c, int value) const {
    const double z = (edge(value) - c.mean) * c.sharpness;
    if (value == 0) return log_sigmoid(z + c.half);
    if (value == levels_ - 1) return log_sigmoid(c.half - z);
    const Bin found = bin(z, c.half, std::exp(-c.half));
    return found.log_factor + log_gap(c) - std::log(found.denominator);
  }

  // Where a value lies on the axis.
  double edge(int value) const { return 2.0 * value / (levels_ - 1) - 1.0; }

  double below(const Component& c, double x) const { return sigmoid((x - c.mean) * c.sharpness + c.half); }

  Bins bins(const Component& c, double log_weight) const {
    return {c.mean,     c.sharpness,
            c.half,     std::exp(-c.half),
            log_weight, log_weight + log_gap(c),
            c.weight,   c.weight * -std::expm1(-2.0 * c.half)};
  }

  double exponent(const Bins& c, double x, int value) const {
    const double z = (x - c.mean) * c.sharpness;
    if (value == 0) return c.log_weight + std::min(z + c.half, 0.0);
    if (value == levels_ - 1) return c.log_weight + std::min(c.half - z, 0.0);
    return c.log_inner - std::max(std::fabs(z) - c.half, 0.0);
  }

  // Within 1 .. 4.
  double denominator(const Bins& c, double x, int value) const {
    const double z = (x - c.mean) * c.sharpness;
    if (value == 0) return 1.0 + std::exp(-std::fabs(z + c.half));
    if (value == levels_ - 1) return 1.0 + std::exp(-std::fabs(c.half - z));
    return bin(z, c.half, c.q).denominator;
  }

  double share(const Bins& c, double x, int value) const {
    const double z = (x - c.mean) * c.sharpness;
    if (value == 0) return c.weight * sigmoid(z + c.half);
    if (value == levels_ - 1) return c.weight * sigmoid(c.half - z);
    const Bin found = bin(z, c.half, c.q);
    return c.inner * found.factor / found.denominator;
  }

 private:
  // log(1 - exp(-width)) of a bin.
  double log_gap(const Component& c) const {
    const double width = 2.0 * c.half;
    return width < kNarrow ? std::log(2.0 / (levels_ - 1)) - c.log_scale - c.half : std::log(-std::expm1(-width));
  }

  const Mixture mixture_;
  const int levels_;
};

}  // namespace

std::unique_ptr<MixtureDraw> mixture_of_logistics(const MixtureShape& shape, double temperature) {
  return std::make_unique<MixtureOf<Logistic>>(shape, temperature);
}

}  // namespace pixelfast
