// What each instruction does at columns [col0, col1) of the current row, for all images of the tile.
#include <algorithm>

#include "tile.h"

namespace pixelfast {
namespace {

// With fewer images a product over the whole row wins; with more, a product for each stretch of columns that sees the
// same taps, since taps beyond the border then cost nothing.
constexpr int kSplitAtBorders = 8;

}  // namespace

void Tile::execute(const std::vector<const Step*>& steps, int col0, int col1) {
  for (const Step* step : steps) {
    if (col1 - col0 > 1 && stopped()) return;
    execute(*step, col0, col1);
  }
}

void Tile::execute(const Step& step, int col0, int col1) {
  const int first = std::max(col0, step.rect.col0), last = std::min(col1, step.rect.col1);
  if (row_ < step.rect.row0 || row_ >= step.rect.row1 || first >= last) return;
  std::visit([&](const auto& body) { execute(body, step, first, last); }, step.body);
}

// The taps that are not zero at a column, and in `end` the column up to which they stay the same.
int Tile::gather_taps(const PackedProduct& product, const Step& step, int col, int& end) {
  const bool split = images_ >= kSplitAtBorders || end == col + 1;
  int count = 0;
  for (int slot = step.first_source; slot < step.last_source; slot++) {
    const Bound& bound = bound_[slot];
    if (bound.col0 >= bound.col1) continue;
    if (split) {
      if (col < bound.col0) end = std::min(end, bound.col0);
      else if (col < bound.col1) end = std::min(end, bound.col1);
      if (col < bound.col0 || col >= bound.col1) continue;
    }
    taps_[count++] = Tap{at(slot, col), bound.stride, product.first[slot - step.first_source], bound.count};
  }
  return count;
}

void Tile::execute(const PackedProduct& product, const Step& step, int col0, int col1) {
  ProductCall call{};
  call.panels = product.panels.data();
  call.panel_count = static_cast<int>(product.panels.size());
  call.taps = taps_.data();
  call.out_stride = bound_[step.out].stride;
  for (int col = col0, end; col < col1; col = end) {
    end = col1;
    call.tap_count = gather_taps(product, step, col, end);
    call.out = at(step.out, col);
    call.rows = static_cast<ptrdiff_t>(end - col) * images_;
    if (call.tap_count > 0 || product.panels[0].bias) plan_.kernels->product(call);
  }
}

void Tile::execute(const PackedLookup& lookup, const Step& step, int col0, int col1) {
  const Bound& out = bound_[step.out];
  const size_t rows = static_cast<size_t>(plan_.levels) * out.count;  // floats of a tap's table
  for (int col = col0; col < col1; col++)
    for (int i = 0; i < images_; i++) {
      int count = 0;
      for (size_t t = 0; t < lookup.taps.size(); t++) {
        const int row = row_ + lookup.taps[t].row, other = col + lookup.taps[t].col;
        if (row < 0 || other < 0 || other >= plan_.width) continue;
        const size_t value = call_.values[subpixel(i, row, other, lookup.taps[t].channel)];
        tables_[count++] = lookup.tables.data() + t * rows + value * out.count;
      }
      if (count) plan_.kernels->add(at(step.out, col) + i * out.stride, tables_.data(), count, out.count);
    }
}

void Tile::execute(const CompiledMap& map, const Step& step, int col0, int col1) {
  // A field's strides over images and columns need not agree as a buffer's do.
  if (map.reads_fields && col1 - col0 > 1 && images_ > 1) {
    for (int col = col0; col < col1; col++) execute(map, step, col, col + 1);
    return;
  }
  for (size_t i = 0; i < map.leaves.size(); i++) {
    leaves_[i] = map.leaves[i];
    const FieldSlot& slot = map.fields[i];
    if (map.leaf_slots[i] >= 0) {
      leaves_[i].source = at(map.leaf_slots[i], col0);
      leaves_[i].stride = bound_[map.leaf_slots[i]].stride;
    } else if (slot.field >= 0) {
      const FieldView& view = call_.fields[slot.field];
      const Field& field = plan_.fields[slot.field];
      leaves_[i].source = view.data + first_ * view.image_stride + (row_ - field.row0) * view.row_stride +
                          (col0 - field.col0) * view.col_stride + slot.channel;
      leaves_[i].stride = images_ == 1 ? view.col_stride : view.image_stride;
    }
  }
  const Bound& out = bound_[step.out];
  MapCall call{};
  call.ops = map.ops.data(), call.op_count = static_cast<int>(map.ops.size());
  call.leaves = leaves_.data(), call.leaf_count = static_cast<int>(map.leaves.size());
  call.leaf_registers = map.leaf_registers.data();
  call.registers = registers_.data();
  call.out = at(step.out, col0), call.out_stride = out.stride;
  call.rows = static_cast<ptrdiff_t>(col1 - col0) * images_, call.count = out.count;
  plan_.kernels->map(call);
}

void Tile::execute(const PlannedReduce& reduce, const Step& step, int col0, int col1) {
  int count = 0;
  for (int slot = step.first_source; slot < step.last_source; slot++)
    spans_[count++] = Span{at(slot, col0), bound_[slot].stride, bound_[slot].count};
  ReduceCall call{};
  call.kind = static_cast<int>(reduce.kind), call.correction = reduce.correction;
  call.sources = spans_.data(), call.source_count = count;
  call.out = at(step.out, col0), call.out_stride = bound_[step.out].stride;
  call.rows = static_cast<ptrdiff_t>(col1 - col0) * images_;
  plan_.kernels->reduce(call);
}

void Tile::execute(const PlannedNorm& norm, const Step& step, int col0, int col1) {
  const Bound &source = bound_[step.first_source], &out = bound_[step.out];
  NormCall call{};
  call.source = Span{at(step.first_source, col0), source.stride, source.count};
  call.scale = norm.scale.data(), call.shift = norm.shift.data(), call.eps = norm.eps;
  call.out = at(step.out, col0), call.out_stride = out.stride;
  call.rows = static_cast<ptrdiff_t>(col1 - col0) * images_;
  plan_.kernels->norm(call);
}

}  // namespace pixelfast
