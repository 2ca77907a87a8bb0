// Drawing values, encoding them, and recording what they were drawn from.
#include <algorithm>
#include <cmath>

#include "executor.h"

namespace pixelfast {

void Executor::encode(const std::vector<PlannedEncode>& encodes, const Cell& cell) {
  const int row = cell.lane->row;
  for (const PlannedEncode& encode : encodes) {
    if (row < encode.rect.row0 || row >= encode.rect.row1) continue;
    const Bound& bound = cell.lane->bound[encode.out];
    for (int col = std::max(cell.col0, encode.rect.col0); col < std::min(cell.col1, encode.rect.col1); col++)
      for (int i = 0; i < tile_.images(); i++) {
        const size_t value = tile_.value(i, row, col, encode.channel);
        std::copy_n(encode.table.data() + value * bound.count, bound.count, bound.at(col) + i * bound.stride);
      }
  }
}

void Executor::record(const PlannedDraw& draw, const Cell& cell) {
  if (!call_.parameters) return;
  const ptrdiff_t stride = cell.lane->bound[draw.source].stride;
  const float* parameters = start_of(draw.source, cell);
  for (int col = cell.col0; col < cell.col1; col++)
    for (int i = 0; i < tile_.images(); i++, parameters += stride)
      std::copy_n(parameters, plan_.parameters,
                  call_.parameters + tile_.subpixel(i, cell.lane->row, col, draw.channel) * plan_.parameters);
}

std::optional<Position> Executor::draw(const PlannedDraw& draw, const Cell& cell, Tile& tile) {
  record(draw, cell);
  const int row = cell.lane->row;
  const ptrdiff_t stride = cell.lane->bound[draw.source].stride;
  const float* parameters = start_of(draw.source, cell);
  for (int i = 0; i < tile_.images(); i++, parameters += stride) {
    const size_t here = tile_.subpixel(i, row, cell.col0, draw.channel);
    if (call_.values[here] >= 0) continue;
    double log_prob = 0.0;
    if (draw_one(parameters, here, draw.channel, log_prob)) {
      if (call_.log_prob) tile.add_log_prob(i, row, log_prob);
      continue;
    }
    return Position{tile_.first() + i, row, cell.col0, draw.channel};
  }
  return std::nullopt;
}

// False: the parameters describe no distribution.
bool Executor::draw_one(const float* parameters, size_t subpixel, int channel, double& log_prob) {
  const double noise = call_.noise[subpixel];
  if (mixture_) {
    int value = 0;
    double* wanted = call_.log_prob ? &log_prob : nullptr;
    if (!mixture_->draw(parameters, call_.values + subpixel - channel, channel, noise, value, wanted)) return false;
    call_.values[subpixel] = value;
    return true;
  }
  if (plan_.head == Distribution::categorical) {
    DrawCall call{parameters,   plan_.parameters, static_cast<float>(std::min(1.0 / call_.temperature, 1e38)), noise,
                  exps_.data(), sums_.data(),     0, 0.0};
    if (!plan_.kernels->draw(call)) return false;
    call_.values[subpixel] = call.value, log_prob = call.log_prob;
    return true;
  }
  double logit = *parameters;
  if (plan_.head == Distribution::bernoulli_probability) {
    if (!(logit >= 0 && logit <= 1)) return false;
    logit = std::log(logit) - std::log1p(-logit);
  } else if (!std::isfinite(logit)) {
    return false;
  }
  logit /= call_.temperature;
  const double tail = std::log1p(std::exp(-std::fabs(logit)));
  const double log_zero = std::min(-logit, 0.0) - tail, log_one = std::min(logit, 0.0) - tail;
  const bool one = noise >= std::exp(log_zero);
  call_.values[subpixel] = one, log_prob = one ? log_one : log_zero;
  return true;
}

}  // namespace pixelfast
