// A tile: some images of a call that run together, in buffers of their own.
//
// A buffer is [ring row][column][image of the tile][feature], so the rows of a product are images at one column, or
// columns x images: both lie at one stride, and a tap is a constant offset.
#pragma once

#include <vector>

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

// Where a slot's channels lie in one row: image i at column c has them from origin + c * col_stride + i * stride on.
// For columns outside [col0, col1) they are zeros. Without an origin where they live no longer than a pixel (locals.h).
struct Bound {
  float* origin;
  ptrdiff_t col_stride, stride;
  int col0, col1, count;

  float* at(int col) const { return origin + col * col_stride; }
};

// A row in flight: all slots of the plan, seen from it.
struct Lane {
  int row = 0;
  std::vector<Bound> bound;
};

class Tile {
 public:
  // `more_rows` in every buffer, for rows that are in flight together.
  Tile(const Plan& plan, const Call& call, int most_images, int more_rows);

  ~Tile();
  Tile(const Tile&) = delete;
  Tile& operator=(const Tile&) = delete;

  // Images [first, first + images) of the call, from the beginning.
  void start(int first, int images);
  // Zeros in the slots of a row that lies outside a buffer's domain. Before anything of the row is written.
  void begin_row(int row);
  void bind(int row, Lane& lane) const;
  // Whether all values of a row are given.
  bool known(int row) const;
  // Log-probabilities are summed by rows, so that the total does not depend on which thread ran which row.
  void add_log_prob(int image, int row, double log_prob) { log_prob_[image * plan_.height + row] += log_prob; }
  // After the last row.
  void finish();

  // Where a cache's channels stand for the first image, at a row and column of its buffer.
  const float* at(const Cache& cache, int row, int col) const;

  int first() const { return first_; }
  int images() const { return images_; }
  // The drawn or given value of a sub-pixel, as a row of look-up tables. A program is validated to read no other, and threads
  // wait for one another: should one read what is not drawn all the same, it is an error and no place outside a table.
  size_t value(int image, int row, int col, int channel) const {
    const auto found = static_cast<size_t>(call_.values[subpixel(image, row, col, channel)]);
    if (found >= static_cast<size_t>(plan_.levels)) undrawn(row, col);
    return found;
  }
  // Where a sub-pixel stands in the arrays of the call.
  size_t subpixel(int image, int row, int col, int channel) const {
    return ((static_cast<size_t>(first_ + image) * plan_.height + row) * plan_.width + col) * plan_.channels + channel;
  }

 private:
  [[noreturn]] static void undrawn(int row, int col);
  void bind(const Slot& slot, int row, Bound& bound) const;
  // Rows that overlap need what whole rows can share.
  bool is_stored(size_t buffer) const {
    return plan_.locals.offset[buffer] < 0 && (more_rows_ > 0 || plan_.row_scratch.offset[buffer] < 0);
  }
  int ring_rows(const Buffer& buffer) const { return buffer.rows + more_rows_; }

  const Plan& plan_;
  const Call& call_;
  const int more_rows_;
  std::vector<size_t> offsets_;  // of each buffer, for one image
  size_t stored_ = 0;            // floats of an image in rows and columns; what rows share lies behind them
  AlignedFloats storage_;
  std::vector<double> log_prob_;  // (images, rows), if they are asked for
  int first_ = 0, images_ = 0;
};

}  // namespace pixelfast
