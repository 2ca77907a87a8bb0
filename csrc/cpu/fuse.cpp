// Instructions that one pass can do: a normalisation and the relu of its result.
//
// The relu costs nothing there, but as an instruction of its own 150 cycles, and a PixelCNN of 17 layers has one after
// each of them: 10 % of the time for a single image.
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

// How often each buffer is read or written.
std::vector<int> count_uses(const Program& program) {
  std::vector<int> uses(program.buffers.size(), 0);
  auto count = [&](const Slot& slot) { uses[slot.buffer]++; };
  for (const Instruction& instruction : program.row) for_each_slot(instruction, count);
  for (const auto& list : program.steps)
    for (const Instruction& instruction : list) for_each_slot(instruction, count);
  for (const Draw& draw : program.draws) count(draw.source);
  for (const auto& list : program.encodes)
    for (const Encode& encode : list) count(encode.out);
  return uses;
}

// The slot that `instruction` is the relu of, or null.
const Slot* relu_of(const Instruction& instruction) {
  const auto* map = std::get_if<Map>(&instruction.body);
  if (!map || map->leaves.size() != 1 || map->ops.size() != 1 || map->ops[0].name != Operation::relu) return nullptr;
  return std::get_if<Slot>(&map->leaves[0]);
}

void fuse(std::vector<Instruction>& list, const std::vector<int>& uses) {
  for (size_t i = 0; i + 1 < list.size(); i++) {
    auto* norm = std::get_if<Norm>(&list[i].body);
    const Slot* source = relu_of(list[i + 1]);
    if (!norm || !source || !same(*source, list[i].out) || !same(list[i].rect, list[i + 1].rect)) continue;
    const Slot& out = list[i + 1].out;
    if (uses[source->buffer] != 2 || out.buffer == norm->source.buffer) continue;
    norm->relu = true;
    list[i].out = out;
    list[i + 1].rect = Rect{0, 0, 0, 0};  // never runs, but keeps its position
  }
}

}  // namespace

void fuse(Program& program) {
  const std::vector<int> uses = count_uses(program);
  fuse(program.row, uses);
  for (auto& list : program.steps) fuse(list, uses);
}

}  // namespace pixelfast
