// How a fast product runs: the inputs of all chunks, then for each panel of outputs, or for a few of them if there are few
// rows, the sums at all points, and from those the outputs. A panel's sums and a point's weights stay in the L1 cache.
#include <algorithm>

#include "fast_product.h"

namespace pixelfast {
namespace {

int cells_of(const PackedFastProduct& product, const FastChunk& chunk) {
  return (chunk.columns + product.columns - 1) / product.columns;
}

// Wanted columns of the chunk's last cell.
int last_of(const PackedFastProduct& product, const FastChunk& chunk) {
  return (chunk.columns - 1) % product.columns + 1;
}

void clear(const FastInputs& call, int points) {
  for (int p = 0; p < points; p++)
    for (int cell = 0; cell < call.cells; cell++)
      std::fill_n(call.out + p * call.point_stride + cell * call.cell_stride, call.images * call.count, 0.0f);
}

void grow(AlignedFloats& floats, size_t count) {
  if (floats.size() < count) floats = AlignedFloats(count);
}

}  // namespace

void FastScratch::reserve(const PackedFastProduct& product, const Kernels& kernels, int most_lanes) {
  size_t inputs = 0;
  for (const FastGrid& grid : product.grids) inputs += grid.points * grid.count * (kFastRows + grid.extra * most_lanes);
  grow(inputs_, inputs);
  grow(sums_, static_cast<size_t>(product.points) * kFastRows * kernels.most_vectors * kernels.width);
  grids_.resize(std::max(grids_.size(), product.grids.size()));
  taps_.resize(std::max(taps_.size(), product.pieces.size()));
}

void FastScratch::run(const PackedFastProduct& product, const Kernels& kernels, const FastChunk* chunks,
                      int chunk_count, int first_panel, int last_panel) {
  cells_ = lanes_ = 0;
  for (int c = 0; c < chunk_count; c++) {
    cells_ = std::max(cells_, cells_of(product, chunks[c]));
    lanes_ += chunks[c].images;
  }
  read(product, kernels, chunks, chunk_count);
  const int all = product.panels_of_point();
  for (int p = first_panel; p < last_panel;) {
    const Panel* panels = product.panels.data() + p;
    const int most = kernels.panels_at_once(static_cast<ptrdiff_t>(cells_) * lanes_, panels->vectors);
    int count = 1;
    while (count < most && p + count < last_panel && panels[count].vectors == panels->vectors) count++;
    for (int point = 0; point < product.points; point++) multiply(product, kernels, panels + point * all, count, point);
    write(product, kernels, panels, count, chunks, chunk_count);
    p += count;
  }
}

void FastScratch::read(const PackedFastProduct& product, const Kernels& kernels, const FastChunk* chunks,
                       int chunk_count) {
  float* next = inputs_.data();
  for (size_t g = 0; g < product.grids.size(); g++) {
    const FastGrid& grid = product.grids[g];
    grids_[g] = nullptr;
    const auto live = [g](const FastChunk& chunk) { return chunk.sources[g].data != nullptr; };
    if (std::none_of(chunks, chunks + chunk_count, live)) continue;
    grids_[g] = next;
    FastInputs call{};
    call.columns = product.columns, call.width = grid.width, call.count = grid.count;
    call.cell_stride = lanes_ * grid.count;
    call.point_stride = (cells_ + grid.extra) * call.cell_stride;
    call.out = next;
    for (int c = 0; c < chunk_count; call.out += chunks[c++].images * grid.count) {
      const FastChunk::Source& source = chunks[c].sources[g];
      call.source = source.data, call.col_stride = source.col_stride, call.stride = source.stride;
      call.cells = cells_of(product, chunks[c]) + grid.extra, call.last = last_of(product, chunks[c]);
      call.images = chunks[c].images;
      if (source.data) kernels.fast_inputs(call);
      else clear(call, grid.points);
    }
    next += grid.points * call.point_stride;
  }
}

// Sums of a row lie next to each other over the panels.
void FastScratch::multiply(const PackedFastProduct& product, const Kernels& kernels, const Panel* panels, int count,
                           int point) {
  ProductCall call{};
  call.panels = panels, call.panel_count = count;
  call.taps = taps_.data();
  for (const FastPiece& piece : product.pieces) {
    const FastGrid& grid = product.grids[piece.grid];
    if (grid.points <= point) break;  // and so do all that follow
    if (!grids_[piece.grid]) continue;
    const ptrdiff_t cell = lanes_ * grid.count;
    const float* source = grids_[piece.grid] + (point * (cells_ + grid.extra) + piece.shift) * cell;
    taps_[call.tap_count++] = Tap{{source, grid.count, nullptr}, piece.first, grid.count};
  }
  call.rows = static_cast<ptrdiff_t>(cells_) * lanes_;
  const ptrdiff_t outputs = static_cast<ptrdiff_t>(panels->count) * count;
  call.out = {sums_.data() + point * call.rows * outputs - panels->channel, outputs, nullptr};
  kernels.product[kFloats](call);
}

void FastScratch::write(const PackedFastProduct& product, const Kernels& kernels, const Panel* panels, int count,
                        const FastChunk* chunks, int chunk_count) {
  FastOutputs call{};
  call.columns = product.columns, call.points = product.points;
  call.sums = sums_.data();
  call.row_stride = static_cast<ptrdiff_t>(panels->count) * count, call.cell_stride = lanes_ * call.row_stride;
  call.point_stride = cells_ * call.cell_stride;
  call.bias = product.bias.size() ? product.bias.data() + panels->channel : nullptr;
  call.count = std::min<ptrdiff_t>(call.row_stride, product.outputs - panels->channel);
  for (int c = 0; c < chunk_count; call.sums += chunks[c++].images * call.row_stride) {
    call.out = chunks[c].out + panels->channel, call.col_stride = chunks[c].col_stride, call.stride = chunks[c].stride;
    call.cells = cells_of(product, chunks[c]), call.last = last_of(product, chunks[c]);
    call.images = chunks[c].images;
    kernels.fast_outputs(call);
  }
}

}  // namespace pixelfast
