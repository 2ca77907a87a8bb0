// What each instruction does at some cells of the tile: columns of one row, or pixels of several rows.
#include <algorithm>
#include <utility>

#include "executor.h"

namespace pixelfast {
namespace {

// With fewer images a product over the whole row wins; with more, a product for each stretch of columns that sees the
// same taps, since taps beyond the border then cost nothing.
constexpr int kSplitAtBorders = 8;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The size of parts of at most `most`, as equal as they can be.
int split_evenly(int count, int most) { return ceil_div(count, ceil_div(count, most)); }

// Where a field's numbers for the tile's first image lie.
const float* field_start(const FieldView& view, const Field& field, const FieldSlot& slot, int image, int row, int col) {
  return view.data + image * view.image_stride + (row - field.row0) * view.row_stride +
         (col - field.col0) * view.col_stride + slot.channel;
}

}  // namespace

Executor::Executor(const Plan& plan, const Call& call, const Tile& tile, int most_images, int lanes, int chunk)
    : plan_(plan),
      call_(call),
      tile_(tile),
      registers_(plan.most_registers * kMapBlock),
      exps_((static_cast<size_t>(plan.levels) + 63) / 64 * 64),
      sums_(static_cast<size_t>(plan.levels) / 64 + 1),
      mixture_(make_mixture(plan.head, {plan.mixture, plan.channels, plan.levels, plan.parameters}, call.temperature)),
      taps_(plan.most_taps),
      leaves_(plan.most_leaves),
      spans_(plan.most_taps),
      tables_(plan.most_taps),
      scores_(plan.most_keys),
      runs_(plan.most_runs) {
  // Several cells need pointers to the rows of every slot; one cell only for fields, which may lie at no stride.
  const size_t columns = plan.col1 - plan.col0;
  const size_t one = (plan.most_leaves + 1) * columns;
  const size_t several = (std::max(plan.most_taps, plan.most_leaves) + 2) * lanes * chunk;
  const size_t cells = plan.strided ? std::max(columns, static_cast<size_t>(lanes) * chunk) : 0;
  const size_t strided = (std::max(plan.most_taps, plan.most_leaves) + 2) * cells;
  pointers_.resize(std::max({one, lanes > 1 ? several : 0, strided}) * most_images);
  local_rows_ = (may_run_known(plan, call) ? std::max<size_t>(columns, lanes) : lanes) * most_images;
  locals_ = AlignedFloats(plan.locals.floats * local_rows_);
  live_.reserve(std::max<size_t>(lanes, cells));
  for (const Step& step : plan.row)
    if (const auto* product = std::get_if<PackedFastProduct>(&step.body)) fast_.reserve(*product, *plan.kernels, kFastRows);
  chunks_.resize(kFastRows), fast_sources_.resize(kFastRows * plan.most_taps);
}

void Executor::execute(const Step& step, Cells cells, const Portion& portion) {
  if (!everywhere(step.lattice)) {
    execute_on_lattice(step, cells, portion);
    return;
  }
  const Rect& rect = step.rect;
  const auto inside = [&](const Cell& cell) {
    const int row = cell.lane->row;
    return rect.row0 <= row && row < rect.row1 && rect.col0 <= cell.col0 && cell.col1 <= rect.col1;
  };
  if (!std::all_of(cells.begin(), cells.end(), inside)) {
    live_.clear();
    for (const Cell& cell : cells) {
      if (cell.lane->row < rect.row0 || cell.lane->row >= rect.row1) continue;
      const int first = std::max(cell.col0, rect.col0), last = std::min(cell.col1, rect.col1);
      if (first < last) live_.push_back({cell.lane, first, last, cell.local + first - cell.col0});
    }
    if (live_.empty()) return;
    cells = {live_.data(), static_cast<int>(live_.size())};
  }
  next_pointer_ = 0;
  std::visit([&](const auto& body) { execute(body, step, cells, portion); }, step.body);
}

// Columns that are no neighbours become cells of one column each.
void Executor::execute_on_lattice(const Step& step, Cells cells, const Portion& portion) {
  const Rect& rect = step.rect;
  const Lattice& lattice = step.lattice;
  live_.clear();
  for (const Cell& cell : cells) {
    const int row = cell.lane->row;
    if (row < rect.row0 || row >= rect.row1 || !has_row(lattice, row)) continue;
    const int first = column_from(lattice, std::max(cell.col0, rect.col0)), last = std::min(cell.col1, rect.col1);
    const int length = lattice.col_step == 1 ? last - first : 1;
    for (int col = first; col < last; col += lattice.col_step * length)
      live_.push_back({cell.lane, col, col + length, cell.local + col - cell.col0});
  }
  if (live_.empty()) return;
  next_pointer_ = 0;
  const Cells live{live_.data(), static_cast<int>(live_.size())};
  std::visit([&](const auto& body) { execute(body, step, live, portion); }, step.body);
}

ptrdiff_t Executor::count_rows(Cells cells) const {
  ptrdiff_t columns = 0;
  for (const Cell& cell : cells) columns += cell.col1 - cell.col0;
  return columns * tile_.images();
}

// Where a slot's channels begin: the cell's first column, the tile's first image.
float* Executor::start_of(int slot, const Cell& cell) const {
  const Bound& bound = cell.lane->bound[slot];
  if (bound.origin) return bound.at(cell.col0);
  const Slot& s = plan_.slots[slot];
  return locals_.data() + plan_.locals.offset[s.buffer] * local_rows_ + s.channel +
         static_cast<ptrdiff_t>(cell.local) * tile_.images() * bound.stride;
}

Rows Executor::rows(int slot, Cells cells) {
  const ptrdiff_t stride = cells.first->lane->bound[slot].stride;
  float* const start = start_of(slot, *cells.first);
  const Cell& last = cells.first[cells.count - 1];
  const bool solid = is_local(slot) && last.local - cells.first->local == cells.count - 1;
  if (cells.count == 1 || solid) return {start, stride, nullptr};
  float** const each = pointers_.data() + next_pointer_;
  for (const Cell& cell : cells) {
    float* row = start_of(slot, cell);
    for (ptrdiff_t left = (cell.col1 - cell.col0) * tile_.images(); left > 0; left--, row += stride)
      pointers_[next_pointer_++] = row;
  }
  return {nullptr, 0, each};
}

ConstRows Executor::sources(int slot, Cells cells) {
  const Rows found = rows(slot, cells);
  return {found.base, found.stride, found.each};
}

ConstRows Executor::field_rows(const FieldSlot& slot, Cells cells) {
  const FieldView& view = call_.fields[slot.field];
  const Field& field = plan_.fields[slot.field];
  const Cell& first = *cells.first;
  const float* start = field_start(view, field, slot, tile_.first(), first.lane->row, first.col0);
  const bool one_column = first.col1 - first.col0 == 1;
  if (cells.count == 1 && (one_column || tile_.images() == 1))
    return {start, tile_.images() == 1 ? view.col_stride : view.image_stride, nullptr};
  float** const each = pointers_.data() + next_pointer_;
  for (const Cell& cell : cells)
    for (int col = cell.col0; col < cell.col1; col++) {
      const float* row = field_start(view, field, slot, tile_.first(), cell.lane->row, col);
      // Pointers to what is only read share the table with pointers to what is written.
      for (int i = 0; i < tile_.images(); i++) pointers_[next_pointer_++] = const_cast<float*>(row + i * view.image_stride);
    }
  return {nullptr, 0, each};
}

// The taps that are not zero at a cell's first column; the cell ends where that changes.
int Executor::gather_taps(const PackedProduct& product, const Step& step, Cell& cell, const Portion& portion) {
  const bool split = tile_.images() >= kSplitAtBorders || cell.col1 == cell.col0 + 1;
  const int col = cell.col0, last = portion.last_tap ? step.first_source + portion.last_tap : step.last_source;
  int count = 0;
  for (int slot = step.first_source + portion.first_tap; slot < last; slot++) {
    const Bound& bound = cell.lane->bound[slot];
    if (bound.col0 >= bound.col1) continue;
    if (split) {
      if (col < bound.col0) cell.col1 = std::min(cell.col1, bound.col0);
      else if (col < bound.col1) cell.col1 = std::min(cell.col1, bound.col1);
      if (col < bound.col0 || col >= bound.col1) continue;
    }
    const ConstRows source{start_of(slot, cell), bound.stride, nullptr};
    taps_[count++] = Tap{source, product.first[slot - step.first_source], bound.count};
  }
  return count;
}

// The taps of several cells: what is zero in one of them may not be in another. Taps of one buffer and row lie at the same
// offset from each other in all cells.
int Executor::gather_taps(const PackedProduct& product, const Step& step, Cells cells, const Portion& portion) {
  const std::vector<Bound>& bounds = cells.first->lane->bound;
  const int last = portion.last_tap ? step.first_source + portion.last_tap : step.last_source;
  int count = 0, like = -1;
  ConstRows found{};
  float* first = nullptr;  // of the slot that `found` belongs to
  for (int slot = step.first_source + portion.first_tap; slot < last; slot++) {
    const Slot &here = plan_.slots[slot], &before = plan_.slots[std::max(like, 0)];
    if (like < 0 || here.buffer != before.buffer || here.row != before.row) {
      like = slot;
      found = sources(slot, cells), first = start_of(slot, *cells.first);
    }
    ConstRows source = found;
    const ptrdiff_t apart = start_of(slot, *cells.first) - first;
    if (source.each) source.stride = apart;
    else source.base += apart;
    taps_[count++] = Tap{source, product.first[slot - step.first_source], bounds[slot].count};
  }
  return count;
}

void Executor::execute(const PackedProduct& product, const Step& step, Cells cells, const Portion& portion) {
  if (product.divided && portion.first_tap == 0 && portion.last_tap == 0) {
    Portion part = portion;
    part.last_tap = product.divided;
    execute(product, step, cells, part);
    next_pointer_ = 0;
    part.first_tap = std::exchange(part.last_tap, 0);
    execute(product, step, cells, part);
    return;
  }
  ProductCall call{};
  const auto [first_panel, last_panel] = portion.panels(static_cast<int>(product.panels.size()));
  call.panels = product.panels.data() + first_panel;
  call.panel_count = last_panel - first_panel;
  call.taps = taps_.data();
  call.relu = product.relu;
  const auto run = [&](Cells part) {
    call.out = rows(step.out, part);
    call.rows = count_rows(part);
    if (product.added >= 0) call.adds = true, call.added = sources(product.added, part);
    if (call.tap_count == 0 && !product.panels[0].bias) return;
    plan_.kernels->product[product.storage](call);
  };
  if (cells.count > 1) {
    call.tap_count = gather_taps(product, step, cells, portion);
    run(cells);
    return;
  }
  Cell part = *cells.first;
  for (; part.col0 < cells.first->col1; part.local += part.col1 - part.col0, part.col0 = part.col1) {
    part.col1 = cells.first->col1;
    call.tap_count = gather_taps(product, step, part, portion);
    run({&part, 1});
  }
}

// In strips of columns, and of images if there are many; short chunks of several rows go together.
void Executor::execute(const PackedFastProduct& product, const Step& step, Cells cells, const Portion& portion) {
  const int grids = static_cast<int>(product.grids.size()), images = split_evenly(tile_.images(), kFastRows);
  const auto [first_panel, last_panel] = portion.panels(product.panels_of_point());
  int count = 0, lanes = 0, widest = 0;
  const auto flush = [&] {
    if (count > 0) fast_.run(product, *plan_.kernels, chunks_.data(), count, first_panel, last_panel);
    count = lanes = widest = 0;
  };
  for (const Cell& cell : cells) {
    const Bound& out = cell.lane->bound[step.out];
    const int wide = ceil_div(cell.col1 - cell.col0, product.columns), strip = split_evenly(wide, kFastRows / images);
    for (int first = 0; first < tile_.images(); first += images)
      for (int col = cell.col0; col < cell.col1; col += strip * product.columns) {
        if ((lanes + images) * std::max(widest, strip) > kFastRows) flush();
        FastChunk::Source* sources = fast_sources_.data() + static_cast<size_t>(count) * grids;
        for (int g = 0; g < grids; g++) {
          const Bound& bound = cell.lane->bound[step.first_source + product.grids[g].tap];
          const float* data = bound.col0 < bound.col1 ? bound.at(col) + first * bound.stride : nullptr;
          sources[g] = {data, bound.col_stride, bound.stride};
        }
        const int columns = std::min(strip * product.columns, cell.col1 - col);
        const int some = std::min(images, tile_.images() - first);
        chunks_[count++] = FastChunk{sources, out.at(col) + first * out.stride, out.col_stride, out.stride, columns, some};
        lanes += some, widest = std::max(widest, strip);
      }
  }
  flush();
}

void Executor::execute(const PackedLookup& lookup, const Step& step, Cells cells, const Portion&) {
  for (const Cell& cell : cells) {
    const Bound& bound = cell.lane->bound[step.out];
    const size_t floats = static_cast<size_t>(plan_.levels) * bound.count;  // of a tap's table
    float* out = start_of(step.out, cell);
    for (int col = cell.col0; col < cell.col1; col++)
      for (int i = 0; i < tile_.images(); i++, out += bound.stride) {
        int count = 0;
        for (size_t t = 0; t < lookup.taps.size(); t++) {
          const int row = cell.lane->row + lookup.taps[t].row, other = col + lookup.taps[t].col;
          if (row < 0 || other < 0 || other >= plan_.width) continue;
          const size_t value = tile_.value(i, row, other, lookup.taps[t].channel);
          tables_[count++] = lookup.tables.data() + t * floats + value * bound.count;
        }
        if (count) plan_.kernels->add(out, tables_.data(), count, bound.count);
      }
  }
}

void Executor::execute(const CompiledMap& map, const Step& step, Cells cells, const Portion&) {
  for (size_t i = 0; i < map.leaves.size(); i++) {
    leaves_[i] = map.leaves[i];
    if (map.leaf_slots[i] >= 0) leaves_[i].source = sources(map.leaf_slots[i], cells);
    else if (map.fields[i].field >= 0) leaves_[i].source = field_rows(map.fields[i], cells);
  }
  MapCall call{};
  call.ops = map.ops.data(), call.op_count = static_cast<int>(map.ops.size());
  call.leaves = leaves_.data(), call.leaf_count = static_cast<int>(map.leaves.size());
  call.leaf_registers = map.leaf_registers.data();
  call.registers = registers_.data();
  call.out = rows(step.out, cells);
  call.rows = count_rows(cells), call.count = cells.first->lane->bound[step.out].count;
  plan_.kernels->map(call);
}

void Executor::execute(const PlannedReduce& reduce, const Step& step, Cells cells, const Portion&) {
  int count = 0;
  for (int slot = step.first_source; slot < step.last_source; slot++)
    spans_[count++] = Span{sources(slot, cells), cells.first->lane->bound[slot].count};
  ReduceCall call{};
  call.kind = static_cast<int>(reduce.kind), call.correction = reduce.correction;
  call.sources = spans_.data(), call.source_count = count;
  call.out = rows(step.out, cells);
  call.rows = count_rows(cells);
  plan_.kernels->reduce(call);
}

void Executor::execute(const PlannedNorm& norm, const Step& step, Cells cells, const Portion&) {
  NormCall call{};
  call.source = Span{sources(step.first_source, cells), cells.first->lane->bound[step.first_source].count};
  call.scale = norm.scale.data(), call.shift = norm.shift.data(), call.eps = norm.eps, call.relu = norm.relu;
  call.out = rows(step.out, cells);
  call.rows = count_rows(cells);
  plan_.kernels->norm(call);
}

// The keys of a list, row by row.
int Executor::gather_runs(const Attention& attention, size_t list) {
  int count = 0;
  for (int i = attention.offsets[list]; i < attention.offsets[list + 1]; i++)
    for (int pixel = attention.runs[i].first; pixel < attention.runs[i].last;) {
      const int row = pixel / plan_.width, col = pixel % plan_.width;
      const int last = std::min(attention.runs[i].last, (row + 1) * plan_.width);
      const Cache &keys = attention.keys, &values = attention.values;
      runs_[count++] = KeyRun{tile_.at(keys, row + keys.row, col + keys.col),
                              tile_.at(values, row + values.row, col + values.col), last - pixel};
      pixel = last;
    }
  return count;
}

// Image by image and head by head, so that every sum has one order.
void Executor::execute(const PlannedAttention& planned, const Step& step, Cells cells, const Portion&) {
  const Attention& attention = planned.attention;
  const Rect& rect = planned.rect;
  const int heads = attention.heads, images = tile_.images(), mask_heads = heads / attention.masks;
  const ptrdiff_t key_features = plan_.buffers[attention.keys.buffer].features;
  const ptrdiff_t value_features = plan_.buffers[attention.values.buffer].features;
  AttendCall call{};
  call.runs = runs_.data(), call.scores = scores_.data(), call.scale = attention.scale;
  call.size = attention.keys.count / heads, call.value_size = attention.values.count / heads;
  call.key_stride = key_features * images, call.value_stride = value_features * images;
  for (const Cell& cell : cells)
    for (int mask = 0; mask < attention.masks; mask++)
      for (int col = cell.col0; col < cell.col1; col++) {
        const size_t element = static_cast<size_t>(cell.lane->row - rect.row0) * (rect.col1 - rect.col0) + col - rect.col0;
        const size_t list = static_cast<size_t>(mask) * (planned.first.size() / attention.masks) + element;
        call.run_count = gather_runs(attention, list);
        const Bound &query = cell.lane->bound[step.first_source], &out = cell.lane->bound[step.out];
        const ptrdiff_t at = static_cast<ptrdiff_t>(col - cell.col0) * images;
        const float* queries = start_of(step.first_source, cell) + at * query.stride;
        float* results = start_of(step.out, cell) + at * out.stride;
        for (int i = 0; i < images; i++)
          for (int head = mask * mask_heads; head < (mask + 1) * mask_heads; head++) {
            call.query = queries + i * query.stride + head * call.size;
            call.out = results + i * out.stride + head * call.value_size;
            call.keys = i * key_features + head * call.size, call.values = i * value_features + head * call.value_size;
            const size_t biases = attention.biases > 1 ? head * planned.keys : 0;
            call.bias = attention.biases ? planned.bias.data() + biases + planned.first[list] : nullptr;
            plan_.kernels->attend(call);
          }
      }
}

}  // namespace pixelfast
