// All slots that an instruction reads or writes, and which of them meet. What attention keeps counts as read on the row above.
#pragma once

#include "program.h"

namespace pixelfast {

// Whether two slots share channels of a buffer, in whatever rows and columns.
inline bool overlap(const Slot& a, const Slot& b) {
  return a.buffer == b.buffer && a.channel < b.channel + b.count && b.channel < a.channel + a.count;
}

inline Slot slot_of(const Cache& cache) { return Slot{cache.buffer, cache.channel, cache.count, -1, 0}; }

// Whether a body adds to what its destination holds.
inline bool adds(const Product& product) { return product.bias.empty(); }
inline bool adds(const Lookup&) { return true; }
inline bool adds(const Map&) { return false; }
inline bool adds(const Reduce&) { return false; }
inline bool adds(const Norm&) { return false; }
inline bool adds(const Attention&) { return false; }
inline bool adds(const Body& body) {
  return std::visit([](const auto& kind) { return adds(kind); }, body);
}

template <class F>
void for_each_slot(const Instruction& instruction, F f) {
  f(instruction.out);
  each_slot(instruction.body, f);
  if (auto* product = std::get_if<Product>(&instruction.body))
    if (product->added) f(*product->added);
  each_cache(instruction.body, [&](const Cache& cache) { f(slot_of(cache)); });
}

}  // namespace pixelfast
