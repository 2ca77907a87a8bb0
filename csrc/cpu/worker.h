// A worker: one thread's part in a tile. It runs the tile alone, row after row, or is one of a team (arrangement.h) that
// shares its rows' instructions or runs it as a wave.
#pragma once

#include <atomic>
#include <functional>

#include "arrangement.h"
#include "executor.h"

namespace pixelfast {

// How far each worker of a team is: the last step that it has finished, and how much of a row's pixels (ahead.h). One cache
// line each.
struct alignas(64) Progress {
  std::atomic<int> step, pixels{0};
};

class Worker {
 public:
  using RowFinished = std::function<void(int)>;

  Worker(const Plan& plan, const Call& call, const Arrangement& arrangement, Tile& tile, const std::atomic<bool>& stop);

  // These return where a draw had no distribution, and leave early if `stop` is set.
  std::optional<Position> run_rows(const RowFinished& row_finished);
  // As member `member` of the team whose progress this is: its part of each row; pixels, if it is the first.
  std::optional<Position> run_parts(int member, Progress* progress, const RowFinished& row_finished);
  // As member `member` of the team whose progress this is. Rows whose values are given are run one after another.
  std::optional<Position> run_wave(int member, Progress* progress, const RowFinished& row_finished);

 private:
  // Row by row (worker.cpp).
  bool runs_known(int row) const { return Executor::may_run_known(plan_, call_) && (row < 0 || tile_.known(row)); }
  void run_row(int row);
  size_t run_sweep(size_t first);
  void run_known();
  void run_pixel_by_pixel();
  void draw_and_encode(int k, const Cell& cell);

  // Rows whose instructions a team shares (parts.cpp).
  void run_own_part(const Step& step);
  void run_helped_pixels(Progress* progress);
  void run_ahead(Progress* progress);
  void meet(Progress* progress);
  bool helps_ahead() const { return arrangement_.team > 1 && !plan_.ahead.items.empty(); }

  // Rows that overlap (wave.cpp).
  int first_wave_row() const;
  bool owns(int row) const { return arrangement_.split != Split::rows || (row - plan_.first_row) % arrangement_.team == member_; }
  template <class Use>
  void each_lane(int position, int first_row, int low, int high, Use use);
  void run_chunks(int step, int first_row);
  void run_pixels(int step, int first_row);

  // Tells the others how far this one is. Not once it has stopped: its last step may have ended early, or without a draw, and
  // what the others would read then is not there. They wait until they are stopped, too.
  void publish(std::atomic<int>& progress, int finished) const {
    if (!stopped()) progress.store(finished, std::memory_order_release);
  }
  // Until the others of the team have finished a step, or one of them so many pixels; or until this one is stopped, which
  // whoever goes on to read must ask first (waiting.cpp).
  void wait_for(const Progress* progress, int step) const;
  void wait_for_pixels(const Progress& progress, int pixels);

  bool stopped() const { return stop_.load(std::memory_order_relaxed) || failure_.has_value(); }

  const Plan& plan_;
  const Call& call_;
  const Arrangement& arrangement_;
  Tile& tile_;
  const std::atomic<bool>& stop_;
  Executor executor_;
  std::vector<Lane> lanes_;         // of a row: lanes_[row mod size]
  std::vector<Cell> cells_, ahead_;  // what a step does, and the same moved by a lead
  int member_ = 0;                  // of the team
  int seen_ = 0;                    // of the other's pixels
  std::optional<Position> failure_;
};

}  // namespace pixelfast
