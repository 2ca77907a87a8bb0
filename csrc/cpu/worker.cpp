// The loops over rows and columns. See instructions.cpp for what happens at one place, wave.cpp for rows that overlap.
#include "worker.h"

#include <algorithm>

namespace pixelfast {

Worker::Worker(const Plan& plan, const Call& call, const Arrangement& arrangement, Tile& tile,
               const std::atomic<bool>& stop)
    : plan_(plan),
      call_(call),
      arrangement_(arrangement),
      tile_(tile),
      stop_(stop),
      registers_(plan.most_registers * kMapBlock),
      exps_((static_cast<size_t>(plan.levels) + 63) / 64 * 64),
      sums_(static_cast<size_t>(plan.levels) / 64 + 1),
      taps_(plan.most_taps),
      leaves_(plan.most_leaves),
      spans_(plan.most_taps),
      tables_(plan.most_taps),
      rounded_(plan.most_pairs, plan.most_taps),
      lanes_(arrangement.wave ? arrangement.rows_in_flight + 1 : 1) {
  // Several cells need pointers to the rows of every slot; one cell only for fields, which may lie at no stride.
  const size_t columns = plan.col1 - plan.col0, lanes = lanes_.size();
  const size_t one = (plan.most_leaves + 1) * columns;
  const size_t several = (std::max(plan.most_taps, plan.most_leaves) + 2) * lanes * arrangement.chunk;
  pointers_.resize(std::max(one, arrangement.wave ? several : 0) * arrangement.images);
  for (Lane& lane : lanes_) lane.bound.reserve(plan.slots.size());
  local_rows_ = (may_run_known() ? std::max(columns, lanes) : lanes) * arrangement.images;
  locals_ = AlignedFloats(plan.locals.floats * local_rows_);
  cells_.reserve(lanes), ahead_.reserve(lanes), live_.reserve(lanes);
  for (const Step& step : plan.row)
    if (const auto* product = std::get_if<PackedFastProduct>(&step.body)) fast_.reserve(*product, *plan.kernels, kFastRows);
  chunks_.resize(kFastRows), fast_sources_.resize(kFastRows * plan.most_taps);
}

std::optional<Position> Worker::run_rows(const RowFinished& row_finished) {
  for (int row = plan_.first_row; row < plan_.height && !stopped(); row++) {
    run_row(row);
    if (row >= 0 && !stopped()) row_finished(row);
  }
  return failure_;
}

void Worker::run_row(int row) {
  const bool known = may_run_known() && (row < 0 || tile_.known(row));
  tile_.begin_row(row);
  tile_.bind(row, lanes_[0]);
  const Cell everywhere{&lanes_[0], plan_.col0, plan_.col1, 0};
  for (const Step& step : plan_.row) {
    if (stopped()) return;
    execute(step, {&everywhere, 1});
  }
  if (known) run_known();
  else run_pixel_by_pixel();
}

// Every instruction of a row may read what the others wrote by the one before.
std::optional<Position> Worker::run_parts(int member, Progress* progress, const RowFinished& row_finished) {
  member_ = member;
  progress[member].step.store(0, std::memory_order_release);
  for (int row = plan_.first_row; row < plan_.height && !stopped(); row++) {
    const bool known = may_run_known() && (row < 0 || tile_.known(row));
    if (member == 0) tile_.begin_row(row);
    tile_.bind(row, lanes_[0]);
    progress[member].pixels.store(0, std::memory_order_relaxed);
    seen_ = 0;
    meet(progress);
    for (const Step& step : plan_.row) {
      if (stopped()) break;
      run_own_part(step);
      meet(progress);
    }
    if (member == 0 && known) run_known();
    if (member == 0 && !known) run_pixel_by_pixel(helps_ahead() ? progress : nullptr);
    if (member == 1 && !known && helps_ahead()) run_ahead(progress);
    meet(progress);
    if (row >= 0 && !stopped()) row_finished(row);
  }
  return failure_;
}

// A share of the outputs of a product, so that each thread reads its own weights only; else a share of the columns.
void Worker::run_own_part(const Step& step) {
  const Cell all{&lanes_[0], step.rect.col0, step.rect.col1, 0};
  int panels = 0;
  if (auto* product = std::get_if<PackedProduct>(&step.body)) panels = static_cast<int>(product->panels.size());
  if (auto* product = std::get_if<PackedFastProduct>(&step.body))
    panels = product->panels_of_point();
  if (panels >= arrangement_.team) {
    parts_ = arrangement_.team;
    execute(step, {&all, 1});
    parts_ = 1;
    return;
  }
  const int columns = all.col1 - all.col0, cells = (columns + plan_.cell - 1) / plan_.cell;
  const auto edge = [&](int member) {  // between cells of a fast product: elsewhere rows cannot be cut
    return all.col0 + std::min(columns, cells * member / arrangement_.team * plan_.cell);
  };
  const Cell own{&lanes_[0], edge(member_), edge(member_ + 1), 0};
  execute(step, {&own, 1});
}

std::pair<int, int> Worker::own_panels(int panels) const {
  if (parts_ == 1) return {0, panels};
  return {panels * member_ / parts_, panels * (member_ + 1) / parts_};
}

// Waits until all members are here.
void Worker::meet(Progress* progress) {
  const int here = progress[member_].step.load(std::memory_order_relaxed) + 1;
  progress[member_].step.store(here, std::memory_order_release);
  wait_for(progress, here);
}

void Worker::run_pixel_by_pixel(Progress* helped) {
  const Lane& lane = lanes_[0];
  const Ahead& ahead = plan_.ahead;
  const int items = static_cast<int>(ahead.items.size());
  for (int col = plan_.col0; col < plan_.col1 && !stopped(); col++) {
    const bool inside = lane.row >= 0 && 0 <= col && col < plan_.width;
    const Cell here{&lane, col, col + 1, 0};
    int time = 0;
    const auto tell = [&] {
      time++;
      if (helped && ahead.waited_for[time])
        helped[0].pixels.store((col - plan_.col0) * ahead.times() + time, std::memory_order_release);
    };
    for (int k = 0; k < plan_.channels; k++) {
      for (const Step& step : plan_.steps[k]) {
        if (const int item = helped ? ahead.item_of[time] : -1; item >= 0) {
          wait_for_pixels(helped[1], (col - plan_.col0) * items + item + 1);
          first_tap_ = ahead.items[item].taps;
        }
        execute(step, {&here, 1});
        first_tap_ = 0;
        tell();
      }
      if (inside) {
        draw(plan_.draws[k], here);
        if (stopped()) return;
        encode(plan_.encodes[k], here);
      }
      tell();
    }
  }
}

// The part of each pixel's products that reads the pixels to its left, as soon as the first thread has written them.
void Worker::run_ahead(Progress* progress) {
  const Ahead& ahead = plan_.ahead;
  int done = 0;
  for (int col = plan_.col0; col < plan_.col1 && !stopped(); col++) {
    const Cell here{&lanes_[0], col, col + 1, 0};
    for (const Ahead::Item& item : ahead.items) {
      if (item.after > 0 && col > plan_.col0)
        wait_for_pixels(progress[0], (col - 1 - plan_.col0) * ahead.times() + item.after);
      if (stopped()) return;
      last_tap_ = item.taps;
      execute(plan_.steps[item.step][item.index], {&here, 1});
      last_tap_ = 0;
      progress[1].pixels.store(++done, std::memory_order_release);
    }
  }
}

void Worker::run_known() {
  const Lane& lane = lanes_[0];
  const Cell everywhere{&lane, plan_.col0, plan_.col1, 0}, image{&lane, 0, plan_.width, -plan_.col0};
  if (lane.row >= 0)
    for (const auto& encodes : plan_.encodes) encode(encodes, image);
  for (const KnownItem& item : plan_.known_order) {
    if (stopped()) return;
    if (item.step) execute(*item.step, {&everywhere, 1});
    else if (lane.row >= 0) record(plan_.draws[item.k], image);
  }
}

}  // namespace pixelfast
