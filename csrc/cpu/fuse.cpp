// Instructions that one pass can do: a normalisation and the relu of its result, or a product, what is added to it (the
// residual of a layer) and the relu.
//
// Such an ending costs next to nothing there, but as an instruction of its own 150 to 250 cycles, and networks have one after
// each layer: 10 % of the time for a single image.
#include <algorithm>
#include <optional>

#include "../slots.h"
#include "plan.h"

namespace pixelfast {
namespace {

bool same(const Slot& a, const Slot& b) {
  return a.buffer == b.buffer && a.channel == b.channel && a.count == b.count && a.row == b.row && a.col == b.col;
}

bool same(const Rect& a, const Rect& b) {
  return a.row0 == b.row0 && a.row1 == b.row1 && a.col0 == b.col0 && a.col1 == b.col1;
}

bool same(const Lattice& a, const Lattice& b) {
  return a.row_step == b.row_step && a.row_phase == b.row_phase && a.col_step == b.col_step && a.col_phase == b.col_phase;
}

// Every slot that is read or written anywhere.
std::vector<Slot> slots_of(const Program& program) {
  std::vector<Slot> slots;
  const auto note = [&](const Slot& slot) { slots.push_back(slot); };
  for (const Instruction& instruction : program.row) for_each_slot(instruction, note);
  for (const auto& list : program.steps)
    for (const Instruction& instruction : list) for_each_slot(instruction, note);
  for (const Draw& draw : program.draws) note(draw.source);
  for (const auto& list : program.encodes)
    for (const Encode& encode : list) note(encode.out);
  return slots;
}

// Whether nothing but two instructions, of which one writes it and the other reads it, touches what `slot` holds.
bool handed_on(const Slot& slot, const std::vector<Slot>& slots) {
  return std::count_if(slots.begin(), slots.end(), [&](const Slot& other) { return overlap(slot, other); }) == 2;
}

// What a map does to one of its sources if that is all it does: adds `added`, takes the relu, or both.
struct Ending {
  std::optional<Slot> added;
  bool relu = false;
};

// Whether `map` is such an ending to what `source` holds.
std::optional<Ending> ending_of(const Map& map, const Slot& source) {
  const auto slot = [&](int leaf) { return std::get_if<Slot>(&map.leaves[leaf]); };
  const auto is_relu = [](const Op& op) { return op.name == Operation::relu; };
  const int leaves = static_cast<int>(map.leaves.size());
  if (leaves == 1 && map.ops.size() == 1 && is_relu(map.ops[0]) && slot(0) && same(*slot(0), source)) return Ending{{}, true};
  if (leaves != 2 || map.ops.empty() || map.ops.size() > 2 || map.ops[0].name != Operation::add || !slot(0) || !slot(1))
    return std::nullopt;
  if (map.ops[0].args[0] + map.ops[0].args[1] != 1) return std::nullopt;  // not the two of them
  const bool relu = map.ops.size() == 2;
  if (relu && !(is_relu(map.ops[1]) && map.ops[1].args[0] == leaves)) return std::nullopt;
  const int other = same(*slot(0), source) ? 1 : 0;
  if (!same(*slot(1 - other), source) || slot(other)->count != source.count) return std::nullopt;
  return Ending{*slot(other), relu};
}

// A normalisation takes a relu along; a product, also what is added to it.
bool take_along(Instruction& first, const Ending& ending, const Slot& out) {
  if (auto* norm = std::get_if<Norm>(&first.body)) {
    if (ending.added || out.buffer == norm->source.buffer) return false;
    norm->relu = true;
    return true;
  }
  auto* product = std::get_if<Product>(&first.body);
  if (!product || product->bias.empty()) return false;
  const auto is_out = [&](const Slot& slot) { return slot.buffer == out.buffer; };
  if (std::any_of(product->taps.begin(), product->taps.end(), is_out)) return false;
  if (ending.added && is_out(*ending.added) && !same(*ending.added, out)) return false;
  product->added = ending.added, product->relu = ending.relu;
  return true;
}

// Of the instructions of a row, products stay as they are: fast ones have no ending.
void fuse(std::vector<Instruction>& list, const std::vector<Slot>& slots, bool products, const std::vector<int>& ranks) {
  for (size_t i = 0; i + 1 < list.size(); i++) {
    Instruction &first = list[i], &next = list[i + 1];
    const auto* map = std::get_if<Map>(&next.body);
    const bool together = same(first.rect, next.rect) && same(first.lattice, next.lattice) && first.sweep == next.sweep;
    if (!map || !together || first.out.count != next.out.count) continue;
    if (std::holds_alternative<Product>(first.body) && !products) continue;
    const std::optional<Ending> ending = ending_of(*map, first.out);
    if (!ending || (!ranks.empty() && ranks[i + 1] != ranks[i] + 1)) continue;
    if (!handed_on(first.out, slots) || !take_along(first, *ending, next.out)) continue;
    first.out = next.out;
    next.rect = Rect{0, 0, 0, 0};  // never runs, but keeps its position
  }
}

// When each instruction of step k runs in known rows; empty if they run column by column.
std::vector<int> ranks_of(const Program& program, int k) {
  if (program.known_order.empty()) return {};
  int first = 0;
  for (int step = 0; step < k; step++) first += static_cast<int>(program.steps[step].size()) + 1;
  std::vector<int> ranks(program.steps[k].size());
  for (size_t rank = 0; rank < program.known_order.size(); rank++) {
    const int index = program.known_order[rank] - first;
    if (index >= 0 && index < static_cast<int>(ranks.size())) ranks[index] = static_cast<int>(rank);
  }
  return ranks;
}

}  // namespace

void fuse(Program& program) {
  const std::vector<Slot> slots = slots_of(program);
  fuse(program.row, slots, false, {});
  for (int k = 0; k < program.channels; k++) fuse(program.steps[k], slots, true, ranks_of(program, k));
}

}  // namespace pixelfast
