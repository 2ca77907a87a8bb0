// Draws from a mixture of any family. Its distribution function has a closed form, so that a value is found by halving: log2 K
// sums of M terms instead of K. All in float64, one number at a time: a pixel's bits are its own, and as the same for every
// instruction set as the C library's functions are.
//
// A Family is made of a MixtureShape, and has
//   Component        with `weight`: a component as a channel has it, given the channels before;
//   log_weight       of a component, before all of them are made to sum to 1;
//   component        from the parameters;
//   log_bin          log P(value | component);
//   edge, below      P(at most value | component), from what all components share;
// and for temperatures other than 1, at which all K probabilities are made,
//   Bins, bins       what all bins of a component share;
//   exponent, denominator  a component's share in P(value) is exp(exponent) / denominator, which is never far from 1;
//   share            that quotient.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "mixture.h"

namespace pixelfast {

// Components that weigh less together than this are left out when a value is looked for: far less than noise can tell.
constexpr double kUnseen = 1e-9;
// Logarithms. Of components' shares in a probability, one above `kFaint` is far from where a float64 loses digits, and those
// below `kLost` of the largest are nothing to it, even 65536 of them.
constexpr double kFaint = -600.0, kLost = -60.0;

inline double parameter(const float* parameters, const Mixture& mixture, int first, int i, int channel = 0) {
  return parameters[first + static_cast<ptrdiff_t>(channel) * mixture.channel_step +
                    static_cast<ptrdiff_t>(i) * mixture.component_step];
}

template <class Family>
class MixtureOf final : public MixtureDraw {
 public:
  MixtureOf(const MixtureShape& shape, double temperature)
      : family_(shape),
        count_(shape.mixture.components),
        levels_(shape.levels),
        parameters_(shape.parameters),
        temperature_(temperature),
        components_(count_),
        log_weights_(count_),
        shares_(count_),
        bins_(count_) {
    heavy_.reserve(count_);
    if (temperature == 1.0) return;
    logs_.resize(levels_), probabilities_.resize(levels_);
    for (int k = 0; k < levels_; k++) edges_.push_back(family_.edge(k));
  }

  bool draw(const float* parameters, const int32_t* pixel, int channel, double noise, int& value,
            double* log_prob) override {
    if (!condition(parameters, pixel, channel)) return false;
    if (temperature_ != 1.0) return draw_tempered(noise, value, log_prob);
    value = search(noise);
    if (!log_prob) return true;
    *log_prob = log_prob_of(value);
    return !std::isnan(*log_prob);
  }

 private:
  using Component = typename Family::Component;
  using Bins = typename Family::Bins;

  // The components of a channel; false if they make no distribution.
  bool condition(const float* parameters, const int32_t* pixel, int channel) {
    if (!std::all_of(parameters, parameters + parameters_, [](float p) { return std::isfinite(p); })) return false;
    double most = -INFINITY, total = 0.0;
    for (int i = 0; i < count_; i++) {
      log_weights_[i] = family_.log_weight(parameters, i, pixel, channel);
      components_[i] = family_.component(parameters, i, pixel, channel);
      most = std::max(most, log_weights_[i]);
    }
    for (int i = 0; i < count_; i++) total += components_[i].weight = std::exp(log_weights_[i] - most);
    const double log_total = most + std::log(total);
    if (!std::isfinite(log_total)) return false;
    heavy_.clear();
    for (int i = 0; i < count_; i++) {
      components_[i].weight /= total;
      log_weights_[i] -= log_total;
      if (components_[i].weight * count_ > kUnseen) heavy_.push_back(components_[i]);
    }
    return true;
  }

  // The number of values below the last whose cumulative probability is at most the noise.
  int search(double noise) const {
    int low = 0, high = levels_ - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      const double edge = family_.edge(middle);
      double below = 0.0;
      for (const Component& c : heavy_) below += c.weight * family_.below(c, edge);
      if (below <= noise) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  double log_prob_of(int value) {
    double most = -INFINITY, total = 0.0;
    for (int i = 0; i < count_; i++) {
      shares_[i] = log_weights_[i] + family_.log_bin(components_[i], value);
      most = std::max(most, shares_[i]);
    }
    for (const double share : shares_) total += std::exp(share - most);
    return most + std::log(total);
  }

  // log P(value). Shares are summed as they are if one of them is above `kFaint`, which spares an exponential each; else over
  // the largest, since a high temperature makes something of probabilities that a float64 cannot hold.
  double log_mixture(int value) const {
    const double edge = edges_[value];
    double most = -INFINITY, total = 0.0;
    for (const Bins& c : bins_) {
      most = std::max(most, family_.exponent(c, edge, value));
      if (most > kFaint) break;
    }
    if (most > kFaint) {
      for (const Bins& c : bins_) total += family_.share(c, edge, value);
      return std::log(total);
    }
    for (const Bins& c : bins_) {
      const double less = family_.exponent(c, edge, value) - most;
      if (less > kLost) total += std::exp(less) / family_.denominator(c, edge, value);
    }
    return most + std::log(total);
  }

  // All K probabilities to the power 1 / temperature, normalised.
  bool draw_tempered(double noise, int& value, double* log_prob) {
    for (int i = 0; i < count_; i++) bins_[i] = family_.bins(components_[i], log_weights_[i]);
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

  const Family family_;
  const int count_, levels_, parameters_;
  const double temperature_;
  std::vector<Component> components_, heavy_;  // all, and those that a draw can see
  std::vector<double> log_weights_, shares_;  // shares in the probability of a value
  // For temperatures other than 1: logarithms of the K probabilities, then both with the temperature.
  std::vector<Bins> bins_;
  std::vector<double> edges_, logs_, probabilities_;
};

}  // namespace pixelfast
