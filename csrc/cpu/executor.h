// Executes instructions at some cells of a tile: gathers what they read and write, and calls the inner loops. Its scratch
// belongs to one thread.
#pragma once

#include <optional>
#include <utility>

#include "mixture.h"
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

// A part of a product that is shared with other threads: some of its taps, and of its panels those of one of several members.
struct Portion {
  int first_tap = 0, last_tap = 0;  // 0: up to the last
  int member = 0, members = 1;

  // Of so many panels: [first, last).
  std::pair<int, int> panels(int count) const { return {count * member / members, count * (member + 1) / members}; }
};

class Executor {
 public:
  // For at most `lanes` rows at once, each with at most `chunk` columns if there are several.
  Executor(const Plan& plan, const Call& call, const Tile& tile, int most_images, int lanes, int chunk);

  // Where the cells lie in the rectangle of the instruction.
  void execute(const Step& step, Cells cells, const Portion& portion = {});

  void encode(const std::vector<PlannedEncode>& encodes, const Cell& cell);
  void record(const PlannedDraw& draw, const Cell& cell);
  // At the cell's first column; gives back where there was no distribution.
  std::optional<Position> draw(const PlannedDraw& draw, const Cell& cell, Tile& tile);

  // Rows above the image, and rows whose values are given, may have an order of their own.
  static bool may_run_known(const Plan& plan, const Call& call) {
    return !plan.known_order.empty() && (plan.first_row < 0 || call.given);
  }

 private:
  void execute_on_lattice(const Step& step, Cells cells, const Portion& portion);
  void execute(const PackedProduct& product, const Step& step, Cells cells, const Portion& portion);
  void execute(const PackedFastProduct& product, const Step& step, Cells cells, const Portion& portion);
  void execute(const PackedLookup& lookup, const Step& step, Cells cells, const Portion&);
  void execute(const CompiledMap& map, const Step& step, Cells cells, const Portion&);
  void execute(const PlannedReduce& reduce, const Step& step, Cells cells, const Portion&);
  void execute(const PlannedNorm& norm, const Step& step, Cells cells, const Portion&);
  void execute(const PlannedAttention& planned, const Step& step, Cells cells, const Portion&);
  int gather_runs(const Attention& attention, size_t list);
  int gather_taps(const PackedProduct& product, const Step& step, Cell& cell, const Portion& portion);
  int gather_taps(const PackedProduct& product, const Step& step, Cells cells, const Portion& portion);
  bool draw_one(const float* parameters, size_t subpixel, int channel, double& log_prob);

  bool is_local(int slot) const { return plan_.locals.offset[plan_.slots[slot].buffer] >= 0; }
  float* start_of(int slot, const Cell& cell) const;
  // Rows of a slot: at one stride for one cell, by pointers for several.
  Rows rows(int slot, Cells cells);
  ConstRows sources(int slot, Cells cells);
  ConstRows field_rows(const FieldSlot& slot, Cells cells);
  ptrdiff_t count_rows(Cells cells) const;

  const Plan& plan_;
  const Call& call_;
  const Tile& tile_;
  AlignedFloats registers_, exps_;
  AlignedFloats locals_;  // what lives no longer than a pixel: each buffer as (places x images, features)
  size_t local_rows_;
  std::vector<double> sums_;
  std::unique_ptr<MixtureDraw> mixture_;
  std::vector<Tap> taps_;
  std::vector<MapLeaf> leaves_;
  std::vector<Span> spans_;
  std::vector<const float*> tables_;
  FastScratch fast_;
  std::vector<FastChunk> chunks_;
  std::vector<FastChunk::Source> fast_sources_;  // (chunks, grids)
  AlignedFloats scores_;
  std::vector<KeyRun> runs_;
  std::vector<float*> pointers_;  // of rows that lie at no common stride
  size_t next_pointer_ = 0;
  std::vector<Cell> live_;  // the cells of an instruction that lie in its rectangle and on its lattice
};

}  // namespace pixelfast
