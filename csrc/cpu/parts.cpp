// Rows whose instructions a team shares: each member computes a part of what is known when the row starts; the first one runs
// the pixels, and the second one helps it ahead (ahead.h).
#include <algorithm>

#include "worker.h"

namespace pixelfast {

// Every instruction of a row may read what the others wrote by the one before.
std::optional<Position> Worker::run_parts(int member, Progress* progress, const RowFinished& row_finished) {
  member_ = member;
  publish(progress[member].step, 0);
  for (int row = plan_.first_row; row < plan_.height && !stopped(); row++) {
    const bool known = runs_known(row);
    if (member == 0) tile_.begin_row(row);
    tile_.bind(row, lanes_[0]);
    progress[member].pixels.store(0, std::memory_order_relaxed);
    seen_ = 0;
    meet(progress);
    for (size_t i = 0; i < plan_.row.size();) {
      if (stopped()) break;
      if (const int sweep = plan_.row[i].sweep) {  // columns that wait for each other cannot be shared
        if (member == 0) run_sweep(i);
        while (i < plan_.row.size() && plan_.row[i].sweep == sweep) i++;
      } else {
        run_own_part(plan_.row[i++]);
      }
      meet(progress);
    }
    if (member == 0 && known) run_known();
    else if (member == 0 && helps_ahead()) run_helped_pixels(progress);
    else if (member == 0) run_pixel_by_pixel();
    else if (member == 1 && !known && helps_ahead()) run_ahead(progress);
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
  if (auto* product = std::get_if<PackedFastProduct>(&step.body)) panels = product->panels_of_point();
  if (panels >= arrangement_.team) {
    Portion portion;
    portion.member = member_, portion.members = arrangement_.team;
    executor_.execute(step, {&all, 1}, portion);
    return;
  }
  const int columns = all.col1 - all.col0, cells = (columns + plan_.cell - 1) / plan_.cell;
  const auto edge = [&](int member) {  // between cells of a fast product: elsewhere rows cannot be cut
    return all.col0 + std::min(columns, cells * member / arrangement_.team * plan_.cell);
  };
  const Cell own{&lanes_[0], edge(member_), edge(member_ + 1), 0};
  if (own.col0 < own.col1) executor_.execute(step, {&own, 1});  // there may be fewer cells than threads
}

// Waits until all members are here.
void Worker::meet(Progress* progress) {
  const int here = progress[member_].step.load(std::memory_order_relaxed) + 1;
  publish(progress[member_].step, here);
  wait_for(progress, here);
}

// Pixel by pixel, where the second member has added the taps to the left, and hears how far this one is.
void Worker::run_helped_pixels(Progress* progress) {
  const Ahead& ahead = plan_.ahead;
  const int items = static_cast<int>(ahead.items.size());
  for (int col = plan_.col0; col < plan_.col1 && !stopped(); col++) {
    const Cell here{&lanes_[0], col, col + 1, 0};
    int time = 0;
    const auto tell = [&] {
      time++;
      if (ahead.waited_for[time]) publish(progress[0].pixels, (col - plan_.col0) * ahead.times() + time);
    };
    for (int k = 0; k < plan_.channels && !stopped(); k++) {
      for (const Step& step : plan_.steps[k]) {
        Portion portion;
        if (const int item = ahead.item_of[time]; item >= 0) {
          wait_for_pixels(progress[1], (col - plan_.col0) * items + item + 1);
          portion.first_tap = ahead.items[item].taps;
        }
        executor_.execute(step, {&here, 1}, portion);
        tell();
      }
      draw_and_encode(k, here);
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
      Portion portion;
      portion.last_tap = item.taps;
      executor_.execute(plan_.steps[item.step][item.index], {&here, 1}, portion);
      publish(progress[1].pixels, ++done);
    }
  }
}

}  // namespace pixelfast
