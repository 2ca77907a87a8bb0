#include "../slots.h"
#include "plan.h"

#include <algorithm>

namespace pixelfast {
namespace {

constexpr size_t kAtHand = 1 << 20;  // bytes of weights that a second-level cache keeps

AlignedFloats aligned(const Floats& values) {
  AlignedFloats copy(values.size());
  std::copy(values.begin(), values.end(), copy.data());
  return copy;
}

class Planner final : SlotNumbers {
 public:
  Planner(const Program& program, const Kernels* kernels, int cell, Precision precision)
      : program_(program), plan_(std::make_unique<Plan>()), cell_(cell), precision_(precision) {
    plan_->kernels = kernels;
  }

  std::unique_ptr<const Plan> make() {
    Plan& p = *plan_;
    p.channels = program_.channels, p.height = program_.height, p.width = program_.width;
    p.levels = program_.levels, p.parameters = program_.parameters, p.head = program_.head, p.mixture = program_.mixture;
    p.first_row = program_.first_row, p.col0 = program_.col0, p.col1 = program_.col1;
    p.buffers = program_.buffers, p.fields = program_.fields;
    p.locals = find_locals(program_);
    p.row_scratch = find_row_scratch(program_);
    p.weights = Arena(weights_of(program_));
    p.row = steps(program_.row, p.row_effort);
    cell_ = 0;  // steps run column by column
    for (const auto& list : program_.steps) p.steps.push_back(steps(list, p.pixel_effort));
    for (size_t i = 0; i < program_.row.size(); i++)
      if (runs(program_.row[i])) p.leads.push_back(program_.leads[i]);
    for (int lead : p.leads) p.most_lead = std::max(p.most_lead, lead);
    p.reaches = program_.reaches;
    for (const Step& step : p.row) {
      p.waves = p.waves && !step.sweep;
      if (const auto* product = std::get_if<PackedFastProduct>(&step.body)) {
        p.cell = std::max(p.cell, product->columns);
        p.waves = p.waves && p.most_lead == 0 && (step.rect.col0 - p.col0) % product->columns == 0;
      }
    }
    fetch_nothing_at_hand();
    order_known_rows();
    for (const Draw& draw : program_.draws) p.draws.push_back({draw.channel, number(draw.source)});
    for (const auto& list : program_.encodes) {
      p.encodes.emplace_back();
      for (const Encode& encode : list) p.encodes.back().push_back(plan_encode(encode));
    }
    p.ahead = find_ahead(p);
    return std::move(plan_);
  }

  int number(const Slot& slot) override {
    plan_->slots.push_back(slot);
    return static_cast<int>(plan_->slots.size()) - 1;
  }

 private:
  Rect clip(const Rect& r) const {
    return Rect{std::max(r.row0, program_.first_row), std::min(r.row1, program_.height),
                std::max(r.col0, program_.col0), std::min(r.col1, program_.col1)};
  }

  static size_t weights_of(const Program& program) {
    size_t floats = 0;
    const auto add = [&](const std::vector<Instruction>& instructions) {
      for (const Instruction& instruction : instructions)
        if (auto* product = std::get_if<Product>(&instruction.body)) floats += product->weights.size();
    };
    add(program.row);
    for (const auto& list : program.steps) add(list);
    return floats;
  }

  bool runs(const Instruction& instruction) const {
    Rect rect = clip(instruction.rect);
    return rect.row0 < rect.row1 && rect.col0 < rect.col1;
  }

  // Weights that stay in a second-level cache need not be fetched ahead of their use.
  void fetch_nothing_at_hand() {
    const auto weights = [](const Step& step) {
      if (auto* product = std::get_if<PackedProduct>(&step.body)) return product->weights;
      if (auto* product = std::get_if<PackedFastProduct>(&step.body)) return product->floats;
      return size_t{0};
    };
    const auto forget = [](Step& step) {
      if (auto* product = std::get_if<PackedProduct>(&step.body))
        for (Panel& panel : product->panels) panel.next = 0;
      if (auto* product = std::get_if<PackedFastProduct>(&step.body))
        for (Panel& panel : product->panels) panel.next = 0;
    };
    size_t row = 0, pixel = 0;
    for (const Step& step : plan_->row) row += weights(step);
    for (const auto& list : plan_->steps)
      for (const Step& step : list) pixel += weights(step);
    if (row * sizeof(float) < kAtHand)
      for (Step& step : plan_->row) forget(step);
    if (pixel * sizeof(float) < kAtHand)
      for (auto& list : plan_->steps)
        for (Step& step : list) forget(step);
  }

  void order_known_rows() {
    std::vector<KnownItem> items;  // by position; {-1} for instructions that never run
    for (int k = 0; k < program_.channels; k++) {
      const Step* next = plan_->steps[k].data();
      for (const Instruction& instruction : program_.steps[k])
        items.push_back(runs(instruction) ? KnownItem{k, next++} : KnownItem{-1, nullptr});
      items.push_back(KnownItem{k, nullptr});
    }
    for (int position : program_.known_order)
      if (items[position].k >= 0) plan_->known_order.push_back(items[position]);
  }

  std::vector<Step> steps(const std::vector<Instruction>& instructions, Effort& whole) {
    std::vector<Step> planned;
    int sweep = 0, sweeps = 0;
    for (const Instruction& instruction : instructions) {
      if (instruction.sweep != sweep) sweep = instruction.sweep, sweeps++;
      if (!runs(instruction)) continue;  // and was not validated
      Rect rect = clip(instruction.rect);
      Step step;
      step.rect = rect;
      step.sweep = sweep * sweeps;
      step.lattice = instruction.lattice;
      plan_->strided = plan_->strided || step.lattice.col_step > 1;
      // Of the pixels that it could run at, on average.
      const double share = 1.0 / step.lattice.row_step / step.lattice.col_step;
      step.out = number(instruction.out);
      step.first_source = static_cast<int>(plan_->slots.size());
      rect_ = instruction.rect, effort_ = 0;
      std::visit([&](const auto& body) { plan_body(body, instruction.out.count, step); }, instruction.body);
      step.last_source = static_cast<int>(plan_->slots.size());
      Effort& effort = sweep ? plan_->pixel_effort : whole;
      effort.vectors += effort_;
      effort.instructions += share;
      if (auto* product = std::get_if<PackedProduct>(&step.body)) {
        effort.vectors += share * static_cast<double>(product->weights) / plan_->kernels->width;
        plan_epilogue(std::get<Product>(instruction.body), *product);
      }
      if (auto* product = std::get_if<PackedFastProduct>(&step.body))
        effort.vectors += share * static_cast<double>(product->floats) / plan_->kernels->width / product->columns;
      planned.push_back(std::move(step));
    }
    return planned;
  }

  void plan_body(const Product& product, int outputs, Step& step) {
    for (const Slot& tap : product.taps) number(tap);
    const int columns = step.rect.col1 - step.rect.col0;
    const Storage storage = storage_of(product, outputs, precision_);
    std::vector<float> kept;
    const Product as_stored = rounded(product, storage, kept);
    plan_->low_products += storage != kFloats;
    // Fast products transform the rounded weights and keep them as floats: rounded again they would err again, and they are
    // read once a row. They take neighbouring columns together, so those of a lattice or a sweep have none.
    const int cell = step.sweep || step.lattice.col_step > 1 ? 0 : cell_;
    auto fast = cell ? pack_fast_product(as_stored, outputs, cell, columns, *plan_->kernels, plan_->weights) : std::nullopt;
    if (fast) step.body = std::move(*fast);
    else step.body = pack_product(as_stored, outputs, storage, *plan_->kernels, plan_->weights);
    plan_->most_taps = std::max(plan_->most_taps, product.taps.size());
  }

  void plan_epilogue(const Product& product, PackedProduct& packed) {
    packed.relu = product.relu;
    if (product.added) packed.added = number(*product.added);
  }

  void plan_body(const Lookup& lookup, int, Step& step) {
    step.body = PackedLookup{lookup.taps, aligned(lookup.tables)};
    plan_->most_taps = std::max(plan_->most_taps, lookup.taps.size());
  }

  void plan_body(const Map& map, int outputs, Step& step) {
    CompiledMap compiled = compile_map(map, outputs, *this);
    plan_->most_leaves = std::max(plan_->most_leaves, compiled.leaves.size());
    plan_->most_registers = std::max(plan_->most_registers, static_cast<size_t>(compiled.registers));
    step.body = std::move(compiled);
  }

  void plan_body(const Reduce& reduce, int, Step& step) {
    for (const Slot& source : reduce.sources) number(source);
    step.body = PlannedReduce{reduce.kind, reduce.correction};
    plan_->most_taps = std::max(plan_->most_taps, reduce.sources.size());
  }

  void plan_body(const Norm& norm, int, Step& step) {
    number(norm.source);
    step.body = PlannedNorm{aligned(norm.scale), aligned(norm.shift), norm.eps, norm.relu};
  }

  void plan_body(const Attention& attention, int outputs, Step& step) {
    number(attention.query);
    number(slot_of(attention.keys));
    number(slot_of(attention.values));
    PlannedAttention planned{attention, aligned(attention.bias), rect_, {}, 0};
    planned.attention.bias = {};  // the plan outlives the arrays
    for (size_t list = 0; list + 1 < attention.offsets.size(); list++) {
      size_t keys = 0, runs = 0;
      for (int i = attention.offsets[list]; i < attention.offsets[list + 1]; i++) {
        const Run& run = attention.runs[i];
        keys += run.last - run.first;
        runs += (run.last - 1) / program_.width - run.first / program_.width + 1;
      }
      planned.first.push_back(planned.keys);
      planned.keys += keys;
      plan_->most_keys = std::max(plan_->most_keys, keys);
      plan_->most_runs = std::max(plan_->most_runs, runs);
    }
    const double keys = static_cast<double>(planned.keys) / static_cast<double>(planned.first.size());
    effort_ += keys * (attention.keys.count + outputs) / plan_->kernels->width;
    step.body = std::move(planned);
  }

  PlannedEncode plan_encode(const Encode& encode) {
    const Rect& domain = program_.buffers[encode.out.buffer].domain;
    const int count = encode.out.count, levels = program_.levels;
    Rect rect{std::max(domain.row0, 0), std::min(domain.row1, program_.height), std::max(domain.col0, 0),
              std::min(domain.col1, program_.width)};
    AlignedFloats table(encode.table.size());
    for (int f = 0; f < count; f++)
      for (int k = 0; k < levels; k++)
        table.data()[static_cast<size_t>(k) * count + f] = encode.table[static_cast<size_t>(f) * levels + k];
    return PlannedEncode{rect, number(encode.out), encode.channel, std::move(table)};
  }

  const Program& program_;
  std::unique_ptr<Plan> plan_;
  int cell_;  // of fast products, 0: none
  const Precision precision_;
  Rect rect_{};        // of the instruction that is planned
  double effort_ = 0;  // of it, where that is no matter of weights
};

}  // namespace

std::unique_ptr<const Plan> make_plan(Program program, const Kernels* kernels, int cell, Precision precision) {
  fuse(program);
  return Planner(program, kernels, cell, precision).make();
}

}  // namespace pixelfast
