// Pairs of bfloat16 where there is no instruction for them: both halves become float32, and meet one after the other.
#pragma once

namespace {

struct Pairs {
  Vec first, second;

  Pairs() = default;
  Pairs(Vec bits) : first(low_halves(bits)), second(high_halves(bits)) {}
};

inline void keep(Pairs& a) {
  keep(a.first);
  keep(a.second);
}

inline Vec fma(const Pairs& a, const Pairs& b, Vec c) { return fma(a.second, b.second, fma(a.first, b.first, c)); }

}  // namespace
