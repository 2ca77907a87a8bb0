// A channel's distribution is a mixture whose weights are the posterior given the channels before. Its distribution function
// has a closed form, so that a value is found by halving: log2 K sums of M sigmoids instead of K. All in float64, one number
// at a time: a pixel's bits are its own, and as the same for every instruction set as the C library's functions are.
#include "mixture.h"

#include <algorithm>
#include <cmath>

namespace pixelfast {
namespace {

// Components that weigh less together than this are left out when a value is looked for: far less than noise can tell.
constexpr double kUnseen = 1e-9;
// Narrower bins than this many scales have a probability of next to nothing, whose logarithm needs that of the scale.
constexpr double kNarrow = 1e-6;
// Logarithms. Of components' shares in a probability, one above `kFaint` is far from where a float64 loses digits, and those
// below `kLost` of the largest are nothing to it, even 65536 of them.
constexpr double kFaint = -600.0, kLost = -60.0;

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

}  // namespace

MixtureDraw::MixtureDraw(const Mixture& mixture, int channels, int levels, double temperature)
    : mixture_(mixture),
      channels_(channels),
      levels_(levels),
      temperature_(temperature),
      components_(mixture.components),
      log_weights_(mixture.components),
      shares_(mixture.components),
      bins_(mixture.components) {
  heavy_.reserve(mixture.components);
  if (mixture.components == 0 || temperature == 1.0) return;
  logs_.resize(levels), probabilities_.resize(levels);
  for (int k = 0; k < levels; k++) axis_.push_back(axis(k));
}

bool MixtureDraw::draw(const float* parameters, const int32_t* pixel, int channel, double noise, int& value,
                       double* log_prob) {
  if (!condition(parameters, pixel, channel)) return false;
  if (temperature_ != 1.0) return draw_tempered(noise, value, log_prob);
  value = search(noise);
  if (!log_prob) return true;
  *log_prob = log_prob_of(value);
  return !std::isnan(*log_prob);
}

// Kinds: means, log-scales, coefficients.
double MixtureDraw::parameter(const float* parameters, int component, int kind, int colour) const {
  const int kinds = channels_ == 1 ? 2 : 3, count = mixture_.components;
  if (mixture_.parameter_layout == ParameterLayout::mixture_major)
    return parameters[static_cast<ptrdiff_t>(component) * (1 + kinds * channels_) + 1 + kind * channels_ + colour];
  return parameters[static_cast<ptrdiff_t>(1 + colour * kinds + kind) * count + component];
}

MixtureDraw::Component MixtureDraw::component(const float* parameters, int i, const int32_t* pixel, int channel) const {
  Component made{};
  made.mean = parameter(parameters, i, 0, channel);
  // R -> G: a; R, G -> B: b, c, which follow each other.
  for (int before = 0; before < channel; before++)
    made.mean += std::tanh(parameter(parameters, i, 2, channel - 1 + before)) * axis(pixel[before]);
  made.log_scale = std::max(parameter(parameters, i, 1, channel), static_cast<double>(mixture_.log_scale_min));
  made.sharpness = std::exp(-made.log_scale);
  made.half = made.sharpness / (levels_ - 1);
  return made;
}

// The components of a channel; false if they make no distribution.
bool MixtureDraw::condition(const float* parameters, const int32_t* pixel, int channel) {
  const int count = mixture_.components;
  const int each = channels_ == 1 ? 3 : 10, step = mixture_.parameter_layout == ParameterLayout::mixture_major ? each : 1;
  if (!std::all_of(parameters, parameters + static_cast<ptrdiff_t>(each) * count, [](float p) { return std::isfinite(p); }))
    return false;
  double most = -INFINITY, total = 0.0;
  for (int i = 0; i < count; i++) {
    log_weights_[i] = parameters[static_cast<ptrdiff_t>(i) * step];
    for (int before = 0; before < channel; before++)
      log_weights_[i] += log_bin(component(parameters, i, pixel, before), pixel[before]);
    components_[i] = component(parameters, i, pixel, channel);
    most = std::max(most, log_weights_[i]);
  }
  for (int i = 0; i < count; i++) total += components_[i].weight = std::exp(log_weights_[i] - most);
  const double log_total = most + std::log(total);
  if (!std::isfinite(log_total)) return false;
  heavy_.clear();
  for (int i = 0; i < count; i++) {
    components_[i].weight /= total;
    log_weights_[i] -= log_total;
    if (components_[i].weight * count > kUnseen) heavy_.push_back(components_[i]);
  }
  return true;
}

// log P(value | component).
double MixtureDraw::log_bin(const Component& c, int value) const {
  const double z = (axis(value) - c.mean) * c.sharpness;
  if (value == 0) return log_sigmoid(z + c.half);
  if (value == levels_ - 1) return log_sigmoid(c.half - z);
  const Bin found = bin(z, c.half, std::exp(-c.half));
  return found.log_factor + log_gap(c) - std::log(found.denominator);
}

// log(1 - exp(-width)) of a bin.
double MixtureDraw::log_gap(const Component& c) const {
  const double width = 2.0 * c.half;
  return width < kNarrow ? std::log(2.0 / (levels_ - 1)) - c.log_scale - c.half : std::log(-std::expm1(-width));
}

// The number of values below the last whose cumulative probability is at most the noise.
int MixtureDraw::search(double noise) const {
  int low = 0, high = levels_ - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    const double edge = axis(middle);
    double below = 0.0;
    for (const Component& c : heavy_) below += c.weight * sigmoid((edge - c.mean) * c.sharpness + c.half);
    if (below <= noise) low = middle + 1;
    else high = middle;
  }
  return low;
}

double MixtureDraw::log_prob_of(int value) {
  double most = -INFINITY, total = 0.0;
  for (int i = 0; i < mixture_.components; i++) {
    shares_[i] = log_weights_[i] + log_bin(components_[i], value);
    most = std::max(most, shares_[i]);
  }
  for (const double share : shares_) total += std::exp(share - most);
  return most + std::log(total);
}

// What the bins of each component share, in `bins_`.
void MixtureDraw::prepare_bins() {
  for (int i = 0; i < mixture_.components; i++) {
    const Component& c = components_[i];
    bins_[i] = {c.mean, c.sharpness, c.half, std::exp(-c.half), log_weights_[i], log_weights_[i] + log_gap(c),
                c.weight, c.weight * -std::expm1(-2.0 * c.half)};
  }
}

// A component's share in P(value) is exp(exponent) / denominator, with a denominator within 1 .. 4.
double MixtureDraw::exponent(const Bins& c, int value) const {
  const double z = (axis_[value] - c.mean) * c.sharpness;
  if (value == 0) return c.log_weight + std::min(z + c.half, 0.0);
  if (value == levels_ - 1) return c.log_weight + std::min(c.half - z, 0.0);
  return c.log_inner - std::max(std::fabs(z) - c.half, 0.0);
}

double MixtureDraw::denominator(const Bins& c, int value) const {
  const double z = (axis_[value] - c.mean) * c.sharpness;
  if (value == 0) return 1.0 + std::exp(-std::fabs(z + c.half));
  if (value == levels_ - 1) return 1.0 + std::exp(-std::fabs(c.half - z));
  return bin(z, c.half, c.q).denominator;
}

double MixtureDraw::share(const Bins& c, int value) const {
  const double z = (axis_[value] - c.mean) * c.sharpness;
  if (value == 0) return c.weight * sigmoid(z + c.half);
  if (value == levels_ - 1) return c.weight * sigmoid(c.half - z);
  const Bin found = bin(z, c.half, c.q);
  return c.inner * found.factor / found.denominator;
}

// log P(value). Shares are summed as they are if one of them is above `kFaint`, which spares an exponential each; else over the
// largest, since a high temperature makes something of probabilities that a float64 cannot hold.
double MixtureDraw::log_mixture(int value) const {
  double most = -INFINITY, total = 0.0;
  for (const Bins& c : bins_) {
    most = std::max(most, exponent(c, value));
    if (most > kFaint) break;
  }
  if (most > kFaint) {
    for (const Bins& c : bins_) total += share(c, value);
    return std::log(total);
  }
  for (const Bins& c : bins_) {
    const double less = exponent(c, value) - most;
    if (less > kLost) total += std::exp(less) / denominator(c, value);
  }
  return most + std::log(total);
}

// All K probabilities to the power 1 / temperature, normalised.
bool MixtureDraw::draw_tempered(double noise, int& value, double* log_prob) {
  prepare_bins();
  for (int k = 0; k < levels_; k++) logs_[k] = log_mixture(k);
  const double most = *std::max_element(logs_.begin(), logs_.end());
  double total = 0.0;
  for (int k = 0; k < levels_; k++) {
    logs_[k] = (logs_[k] - most) / temperature_;
    total += probabilities_[k] = std::exp(logs_[k]);
  }
  if (!(total > 0.0 && std::isfinite(total))) return false;
  double below = 0.0;
  value = 0;
  while (value < levels_ - 1 && below + probabilities_[value] <= noise * total) below += probabilities_[value++];
  if (log_prob) *log_prob = logs_[value] - std::log(total);
  return true;
}

}  // namespace pixelfast
