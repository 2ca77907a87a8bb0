// All slots that an instruction reads or writes, and which of them meet. What attention keeps counts as read on the row above.
#pragma once

#include "program.h"

namespace pixelfast {

// Whether two slots share channels of a buffer, in whatever rows and columns.
inline bool overlap(const Slot& a, const Slot& b) {
  return a.buffer == b.buffer && a.channel < b.channel + b.count && b.channel < a.channel + a.count;
}

inline Slot slot_of(const Cache& cache) { return Slot{cache.buffer, cache.channel, cache.count, -1, 0}; }

template <class F>
void for_each_slot(const Instruction& instruction, F f) {
  f(instruction.out);
  if (auto* product = std::get_if<Product>(&instruction.body)) {
    for (const Slot& tap : product->taps) f(tap);
    if (product->added) f(*product->added);
  }
  if (auto* reduce = std::get_if<Reduce>(&instruction.body))
    for (const Slot& source : reduce->sources) f(source);
  if (auto* norm = std::get_if<Norm>(&instruction.body)) f(norm->source);
  if (auto* attention = std::get_if<Attention>(&instruction.body)) {
    f(attention->query);
    f(slot_of(attention->keys));
    f(slot_of(attention->values));
  }
  if (auto* map = std::get_if<Map>(&instruction.body))
    for (const Leaf& leaf : map->leaves)
      if (auto* slot = std::get_if<Slot>(&leaf)) f(*slot);
}

}  // namespace pixelfast
