// All slots that an instruction reads or writes.
#pragma once

#include "program.h"

namespace pixelfast {

template <class F>
void for_each_slot(const Instruction& instruction, F f) {
  f(instruction.out);
  if (auto* product = std::get_if<Product>(&instruction.body))
    for (const Slot& tap : product->taps) f(tap);
  if (auto* reduce = std::get_if<Reduce>(&instruction.body))
    for (const Slot& source : reduce->sources) f(source);
  if (auto* norm = std::get_if<Norm>(&instruction.body)) f(norm->source);
  if (auto* map = std::get_if<Map>(&instruction.body))
    for (const Leaf& leaf : map->leaves)
      if (auto* slot = std::get_if<Slot>(&leaf)) f(*slot);
}

}  // namespace pixelfast
