#include "tile.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace pixelfast {
namespace {

int wrap(int row, int rows) { return ((row % rows) + rows) % rows; }

}  // namespace

Tile::Tile(const Plan& plan, const Call& call, int most_images, int more_rows)
    : plan_(plan), call_(call), more_rows_(more_rows) {
  size_t total = 0;
  for (size_t i = 0; i < plan.buffers.size(); i++) {
    const Buffer& b = plan.buffers[i];
    offsets_.push_back(total);
    if (is_stored(i)) total += (static_cast<size_t>(ring_rows(b)) * (b.col1 - b.col0) * b.features + 15) / 16 * 16;
  }
  stored_ = total;
  if (more_rows == 0) total += plan.row_scratch.floats;
  storage_ = plan.pool.take(total * most_images);
  if (call.log_prob) log_prob_.resize(static_cast<size_t>(most_images) * plan.height);
}

Tile::~Tile() { plan_.pool.give_back(std::move(storage_)); }

void Tile::start(int first, int images) {
  first_ = first, images_ = images;
  std::fill_n(storage_.data(), stored_ * images, 0.0f);
  const size_t begin = subpixel(0, 0, 0, 0), end = subpixel(images, 0, 0, 0);
  if (call_.given) std::copy(call_.given + begin, call_.given + end, call_.values + begin);
  else std::fill(call_.values + begin, call_.values + end, -1);
  std::fill(log_prob_.begin(), log_prob_.end(), 0.0);
}

void Tile::undrawn(int row, int col) {
  throw std::logic_error("a value at row " + std::to_string(row) + ", column " + std::to_string(col) +
                         " was read before it was drawn: this is a bug of the native engine");
}

void Tile::finish() {
  if (!call_.log_prob) return;
  for (int i = 0; i < images_; i++) {
    const double* rows = log_prob_.data() + static_cast<size_t>(i) * plan_.height;
    call_.log_prob[first_ + i] = std::accumulate(rows, rows + plan_.height, 0.0);
  }
}

void Tile::begin_row(int row) {
  for (size_t i = 0; i < plan_.buffers.size(); i++) {
    const Buffer& b = plan_.buffers[i];
    if (!is_stored(i)) continue;
    // Slots of rows above the domain were never written; those of rows below it need clearing once.
    if (row < b.domain.row1 || row >= b.domain.row1 + ring_rows(b)) continue;
    const size_t floats = static_cast<size_t>(b.col1 - b.col0) * b.features * images_;
    float* slot = storage_.data() + offsets_[i] * images_ + wrap(row, ring_rows(b)) * floats;
    std::fill(slot, slot + floats, 0.0f);
  }
}

void Tile::bind(int row, Lane& lane) const {
  lane.row = row;
  lane.bound.resize(plan_.slots.size());
  for (size_t i = 0; i < plan_.slots.size(); i++) {
    const Slot& slot = plan_.slots[i];
    if (plan_.locals.offset[slot.buffer] < 0) bind(slot, row + slot.row, lane.bound[i]);
    else lane.bound[i] = Bound{nullptr, 0, plan_.buffers[slot.buffer].features, plan_.col0, plan_.col1, slot.count};
  }
}

void Tile::bind(const Slot& slot, int row, Bound& bound) const {
  const Buffer& b = plan_.buffers[slot.buffer];
  const bool live = b.domain.row0 <= row && row < b.domain.row1;
  bound.stride = b.features;
  bound.col_stride = bound.stride * images_;
  const bool stored = is_stored(slot.buffer);
  const size_t start = stored ? offsets_[slot.buffer] : stored_ + plan_.row_scratch.offset[slot.buffer];
  const ptrdiff_t ring_row = stored ? wrap(row, ring_rows(b)) : 0;
  bound.origin = storage_.data() + static_cast<ptrdiff_t>(start) * images_ + slot.channel +
                 (ring_row * (b.col1 - b.col0) + slot.col - b.col0) * bound.col_stride;
  bound.col0 = b.domain.col0 - slot.col;
  bound.col1 = live ? b.domain.col1 - slot.col : bound.col0;
  bound.count = slot.count;
}

const float* Tile::at(const Cache& cache, int row, int col) const {
  const Buffer& b = plan_.buffers[cache.buffer];
  const ptrdiff_t column = static_cast<ptrdiff_t>(wrap(row, ring_rows(b))) * (b.col1 - b.col0) + col - b.col0;
  return storage_.data() + static_cast<ptrdiff_t>(offsets_[cache.buffer] + column * b.features) * images_ + cache.channel;
}

bool Tile::known(int row) const {
  if (!call_.given) return false;
  const size_t length = static_cast<size_t>(plan_.width) * plan_.channels;
  for (int i = 0; i < images_; i++) {
    const int32_t* values = call_.given + subpixel(i, row, 0, 0);
    if (std::any_of(values, values + length, [](int32_t value) { return value < 0; })) return false;
  }
  return true;
}

}  // namespace pixelfast
