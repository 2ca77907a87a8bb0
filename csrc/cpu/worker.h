// A worker: one thread's part in a tile, and its scratch. It runs the tile alone, row after row, or is one of a team that
// runs it as a wave (arrangement.h).
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <utility>

#include "arrangement.h"
#include "rounded_inputs.h"
#include "tile.h"

namespace pixelfast {

// Where an instruction runs: columns [col0, col1) of a row, for all images of the tile. What lives no longer than a pixel
// stands at place `local`, local + 1, .. for these columns.
struct Cell {
  const Lane* lane;
  int col0, col1, local;
};

struct Cells {
  const Cell* first;
  int count;

  const Cell* begin() const { return first; }
  const Cell* end() const { return first + count; }
};

// How far each worker of a team is: the last step that it has finished, and how much of a row's pixels (ahead.h). One
// cache line each.
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
  // Rows above the image, and rows whose values are given, may have an order of their own.
  bool may_run_known() const { return !plan_.known_order.empty() && (plan_.first_row < 0 || call_.given); }
  void run_row(int row);
  void run_own_part(const Step& step);
  std::pair<int, int> own_panels(int panels) const;  // of a product
  void meet(Progress* progress);
  void run_pixel_by_pixel(Progress* helped = nullptr);  // by the second of the team whose progress this is
  void run_ahead(Progress* progress);
  bool helps_ahead() const { return arrangement_.team > 1 && !arrangement_.wave && !plan_.ahead.items.empty(); }
  void wait_for_pixels(const Progress& progress, int pixels);
  void run_known();

  int first_wave_row() const;
  bool owns(int row) const { return arrangement_.split != Split::rows || (row - plan_.first_row) % arrangement_.team == member_; }
  void wait_for(const Progress* progress, int step) const;
  template <class Use>
  void each_lane(int position, int first_row, int low, int high, Use use);
  void run_chunks(int step, int first_row);
  void run_pixels(int step, int first_row);

  void execute(const Step& step, Cells cells);
  void execute(const PackedProduct& product, const Step& step, Cells cells);
  void execute(const PackedFastProduct& product, const Step& step, Cells cells);
  void execute(const PackedLookup& lookup, const Step& step, Cells cells);
  void execute(const CompiledMap& map, const Step& step, Cells cells);
  void execute(const PlannedReduce& reduce, const Step& step, Cells cells);
  void execute(const PlannedNorm& norm, const Step& step, Cells cells);
  int gather_taps(const PackedProduct& product, const Step& step, Cell& cell);
  int gather_taps(const PackedProduct& product, const Step& step, Cells cells);

  void encode(const std::vector<PlannedEncode>& encodes, const Cell& cell);
  void record(const PlannedDraw& draw, const Cell& cell);
  void draw(const PlannedDraw& draw, const Cell& cell);
  bool draw_one(const float* parameters, size_t subpixel, double& log_prob);

  bool is_local(int slot) const { return plan_.locals.offset[plan_.slots[slot].buffer] >= 0; }
  float* start_of(int slot, const Cell& cell) const;
  // Rows of a slot: at one stride for one cell, by pointers for several.
  Rows rows(int slot, Cells cells);
  ConstRows sources(int slot, Cells cells);
  ConstRows field_rows(const FieldSlot& slot, Cells cells);
  ptrdiff_t count_rows(Cells cells) const;

  bool stopped() const { return stop_.load(std::memory_order_relaxed) || failure_.has_value(); }

  const Plan& plan_;
  const Call& call_;
  const Arrangement& arrangement_;
  Tile& tile_;
  const std::atomic<bool>& stop_;
  AlignedFloats registers_, exps_;
  AlignedFloats locals_;  // what lives no longer than a pixel: each buffer as (places x images, features)
  size_t local_rows_;
  std::vector<double> sums_;
  std::vector<Tap> taps_;
  std::vector<MapLeaf> leaves_;
  std::vector<Span> spans_;
  std::vector<const float*> tables_;
  RoundedInputs rounded_;
  FastScratch fast_;
  std::vector<FastChunk> chunks_;
  std::vector<FastChunk::Source> fast_sources_;  // (chunks, grids)
  std::vector<float*> pointers_;  // of rows that lie at no common stride
  size_t next_pointer_ = 0;
  std::vector<Lane> lanes_;        // of a row: lanes_[row mod size]
  std::vector<Cell> cells_, ahead_, live_;  // what a step does, moved by a lead, and what an instruction does of it
  int member_ = 0;                  // of the team
  int first_tap_ = 0, last_tap_ = 0;  // of a product: all but the first few, or only these (0: all)
  int seen_ = 0;                    // of the other's pixels
  int parts_ = 1;                   // among which the panels of a product are shared
  std::optional<Position> failure_;
};

}  // namespace pixelfast
