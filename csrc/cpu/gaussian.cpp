// Mixtures of Gaussians over consecutive integers; formulas in pixelfast/distributions/gaussian.py.
#include "mixture_impl.h"

namespace pixelfast {
namespace {

constexpr double kSqrtHalf = 0.70710678118654752440, kHalfLog2Pi = 0.91893853320467274178;
constexpr double kTwoBySqrtPi = 1.12837916709551257390;
// Bins of less than `kNarrow` half scales, over which the density changes by less than exp(2 kFlat), have a series.
constexpr double kNarrow = 0.05, kFlat = 0.1;

double upper_tail(double t) { return 0.5 * std::erfc(t * kSqrtHalf); }

// Q(t) exp(t^2 / 2) of the upper tail Q, t >= 0; where the product loses digits, by the asymptotic series of erfc.
double scaled_tail(double t) {
  const double x = t * kSqrtHalf;
  if (x < 12.0) return 0.5 * std::erfc(x) * std::exp(x * x);
  const double y = 0.5 / (x * x);
  double sum = 1.0;
  for (int n = 8; n > 0; n--) sum = 1.0 - (2 * n - 1) * y * sum;
  return 0.25 * kTwoBySqrtPi / x * sum;
}

class Gaussian {
 public:
  // scale = 1 / sharpness
  struct Component {
    double weight, mean, log_scale, sharpness;
  };
  struct Bins : Component {
    double log_weight;
  };

  explicit Gaussian(const MixtureShape& shape) : mixture_(shape.mixture), levels_(shape.levels) {}

  double log_weight(const float* parameters, int i, const int32_t*, int) const {
    return mixture_.weights < 0 ? 0.0 : parameter(parameters, mixture_, mixture_.weights, i);
  }

  Component component(const float* parameters, int i, const int32_t*, int) const {
    Component made{};
    made.mean = parameter(parameters, mixture_, mixture_.means, i);
    const double scale = parameter(parameters, mixture_, mixture_.scales, i);
    const double log_scale = mixture_.log_scales ? scale : scale > 0.0 ? std::log(scale) : -INFINITY;
    made.log_scale = std::max(log_scale, static_cast<double>(mixture_.log_scale_min));
    made.sharpness = std::exp(-made.log_scale);
    return made;
  }

  double log_bin(const Component& c, int value) const {
    const double x = edge(value);
    return log_density(c, x, value) + std::log(factor(c, x, value));
  }

  // The integer that a value stands for.
  double edge(int value) const { return static_cast<double>(value) + mixture_.offset; }

  double below(const Component& c, double x) const { return upper_tail((c.mean - x - 0.5) * c.sharpness); }

  Bins bins(const Component& c, double log_weight) const { return {c, log_weight}; }

  double exponent(const Bins& c, double x, int value) const { return c.log_weight + log_density(c, x, value); }

  double denominator(const Bins& c, double x, int value) const { return 1.0 / factor(c, x, value); }

  double share(const Bins& c, double x, int value) const {
    return std::exp(exponent(c, x, value)) * factor(c, x, value);
  }

 private:
  // P(value | component) = exp(log_density) * factor. In units of scales, z is the distance to the mean, h half of the width.
  double log_density(const Component& c, double x, int value) const {
    const double apart = (x - c.mean) * c.sharpness, z = std::fabs(apart), h = 0.5 * c.sharpness;
    if (is_end(value)) {
      const double t = std::min(0.0, value == 0 ? apart + h : h - apart);
      return -0.5 * t * t;
    }
    if (is_narrow(z, h)) return -c.log_scale - 0.5 * z * z - kHalfLog2Pi;
    return z < h ? 0.0 : -0.5 * (z - h) * (z - h);
  }

  double factor(const Component& c, double x, int value) const {
    const double apart = (x - c.mean) * c.sharpness, z = std::fabs(apart), h = 0.5 * c.sharpness;
    if (is_end(value)) {
      const double t = value == 0 ? apart + h : h - apart;
      return t < 0.0 ? scaled_tail(-t) : 1.0 - upper_tail(t);
    }
    if (is_narrow(z, h)) {
      const double a = z * z, b = h * h;
      return 1.0 + b * ((a - 1) / 6 + b * ((a * (a - 6) + 3) / 120 + b * (a * (a * (a - 15) + 45) - 15) / 5040));
    }
    if (z < h) return 1.0 - upper_tail(h - z) - upper_tail(h + z);
    return scaled_tail(z - h) - std::exp(-2 * z * h) * scaled_tail(z + h);
  }

  bool is_end(int value) const { return value == 0 || value == levels_ - 1; }
  static bool is_narrow(double z, double h) { return h < kNarrow && z * h < kFlat; }

  const Mixture mixture_;
  const int levels_;
};

}  // namespace

std::unique_ptr<MixtureDraw> mixture_of_gaussians(const MixtureShape& shape, double temperature) {
  return std::make_unique<MixtureOf<Gaussian>>(shape, temperature);
}

}  // namespace pixelfast
