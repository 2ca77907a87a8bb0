// Products over runs of neighbouring columns, by fewer multiplications.
//
// A convolution's taps on one row read neighbouring columns. Such a run is cut into pieces of up to four taps, and the
// outputs into cells of two or four neighbouring columns; then F(columns, width) of toom.h applies to each piece:
//
//   inputs:  of each cell, image and source channel, the numbers at the points (a grid; kernel fast_inputs)
//   sums:    at each point, the product of all pieces' inputs with transformed weights (kernel product)
//   outputs: of each cell and image, its columns from the sums at the points (kernel fast_outputs)
//
// Points come in one order for all widths, so a sum runs over all pieces that use its point, whatever their widths;
// a single tap is a piece of width 1. Pieces of one width whose columns differ by whole cells share a grid.
//
// An output depends on its row and on its column, counted from the rectangle's first, alone: neither on how many images
// there are, nor on where a row is cut, as long as cuts lie between cells. Cells of two columns may be cut as well,
// since their first output never reads the input that it lacks.
//
// An infinite input, or NaN, reaches all outputs of its cell.
//
// Measured on one core of a Zen 4 (AVX-512), 1 to 12 images: the row products of a PixelCNN, 7 columns wide on three
// rows, 32 channels, take 0.82 to 0.85 of the time with cells of two columns and 0.60 to 0.69 with cells of four; those
// of a Gated PixelCNN, 3 columns wide on two rows, 128 to 256 channels, 0.74 to 0.80 and 0.58 to 0.87. The logits' rms
// error against float64 is 1.0 and 1.0 times that of plain products with cells of two, 1.4 and 1.0 with cells of four.
#pragma once

#include <optional>
#include <vector>

#include "../aligned.h"
#include "../program.h"
#include "ops.h"

namespace pixelfast {

// Where the transformed inputs of a source stand: from tap `tap` of the product on, `extra` cells more than outputs.
struct FastGrid {
  int tap, width, points, extra;
  ptrdiff_t count;
};

// Its inputs lie `shift` cells further in its grid; its weights start at row `first` at every point.
struct FastPiece {
  int grid, shift;
  ptrdiff_t first;
};

struct PackedFastProduct {
  int columns, points, outputs;
  std::vector<FastGrid> grids;
  std::vector<FastPiece> pieces;       // widest first, so that a point is used by the first few
  std::vector<Panel> panels;           // (point, panel); their weights lie as (panel, point)
  size_t floats = 0;                   // of weights
  AlignedFloats zeros, bias;           // bias (outputs, rounded up), empty: add to what is there

  int panels_of_point() const { return static_cast<int>(panels.size()) / points; }
};

// With cells of 2 or 4 columns; nothing if that does not pay for `columns` columns.
std::optional<PackedFastProduct> pack_fast_product(const Product& product, int outputs, int cell, int columns,
                                                   const Kernels& kernels, Arena& weights);

// Columns of one row of some images, from the first column of a cell on. A call takes any number of chunks, which share
// one pass over the weights: together at most kFastRows cells x images, if all had as many cells as the widest.
struct FastChunk {
  struct Source {
    const float* data;  // at the chunk's first column; null: zeros
    ptrdiff_t col_stride, stride;
  };
  const Source* sources;  // of each grid
  float* out;
  ptrdiff_t col_stride, stride;  // of `out`
  int columns, images;
};

constexpr int kFastRows = 48;  // most cells x images of a call; 24 to 96 take equally long

// What fast products need while they run; one for each thread.
class FastScratch {
 public:
  // Room for calls of a product with up to `most_lanes` images, of all chunks together.
  void reserve(const PackedFastProduct& product, const Kernels& kernels, int most_lanes);

  // Panels of outputs [first_panel, last_panel) of product.panels_of_point().
  void run(const PackedFastProduct& product, const Kernels& kernels, const FastChunk* chunks, int chunk_count,
           int first_panel, int last_panel);

 private:
  void read(const PackedFastProduct& product, const Kernels& kernels, const FastChunk* chunks, int chunk_count);
  void multiply(const PackedFastProduct& product, const Kernels& kernels, const Panel* panels, int count, int point);
  void write(const PackedFastProduct& product, const Kernels& kernels, const Panel* panels, int count,
             const FastChunk* chunks, int chunk_count);

  AlignedFloats inputs_;             // of each grid: (points, cells + extra, lanes, count)
  AlignedFloats sums_;               // (points, cells, lanes, outputs of some panels)
  std::vector<const float*> grids_;  // null: zeros everywhere
  std::vector<Tap> taps_;
  int cells_ = 0, lanes_ = 0;  // of this call; a lane is one image of one chunk
};

}  // namespace pixelfast
