#include "locals.h"

#include <algorithm>
#include <limits>

namespace pixelfast {
namespace {

// From the first to the last instruction of a pixel that touches a buffer, counted over all steps.
struct Life {
  bool local = true;
  int first = std::numeric_limits<int>::max(), last = -1;

  void touch(int time) { first = std::min(first, time), last = std::max(last, time); }
};

bool contains(const Rect& outer, const Rect& inner) {
  return outer.row0 <= inner.row0 && inner.row1 <= outer.row1 && outer.col0 <= inner.col0 && inner.col1 <= outer.col1;
}

class Finder {
 public:
  explicit Finder(const Program& program) : program_(program), lives_(program.buffers.size()) {}

  Locals find() {
    for (const Instruction& instruction : program_.row) {
      lives_[instruction.out.buffer].local = false;
      each_source(instruction, [&](const Slot& slot) { lives_[slot.buffer].local = false; });
    }
    int time = 0;
    for (int k = 0; k < program_.channels; k++) {
      for (const Instruction& instruction : program_.steps[k]) {
        lives_[instruction.out.buffer].touch(time);
        each_source(instruction, [&](const Slot& slot) { read(slot, instruction.rect, time); });
        time++;
      }
      read(program_.draws[k].source, Rect{0, program_.height, 0, program_.width}, time++);
      for (const Encode& encode : program_.encodes[k]) lives_[encode.out.buffer].local = false;
    }
    return place();
  }

 private:
  // Beyond its domain a buffer reads as zero, which takes storage.
  void read(const Slot& slot, const Rect& rect, int time) {
    Life& life = lives_[slot.buffer];
    const Rect run{std::max(rect.row0, program_.first_row), std::min(rect.row1, program_.height),
                   std::max(rect.col0, program_.col0), std::min(rect.col1, program_.col1)};
    if (slot.row != 0 || slot.col != 0 || !contains(program_.buffers[slot.buffer].domain, run)) life.local = false;
    life.touch(time);
  }

  template <class Use>
  static void each_source(const Instruction& instruction, Use use) {
    if (auto* product = std::get_if<Product>(&instruction.body))
      for (const Slot& tap : product->taps) use(tap);
    if (auto* map = std::get_if<Map>(&instruction.body))
      for (const Leaf& leaf : map->leaves)
        if (auto* slot = std::get_if<Slot>(&leaf)) use(*slot);
    if (auto* reduce = std::get_if<Reduce>(&instruction.body))
      for (const Slot& slot : reduce->sources) use(slot);
    if (auto* norm = std::get_if<Norm>(&instruction.body)) use(norm->source);
  }

  // Each at the lowest place that is free while it lives, in the order of their beginning.
  Locals place() const {
    Locals locals;
    locals.offset.assign(program_.buffers.size(), -1);
    std::vector<int> order;
    for (size_t b = 0; b < lives_.size(); b++)
      if (lives_[b].local && lives_[b].last >= 0) order.push_back(static_cast<int>(b));
    std::sort(order.begin(), order.end(), [&](int a, int b) { return lives_[a].first < lives_[b].first; });
    std::vector<int> placed;
    for (int buffer : order) {
      int offset = 0;
      for (bool moved = true; moved;) {
        moved = false;
        for (int other : placed) {
          const bool together = lives_[buffer].first <= lives_[other].last && lives_[other].first <= lives_[buffer].last;
          const int end = locals.offset[other] + size(other);
          if (together && offset < end && locals.offset[other] < offset + size(buffer)) offset = end, moved = true;
        }
      }
      locals.offset[buffer] = offset;
      locals.floats = std::max(locals.floats, offset + size(buffer));
      placed.push_back(buffer);
    }
    return locals;
  }

  // Whole cache lines.
  int size(int buffer) const { return (program_.buffers[buffer].features + 15) / 16 * 16; }

  const Program& program_;
  std::vector<Life> lives_;
};

}  // namespace

Locals find_locals(const Program& program) { return Finder(program).find(); }

}  // namespace pixelfast
