// Rows that overlap: step by step through the wave of pixelfast/lowering/wavefront.py, alone or as one of a team.
#include <algorithm>

#include "worker.h"

namespace pixelfast {
namespace {

int floor_div(int a, int b) { return a / b - (a % b < 0); }

}  // namespace

// The first row that has anything to draw, or none that can run at once.
int Worker::first_wave_row() const {
  if (plan_.known_order.empty()) return plan_.first_row;
  int row = std::min(plan_.first_row, 0);
  while (row < plan_.height && (row < 0 || tile_.known(row))) row++;
  return row;
}

std::optional<Position> Worker::run_wave(int member, Progress* progress, const RowFinished& row_finished) {
  const Arrangement& a = arrangement_;
  member_ = member;
  const int first_row = first_wave_row();
  const int begin = first_row * a.skew + plan_.col0 - plan_.most_lead - (a.chunk - 1);
  const int end = (plan_.height - 1) * a.skew + plan_.col1;
  if (member == 0) {
    for (int row = plan_.first_row; row < first_row && !stopped(); row++) {
      run_row(row);
      if (row >= 0 && !stopped()) row_finished(row);
    }
  }
  publish(progress[member].step, begin - 1);
  for (Lane& lane : lanes_) lane.row = plan_.first_row - 1;
  for (int step = begin; step < end && !stopped(); step++) {
    wait_for(progress, std::max(step - a.lag, begin - 1));
    if (stopped()) break;
    run_chunks(step, first_row);
    run_pixels(step, first_row);
    publish(progress[member].step, step);
    // The row that ended with this step.
    if (const int row = floor_div(step + 1 - plan_.col1, a.skew);
        row >= 0 && (step + 1 - plan_.col1) % a.skew == 0 && owns(row) && !stopped())
      row_finished(row);
  }
  if (!stopped()) row_finished(plan_.height - 1);
  return failure_;
}

// Lanes of rows that this worker runs, among those for which the step's column lies in [low, high).
template <class Use>
void Worker::each_lane(int position, int first_row, int low, int high, Use use) {
  const int top = std::max(first_row, floor_div(position - high, arrangement_.skew) + 1);
  const int bottom = std::min(plan_.height - 1, floor_div(position - low, arrangement_.skew));
  for (int row = top; row <= bottom; row++) {
    if (!owns(row)) continue;
    Lane& lane = lanes_[(row - plan_.first_row) % lanes_.size()];
    use(lane, row, position - row * arrangement_.skew);
  }
}

// What is known when a row starts, a chunk of columns ahead of its pixels. All rows have their chunks in the same steps, so
// that a product meets all of them.
void Worker::run_chunks(int step, int first_row) {
  const Arrangement& a = arrangement_;
  if (modulo(step - plan_.col0, a.chunk) != 0) return;
  const int start = plan_.col0 - plan_.most_lead - (a.chunk - 1);
  cells_.clear();
  each_lane(step, first_row, start, plan_.col1, [&](Lane& lane, int row, int col) {
    if (lane.row != row) {
      tile_.begin_row(row);
      tile_.bind(row, lane);
    }
    cells_.push_back({&lane, col, col + a.chunk, 0});
  });
  if (cells_.empty()) return;
  for (size_t i = 0; i < plan_.row.size(); i++) {
    const int lead = plan_.leads[i];
    ahead_.assign(cells_.begin(), cells_.end());
    for (Cell& cell : ahead_) cell.col0 += lead, cell.col1 += lead;
    executor_.execute(plan_.row[i], {ahead_.data(), static_cast<int>(ahead_.size())});
  }
}

void Worker::run_pixels(int step, int first_row) {
  cells_.clear();
  each_lane(step, first_row, plan_.col0, plan_.col1, [&](Lane& lane, int row, int col) {
    if (lane.row != row) tile_.bind(row, lane);
    cells_.push_back({&lane, col, col + 1, static_cast<int>(cells_.size())});
  });
  if (cells_.empty()) return;
  for (int k = 0; k < plan_.channels; k++) {
    for (const Step& instruction : plan_.steps[k])
      executor_.execute(instruction, {cells_.data(), static_cast<int>(cells_.size())});
    for (const Cell& cell : cells_) {
      draw_and_encode(k, cell);
      if (stopped()) return;
    }
  }
}

}  // namespace pixelfast
