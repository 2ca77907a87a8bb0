#include "locals.h"

#include <algorithm>
#include <limits>

#include "../slots.h"

namespace pixelfast {
namespace {

struct Span {
  int first = std::numeric_limits<int>::max(), last = -1;

  void touch(int time) { first = std::min(first, time), last = std::max(last, time); }
  bool meets(const Span& other) const { return first <= other.last && other.first <= last; }
};

// From the first to the last instruction that touches a buffer, counted within a row's, or over the steps of a pixel: there,
// in their order and in the one of known rows.
struct Life {
  bool local = true;
  Span stepwise, known;

  bool meets(const Life& other) const { return stepwise.meets(other.stepwise) || known.meets(other.known); }
};

bool contains(const Rect& outer, const Rect& inner) {
  return outer.row0 <= inner.row0 && inner.row1 <= outer.row1 && outer.col0 <= inner.col0 && inner.col1 <= outer.col1;
}

class Finder {
 public:
  Finder(const Program& program, bool rows)
      : program_(program), rows_(rows), lives_(program.buffers.size()), ranks_(program.known_order.size()) {
    for (size_t rank = 0; rank < ranks_.size(); rank++) ranks_[program.known_order[rank]] = static_cast<int>(rank);
  }

  Locals find() {
    int time = 0;
    for (size_t i = 0; i < program_.row.size(); i++) {
      use(program_.row[i], rows_, time);
      // What runs together, column by column, is one moment.
      if (const int sweep = program_.row[i].sweep; sweep && i + 1 < program_.row.size() && program_.row[i + 1].sweep == sweep) time--;
    }
    if (!rows_) time = 0;
    for (int k = 0; k < program_.channels; k++) {
      for (const Instruction& instruction : program_.steps[k]) use(instruction, !rows_, time);
      if (rows_) lives_[program_.draws[k].source.buffer].local = false;
      else use(program_.draws[k].source, Rect{0, program_.height, 0, program_.width}, time);
      time++;
      for (const Encode& encode : program_.encodes[k]) lives_[encode.out.buffer].local = false;
    }
    return place();
  }

 private:
  // `may`: whether buffers that this instruction touches may be among those that are looked for.
  void use(const Instruction& instruction, bool may, int& time) {
    if (may) for_each_slot(instruction, [&](const Slot& slot) { use(slot, instruction.rect, time); });
    else for_each_slot(instruction, [&](const Slot& slot) { lives_[slot.buffer].local = false; });
    time++;
  }

  // Beyond its domain a buffer reads as zero, which takes storage.
  void use(const Slot& slot, const Rect& rect, int time) {
    Life& life = lives_[slot.buffer];
    const Rect run{std::max(rect.row0, program_.first_row), std::min(rect.row1, program_.height),
                   std::max(rect.col0, program_.col0), std::min(rect.col1, program_.col1)};
    if (run.row0 >= run.row1 || run.col0 >= run.col1) return;  // never runs, and was not validated
    const Rect seen{run.row0, run.row1, run.col0 + slot.col, run.col1 + slot.col};
    const bool here = slot.row == 0 && (rows_ || slot.col == 0);
    if (!here || !contains(program_.buffers[slot.buffer].domain, seen)) life.local = false;
    life.stepwise.touch(time);
    if (!rows_ && !ranks_.empty()) life.known.touch(ranks_[time]);
  }

  // Each at the lowest place that is free while it lives, in the order of their beginning.
  Locals place() const {
    Locals locals;
    locals.offset.assign(program_.buffers.size(), -1);
    std::vector<int> order;
    for (size_t b = 0; b < lives_.size(); b++)
      if (lives_[b].local && lives_[b].stepwise.last >= 0) order.push_back(static_cast<int>(b));
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return lives_[a].stepwise.first < lives_[b].stepwise.first;
    });
    std::vector<int> placed;
    for (int buffer : order) {
      ptrdiff_t offset = 0;
      for (bool moved = true; moved;) {
        moved = false;
        for (int other : placed) {
          const bool together = lives_[buffer].meets(lives_[other]);
          const ptrdiff_t end = locals.offset[other] + size(other);
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
  ptrdiff_t size(int buffer) const {
    const Buffer& b = program_.buffers[buffer];
    return (static_cast<ptrdiff_t>(b.features) * (rows_ ? b.col1 - b.col0 : 1) + 15) / 16 * 16;
  }

  const Program& program_;
  const bool rows_;
  std::vector<Life> lives_;
  std::vector<int> ranks_;  // of instructions and draws of the steps, among those of a known row
};

}  // namespace

Locals find_locals(const Program& program) { return Finder(program, false).find(); }

Locals find_row_scratch(const Program& program) { return Finder(program, true).find(); }

}  // namespace pixelfast
