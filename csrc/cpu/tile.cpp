// The loop over rows and columns. See instructions.cpp for what happens at one place of it.
#include "tile.h"

#include <algorithm>
#include <cmath>

namespace pixelfast {
namespace {

int wrap(int row, int rows) { return ((row % rows) + rows) % rows; }

size_t floats_of(const Buffer& b) { return static_cast<size_t>(b.rows) * (b.col1 - b.col0) * b.features; }

}  // namespace

Tile::Tile(const Plan& plan, const Call& call, int most_images, const std::atomic<bool>& stop)
    : plan_(plan),
      call_(call),
      stop_(stop),
      registers_(plan.most_registers * kMapBlock),
      exps_((static_cast<size_t>(plan.levels) + 63) / 64 * 64),
      sums_(static_cast<size_t>(plan.levels) / 64 + 1),
      taps_(plan.most_taps),
      leaves_(plan.most_leaves),
      spans_(plan.most_taps),
      tables_(plan.most_taps),
      bound_(plan.slots.size()),
      active_steps_(plan.channels) {
  size_t total = 0;
  for (const Buffer& buffer : plan.buffers) {
    offsets_.push_back(total);
    total += (floats_of(buffer) + 15) / 16 * 16;
  }
  storage_ = AlignedFloats(total * most_images);
  active_row_.reserve(plan.row.size());
  for (int k = 0; k < plan.channels; k++) active_steps_[k].reserve(plan.steps[k].size());
}

std::optional<Position> Tile::run(int first, int images, const std::function<void(int)>& row_finished) {
  start(first, images);
  for (int row = plan_.first_row; row < plan_.height && !stopped(); row++) {
    begin_row(row);
    execute(active_row_, plan_.col0, plan_.col1);
    if (!plan_.known_order.empty() && (row < 0 || row_known())) run_known_row();
    else run_row();
    if (row >= 0 && !stopped()) row_finished(row);
  }
  return failure_;
}

void Tile::start(int first, int images) {
  first_ = first, images_ = images;
  failure_.reset();
  storage_.clear();
  const size_t begin = subpixel(0, 0, 0, 0), end = subpixel(images, 0, 0, 0);
  if (call_.given) std::copy(call_.given + begin, call_.given + end, call_.values + begin);
  else std::fill(call_.values + begin, call_.values + end, -1);
}

void Tile::begin_row(int row) {
  row_ = row;
  for (size_t i = 0; i < plan_.buffers.size(); i++) {
    const Buffer& b = plan_.buffers[i];
    // Slots of rows above the domain were never written; those of rows below it need clearing once.
    if (row < b.domain.row1 || row >= b.domain.row1 + b.rows) continue;
    const size_t floats = static_cast<size_t>(b.col1 - b.col0) * b.features * images_;
    float* slot = storage_.data() + offsets_[i] * images_ + wrap(row, b.rows) * floats;
    std::fill(slot, slot + floats, 0.0f);
  }
  for (size_t i = 0; i < plan_.slots.size(); i++) bind(plan_.slots[i], bound_[i]);
  activate(plan_.row, active_row_);
  for (int k = 0; k < plan_.channels; k++) activate(plan_.steps[k], active_steps_[k]);
}

void Tile::bind(const Slot& slot, Bound& bound) const {
  const Buffer& b = plan_.buffers[slot.buffer];
  const int row = row_ + slot.row;
  const bool live = b.domain.row0 <= row && row < b.domain.row1;
  bound.stride = b.features;
  bound.col_stride = bound.stride * images_;
  bound.origin = static_cast<ptrdiff_t>(offsets_[slot.buffer]) * images_ + slot.channel +
                 (static_cast<ptrdiff_t>(wrap(row, b.rows)) * (b.col1 - b.col0) + slot.col - b.col0) * bound.col_stride;
  bound.col0 = b.domain.col0 - slot.col;
  bound.col1 = live ? b.domain.col1 - slot.col : bound.col0;
  bound.count = slot.count;
}

void Tile::activate(const std::vector<Step>& steps, std::vector<const Step*>& active) const {
  active.clear();
  for (const Step& step : steps)
    if (step.rect.row0 <= row_ && row_ < step.rect.row1) active.push_back(&step);
}

bool Tile::row_known() const {
  if (!call_.given) return false;
  const size_t length = static_cast<size_t>(plan_.width) * plan_.channels;
  for (int i = 0; i < images_; i++) {
    const int32_t* values = call_.given + subpixel(i, row_, 0, 0);
    if (std::any_of(values, values + length, [](int32_t value) { return value < 0; })) return false;
  }
  return true;
}

void Tile::run_row() {
  for (int col = plan_.col0; col < plan_.col1 && !stopped(); col++) {
    const bool inside = row_ >= 0 && 0 <= col && col < plan_.width;
    for (int k = 0; k < plan_.channels; k++) {
      execute(active_steps_[k], col, col + 1);
      if (!inside) continue;
      draw(plan_.draws[k], col);
      if (stopped()) return;
      encode(plan_.encodes[k], col, col + 1);
    }
  }
}

void Tile::run_known_row() {
  if (row_ >= 0)
    for (const auto& encodes : plan_.encodes) encode(encodes, 0, plan_.width);
  for (const KnownItem& item : plan_.known_order) {
    if (stopped()) return;
    if (item.step) execute(*item.step, plan_.col0, plan_.col1);
    else if (row_ >= 0) record(plan_.draws[item.k], 0, plan_.width);
  }
}

void Tile::encode(const std::vector<PlannedEncode>& encodes, int col0, int col1) {
  for (const PlannedEncode& encode : encodes) {
    if (row_ < encode.rect.row0 || row_ >= encode.rect.row1) continue;
    const Bound& bound = bound_[encode.out];
    for (int col = std::max(col0, encode.rect.col0); col < std::min(col1, encode.rect.col1); col++)
      for (int i = 0; i < images_; i++) {
        const size_t value = call_.values[subpixel(i, row_, col, encode.channel)];
        std::copy_n(encode.table.data() + value * bound.count, bound.count, at(encode.out, col) + i * bound.stride);
      }
  }
}

void Tile::record(const PlannedDraw& draw, int col0, int col1) {
  if (!call_.parameters) return;
  for (int col = col0; col < col1; col++)
    for (int i = 0; i < images_; i++) {
      const float* parameters = at(draw.source, col) + i * bound_[draw.source].stride;
      std::copy_n(parameters, plan_.parameters,
                  call_.parameters + subpixel(i, row_, col, draw.channel) * plan_.parameters);
    }
}

void Tile::draw(const PlannedDraw& draw, int col) {
  record(draw, col, col + 1);
  for (int i = 0; i < images_; i++) {
    const size_t here = subpixel(i, row_, col, draw.channel);
    if (call_.values[here] >= 0) continue;
    const float* parameters = at(draw.source, col) + i * bound_[draw.source].stride;
    if (draw_one(parameters, here, i)) continue;
    failure_ = Position{first_ + i, row_, col, draw.channel};
    return;
  }
}

void Tile::take(int value, double log_prob, size_t subpixel, int image) {
  call_.values[subpixel] = value;
  if (call_.log_prob) call_.log_prob[first_ + image] += log_prob;
}

// False: the parameters describe no distribution.
bool Tile::draw_one(const float* parameters, size_t subpixel, int image) {
  const double noise = call_.noise[subpixel];
  if (plan_.head == Distribution::categorical) {
    DrawCall call{parameters,   plan_.parameters, static_cast<float>(std::min(1.0 / call_.temperature, 1e38)), noise,
                  exps_.data(), sums_.data(),     0, 0.0};
    if (!plan_.kernels->draw(call)) return false;
    take(call.value, call.log_prob, subpixel, image);
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
  take(one, one ? log_one : log_zero, subpixel, image);
  return true;
}

}  // namespace pixelfast
