// The loops over rows and columns of one thread. See executor.h for what happens at one place, parts.cpp and wave.cpp for rows
// that threads share.
#include "worker.h"

namespace pixelfast {

Worker::Worker(const Plan& plan, const Call& call, const Arrangement& arrangement, Tile& tile,
               const std::atomic<bool>& stop)
    : plan_(plan),
      call_(call),
      arrangement_(arrangement),
      tile_(tile),
      stop_(stop),
      executor_(plan, call, tile, arrangement.images, arrangement.wave ? arrangement.rows_in_flight + 1 : 1, arrangement.chunk),
      lanes_(arrangement.wave ? arrangement.rows_in_flight + 1 : 1) {
  for (Lane& lane : lanes_) lane.bound.reserve(plan.slots.size());
  cells_.reserve(lanes_.size()), ahead_.reserve(lanes_.size());
}

std::optional<Position> Worker::run_rows(const RowFinished& row_finished) {
  for (int row = plan_.first_row; row < plan_.height && !stopped(); row++) {
    run_row(row);
    if (row >= 0 && !stopped()) row_finished(row);
  }
  return failure_;
}

void Worker::run_row(int row) {
  const bool known = runs_known(row);
  tile_.begin_row(row);
  tile_.bind(row, lanes_[0]);
  const Cell everywhere{&lanes_[0], plan_.col0, plan_.col1, 0};
  for (size_t i = 0; i < plan_.row.size();) {
    if (stopped()) return;
    if (plan_.row[i].sweep) i = run_sweep(i);
    else executor_.execute(plan_.row[i++], {&everywhere, 1});
  }
  if (known) run_known();
  else run_pixel_by_pixel();
}

// Instructions of a row that run together, column by column, from `first` on. Gives the one behind them.
size_t Worker::run_sweep(size_t first) {
  const int sweep = plan_.row[first].sweep, columns = plan_.col1 - plan_.col0;
  size_t last = first;
  while (last < plan_.row.size() && plan_.row[last].sweep == sweep) last++;
  for (int i = 0; i < columns && !stopped(); i++) {
    const int col = sweep > 0 ? plan_.col0 + i : plan_.col1 - 1 - i;
    const Cell here{&lanes_[0], col, col + 1, 0};
    for (size_t step = first; step < last; step++) executor_.execute(plan_.row[step], {&here, 1});
  }
  return last;
}

void Worker::run_known() {
  const Lane& lane = lanes_[0];
  const Cell everywhere{&lane, plan_.col0, plan_.col1, 0}, image{&lane, 0, plan_.width, -plan_.col0};
  if (lane.row >= 0)
    for (const auto& encodes : plan_.encodes) executor_.encode(encodes, image);
  for (const KnownItem& item : plan_.known_order) {
    if (stopped()) return;
    if (item.step) executor_.execute(*item.step, {&everywhere, 1});
    else if (lane.row >= 0) executor_.record(plan_.draws[item.k], image);
  }
}

void Worker::run_pixel_by_pixel() {
  for (int col = plan_.col0; col < plan_.col1 && !stopped(); col++) {
    const Cell here{&lanes_[0], col, col + 1, 0};
    for (int k = 0; k < plan_.channels && !stopped(); k++) {
      for (const Step& step : plan_.steps[k]) executor_.execute(step, {&here, 1});
      draw_and_encode(k, here);
    }
  }
}

// Where the cell lies in the image.
void Worker::draw_and_encode(int k, const Cell& cell) {
  if (cell.lane->row < 0 || cell.col0 < 0 || cell.col0 >= plan_.width) return;
  failure_ = executor_.draw(plan_.draws[k], cell, tile_);
  if (!failure_) executor_.encode(plan_.encodes[k], cell);
}

}  // namespace pixelfast
