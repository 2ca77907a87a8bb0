#include "plan.h"

#include <algorithm>
#include <numeric>

#include "../slots.h"

namespace pixelfast::cuda {
namespace {

constexpr size_t kBarriers = 128;  // bytes at the start of shared memory

SlotEntry entry(const Slot& s) { return {s.buffer, s.channel, s.count, s.row, s.col}; }

class Planner {
 public:
  Planner(const Program& program, const Shape& shape) : program_(program), shape_(shape) {}

  Plan make() {
    if (program_.mixture.components > 0) throw Unsupported("a mixture");
    Tables& t = plan_.tables;
    t.channels = program_.channels, t.height = program_.height, t.width = program_.width;
    t.levels = program_.levels, t.parameters = program_.parameters, t.head = static_cast<int>(program_.head);
    t.first_row = program_.first_row, t.col0 = program_.col0, t.col1 = program_.col1;
    t.buffer_count = static_cast<int>(program_.buffers.size());
    t.row_count = static_cast<int>(program_.row.size());
    plan_.fields = program_.fields;
    for (const Instruction& instruction : program_.row) add(instruction);
    for (const auto& step : program_.steps) {
      plan_.steps.push_back(static_cast<int>(plan_.instructions.size()));
      for (const Instruction& instruction : step) add(instruction);
    }
    plan_.steps.push_back(static_cast<int>(plan_.instructions.size()));
    for (const Draw& draw : program_.draws) plan_.draws.push_back({draw.channel, entry(draw.source)});
    for (const auto& encodes : program_.encodes) {
      plan_.encodes_of.push_back(static_cast<int>(plan_.encodes.size()));
      for (const Encode& e : encodes) plan_.encodes.push_back({entry(e.out), e.channel, floats(e.table)});
    }
    plan_.encodes_of.push_back(static_cast<int>(plan_.encodes.size()));
    place();
    if (shape_.ranks > 1) synchronise();
    return std::move(plan_);
  }

 private:
  template <class Numbers>
  int64_t floats(const Numbers& numbers) {
    const auto at = static_cast<int64_t>(plan_.floats.size());
    plan_.floats.insert(plan_.floats.end(), numbers.begin(), numbers.end());
    return at;
  }

  void add(const Instruction& instruction) {
    if (!everywhere(instruction.lattice)) throw Unsupported("a strided map");
    if (instruction.sweep != 0) throw Unsupported("a recurrence along a row");
    const Rect& r = instruction.rect;
    InstructionEntry p{};
    p.opcode = static_cast<int>(instruction.body.index());
    p.row_begin = r.row0, p.row_end = r.row1, p.col_begin = r.col0, p.col_end = r.col1;
    p.out = entry(instruction.out);
    p.resident = p.bias = -1;
    std::visit([&](const auto& body) { fill(p, body); }, instruction.body);
    plan_.instructions.push_back(p);
  }

  void take(InstructionEntry& p, const std::vector<Slot>& slots) {
    p.first = static_cast<int>(plan_.slots.size()), p.count = static_cast<int>(slots.size());
    for (const Slot& s : slots) plan_.slots.push_back(entry(s));
  }
  void fill(InstructionEntry& p, const Product& product) {
    take(p, product.taps);
    for (const Slot& tap : product.taps) p.inputs += tap.count;
    std::vector<float> turned(product.weights.size());  // (out.count, K)
    for (int k = 0; k < p.inputs; k++)
      for (int o = 0; o < p.out.count; o++) turned[static_cast<size_t>(o) * p.inputs + k] = product.weights[static_cast<size_t>(k) * p.out.count + o];
    p.weights = floats(turned);
    if (!product.bias.empty()) p.bias = floats(product.bias);
  }
  void fill(InstructionEntry& p, const Lookup& lookup) {
    p.first = static_cast<int>(plan_.pixels.size()), p.count = static_cast<int>(lookup.taps.size());
    for (const Pixel& tap : lookup.taps) plan_.pixels.push_back({tap.row, tap.col, tap.channel});
    p.weights = floats(lookup.tables);
  }
  void fill(InstructionEntry& p, const Map& map) {
    if (map.leaves.size() + map.ops.size() > kMostOperands)
      throw Unsupported("an expression of " + std::to_string(map.leaves.size() + map.ops.size()) +
                        " leaves and operations: there is room for " + std::to_string(kMostOperands));
    p.first = static_cast<int>(plan_.leaves.size()), p.count = static_cast<int>(map.leaves.size());
    for (const Leaf& leaf : map.leaves) {
      LeafEntry l{static_cast<int>(leaf.index()), {}, 0, 0.0f};
      if (const auto* slot = std::get_if<Slot>(&leaf)) l.slot = entry(*slot);
      if (const auto* field = std::get_if<FieldSlot>(&leaf)) l.slot = {field->field, field->channel, field->count, 0, 0};
      if (const auto* vector = std::get_if<Floats>(&leaf)) l.vector = floats(*vector);
      if (const auto* number = std::get_if<float>(&leaf)) l.number = *number;
      plan_.leaves.push_back(l);
    }
    p.first_op = static_cast<int>(plan_.ops.size()), p.ops = static_cast<int>(map.ops.size());
    for (const Op& op : map.ops) {
      OpEntry o{static_cast<int>(op.name), {0, 0, 0}};
      for (int i = 0; i < arguments_of(op.name); i++) o.args[i] = op.args[i];
      plan_.ops.push_back(o);
    }
  }
  void fill(InstructionEntry& p, const Reduce& reduce) {
    take(p, reduce.sources);
    p.kind = static_cast<int>(reduce.kind), p.number = reduce.correction;
  }
  void fill(InstructionEntry&, const Attention&) { throw Unsupported("attention"); }
  void fill(InstructionEntry& p, const Norm& norm) {
    take(p, {norm.source});
    p.weights = floats(norm.scale), p.bias = floats(norm.shift), p.number = norm.eps;
  }

  // A buffer lives as long as a pixel if the steps alone use it, each at its own pixel, in the whole domain, and write every
  // channel before they read it.
  bool is_local(int buffer) const {
    const Buffer& b = program_.buffers[buffer];
    if (b.rows != 1) return false;
    bool local = true;
    auto uses = [&](const Slot& s) { return s.buffer == buffer; };
    for (const Instruction& i : program_.row) for_each_slot(i, [&](const Slot& s) { local = local && !uses(s); });
    for (const auto& encodes : program_.encodes)
      for (const Encode& e : encodes) local = local && !uses(e.out);
    std::vector<char> written(b.features, 0);
    auto reads = [&](const Slot& s) {
      if (!uses(s)) return;
      for (int c = s.channel; c < s.channel + s.count; c++) local = local && written[c];
    };
    for (size_t k = 0; k < program_.steps.size(); k++) {
      for (const Instruction& i : program_.steps[k]) {
        bool first = true, any = false;
        for_each_slot(i, [&](const Slot& s) {
          any = any || uses(s);
          if (uses(s)) local = local && s.row == 0 && s.col == 0;
          if (!first) reads(s);
          first = false;
        });
        if (adds(i.body)) reads(i.out);
        const Rect &r = i.rect, &d = b.domain;
        if (any && (r.row0 != d.row0 || r.row1 != d.row1 || r.col0 != d.col0 || r.col1 != d.col1)) local = false;
        if (uses(i.out)) std::fill_n(written.begin() + i.out.channel, i.out.count, 1);
      }
      if (uses(program_.draws[k].source)) local = local && program_.draws[k].source.row == 0 && program_.draws[k].source.col == 0;
      reads(program_.draws[k].source);
    }
    return local;
  }

  // Shared memory first to the weights of the steps, in their order, then to buffers, the smallest first.
  void place() {
    const auto limit = static_cast<int64_t>(shape_.shared_bytes / sizeof(float));
    int64_t used = kBarriers / sizeof(float);
    plan_.tables.shared_weights = static_cast<int>(used);
    int64_t weights = 0;
    for (size_t i = program_.row.size(); i < plan_.instructions.size(); i++) {
      InstructionEntry& p = plan_.instructions[i];
      if (static_cast<Opcode>(p.opcode) != Opcode::Product) continue;
      const int64_t each = (p.out.count + shape_.ranks - 1) / shape_.ranks, size = each * p.inputs;
      plan_.products++;
      if (used + weights + size > limit) continue;
      p.resident = static_cast<int>(weights);
      weights += size;
      plan_.resident++;
    }
    used += weights;
    plan_.tables.shared_replica = static_cast<int>(used);
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < program_.buffers.size(); i++) {
      const Buffer& b = program_.buffers[i];
      const bool local = is_local(static_cast<int>(i));
      const int columns = local ? 1 : b.col1 - b.col0;
      plan_.buffers.push_back({b.features, b.rows, b.col0, columns, b.domain.row0, b.domain.row1, b.domain.col0,
                               b.domain.col1, local, 0, 0});
      sizes.push_back(static_cast<int64_t>(b.rows) * columns * shape_.images * b.features);
      if (sizes.back() > INT32_MAX) throw Unsupported("a buffer of more than 2^31 numbers");
    }
    std::vector<size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] < sizes[b]; });
    int64_t near = 0;
    for (size_t i : order) {
      BufferEntry& b = plan_.buffers[i];
      b.shared = used + near + sizes[i] <= limit;
      int64_t& end = b.shared ? near : plan_.replica;
      b.offset = end;
      end += sizes[i];
    }
    plan_.shared_bytes = static_cast<size_t>(used + near) * sizeof(float);
    if (plan_.shared_bytes > shape_.shared_bytes) throw Unsupported("too little shared memory");
  }

  // A faster block may be one product ahead of a slower one, which still runs what stands between: it may send to the
  // slower one's replica only what nobody in between touches, or must wait for it.
  void synchronise() {
    const int first = plan_.tables.row_count, last = static_cast<int>(plan_.instructions.size());
    auto is_product = [&](int i) { return static_cast<Opcode>(plan_.instructions[i].opcode) == Opcode::Product; };
    for (int i = 0; i < first; i++) plan_.instructions[i].guard = is_product(i);
    bool everywhere = true;  // whether all products of the steps run at the same pixels
    int before = -1;
    for (int i = first; i < last; i++)
      if (is_product(i)) {
        if (before >= 0) everywhere = everywhere && same_rect(plan_.instructions[i], plan_.instructions[before]);
        before = i;
      }
    before = -1;
    for (int i = first; i < last; i++) {
      if (!is_product(i)) continue;
      InstructionEntry& p = plan_.instructions[i];
      // Who has all sums knows that every block has come so far: every block must have sent some.
      p.async = plan_.buffers[p.out.buffer].shared && p.out.count >= shape_.ranks;
      p.guard = !everywhere;
      for (int j = first; j < last && !p.guard; j++)
        // Before the first product, whatever is no product may have run at the columns before, where there was none.
        if (before < 0 ? !is_product(j) : j > before && j < i) p.guard = touched(program_at(j), p.out, before < 0 && j > i);
      if (before < 0 && !p.guard) p.guard = touched_by_values(p.out, i < plan_.steps[1]);
      if (before >= 0 && !p.guard) p.guard = touched_between(before, i, p.out);
      before = i;
    }
  }

  static bool same_rect(const InstructionEntry& a, const InstructionEntry& b) {
    return a.row_begin == b.row_begin && a.row_end == b.row_end && a.col_begin == b.col_begin && a.col_end == b.col_end;
  }

  const Instruction& program_at(int index) const {
    int at = index - plan_.tables.row_count;
    for (const auto& step : program_.steps) {
      if (at < static_cast<int>(step.size())) return step[at];
      at -= static_cast<int>(step.size());
    }
    throw std::logic_error("no such instruction");
  }

  // Whether a slot, seen from this column or an earlier one (`earlier`: the latter alone), may be where `out` is written now.
  bool meets(const Slot& s, const SlotEntry& out, bool earlier) const {
    if (!overlap(s, Slot{out.buffer, out.channel, out.count, 0, 0}) || s.row != 0) return false;
    return plan_.buffers[out.buffer].local || s.col > 0 || (s.col == 0 && !earlier);
  }
  bool touched(const Instruction& instruction, const SlotEntry& out, bool earlier) const {
    bool found = false;
    for_each_slot(instruction, [&](const Slot& s) { found = found || meets(s, out, earlier); });
    return found;
  }
  // By any draw or encode: of earlier columns, which all come after their last product, or of this one.
  bool touched_by_values(const SlotEntry& out, bool earlier) const {
    bool found = false;
    for (const Draw& draw : program_.draws) found = found || meets(draw.source, out, earlier);
    for (const auto& encodes : program_.encodes)
      for (const Encode& e : encodes) found = found || meets(e.out, out, earlier);
    return found;
  }
  // By the draws and encodes of the steps that end between two products of one pixel.
  bool touched_between(int before, int after, const SlotEntry& out) const {
    bool found = false;
    for (size_t k = 0; k + 1 < plan_.steps.size(); k++) {
      const int end = plan_.steps[k + 1];
      if (end <= before || end > after) continue;
      found = found || meets(program_.draws[k].source, out, false);
      for (const Encode& e : program_.encodes[k]) found = found || meets(e.out, out, false);
    }
    return found;
  }

  const Program& program_;
  const Shape& shape_;
  Plan plan_;
};

}  // namespace

Plan make_plan(const Program& program, const Shape& shape) {
  if (shape.ranks < 1 || shape.ranks > 16 || shape.images < 1 || shape.images > kMostImages)
    throw std::invalid_argument("a cluster has 1 to 16 blocks and 1 to 8 images");
  return Planner(program, shape).make();
}

Shape choose_shape(const Program& program, int images, size_t shared_bytes, int most_ranks, int multiprocessors) {
  Shape shape{1, 1, shared_bytes};
  for (shape.ranks = 1; shape.ranks < most_ranks; shape.ranks *= 2) {
    const Plan plan = make_plan(program, shape);
    if (plan.resident == plan.products && plan.replica == 0) break;
  }
  // As many images in a cluster as are needed for all clusters to run at once.
  const int clusters = std::max(multiprocessors / shape.ranks, 1);
  while (shape.images < kMostImages && (images + shape.images - 1) / shape.images > clusters) shape.images *= 2;
  return shape;
}

Tables Plan::on_host() const {
  Tables t = tables;
  t.buffers = buffers.data(), t.slots = slots.data(), t.pixels = pixels.data(), t.leaves = leaves.data();
  t.ops = ops.data(), t.instructions = instructions.data(), t.steps = steps.data(), t.draws = draws.data();
  t.encodes = encodes.data(), t.encodes_of = encodes_of.data(), t.floats = floats.data();
  return t;
}

FieldEntry field_entry(const Field& field, const int64_t sizes[4], int64_t offset) {
  const int64_t row = sizes[2] * sizes[3], image = sizes[1] * row;
  return {field.row0, field.col0, sizes[0] == 1 ? 0 : image, sizes[1] == 1 ? 0 : row, sizes[2] == 1 ? 0 : sizes[3], offset};
}

}  // namespace pixelfast::cuda
