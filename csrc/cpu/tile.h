// A tile: some images of a call, run from the first row to the last by one thread, in buffers of its own.
//
// A buffer is [ring row][column][image of the tile][feature], so the rows of a product are images at one column, or
// columns x images: both lie at one stride, and a tap is a constant offset.
#pragma once

#include <atomic>
#include <functional>
#include <optional>

#include "plan.h"

namespace pixelfast {

// A field's numbers: strides are 0 along the axes where there is one for all.
struct FieldView {
  const float* data;
  ptrdiff_t image_stride, row_stride, col_stride;
};

// Arrays are (N, H, W, C), as in engines/request.py; those that may be null are marked.
struct Call {
  int images;
  const float* noise;
  const int32_t* given;  // or null
  int32_t* values;
  std::vector<FieldView> fields;
  double temperature;
  double* log_prob;   // (N,), or null
  float* parameters;  // (N, H, W, C, P), or null
  int threads;
  bool by_row;  // report rows: all images advance together
};

struct Position {
  int image, row, col, channel;
};

class Tile {
 public:
  Tile(const Plan& plan, const Call& call, int most_images, const std::atomic<bool>& stop);

  // Images [first, first + images). Returns where a draw had no distribution. Leaves early if `stop` is set.
  std::optional<Position> run(int first, int images, const std::function<void(int)>& row_finished);

 private:
  // Where a slot's channels lie in the current row: image i at column c has them from
  // storage[origin + c * col_stride + i * stride] on. For columns outside [col0, col1) they are zeros.
  struct Bound {
    ptrdiff_t origin, col_stride, stride;
    int col0, col1, count;
  };

  void start(int first, int images);
  void begin_row(int row);
  void run_row();
  void run_known_row();
  bool row_known() const;
  void bind(const Slot& slot, Bound& bound) const;
  void activate(const std::vector<Step>& steps, std::vector<const Step*>& active) const;

  void execute(const std::vector<const Step*>& steps, int col0, int col1);
  void execute(const Step& step, int col0, int col1);
  void execute(const PackedProduct& product, const Step& step, int col0, int col1);
  void execute(const PackedLookup& lookup, const Step& step, int col0, int col1);
  void execute(const CompiledMap& map, const Step& step, int col0, int col1);
  void execute(const PlannedReduce& reduce, const Step& step, int col0, int col1);
  void execute(const PlannedNorm& norm, const Step& step, int col0, int col1);
  int gather_taps(const PackedProduct& product, const Step& step, int col, int& end);

  void encode(const std::vector<PlannedEncode>& encodes, int col0, int col1);
  void record(const PlannedDraw& draw, int col0, int col1);
  void draw(const PlannedDraw& draw, int col);
  bool draw_one(const float* parameters, size_t subpixel, int image);
  void take(int value, double log_prob, size_t subpixel, int image);

  float* at(int slot, int col) const { return storage_.data() + bound_[slot].origin + col * bound_[slot].col_stride; }
  size_t subpixel(int image, int row, int col, int channel) const {
    return ((static_cast<size_t>(first_ + image) * plan_.height + row) * plan_.width + col) * plan_.channels + channel;
  }
  bool stopped() const { return stop_.load(std::memory_order_relaxed) || failure_.has_value(); }

  const Plan& plan_;
  const Call& call_;
  const std::atomic<bool>& stop_;
  std::vector<size_t> offsets_;  // of each buffer, for one image
  AlignedFloats storage_, registers_, exps_;
  std::vector<double> sums_;
  std::vector<Tap> taps_;
  std::vector<MapLeaf> leaves_;
  std::vector<Span> spans_;
  std::vector<const float*> tables_;
  std::vector<Bound> bound_;  // of each slot of the plan
  std::vector<const Step*> active_row_;
  std::vector<std::vector<const Step*>> active_steps_;
  int first_ = 0, images_ = 0, row_ = 0;
  std::optional<Position> failure_;
};

}  // namespace pixelfast
