// Pairs of bfloat16 by AVX-512 BF16: one instruction multiplies both halves and adds them to a float32.
//
// It takes numbers below 1.2e-38 for zero, and makes zero of such sums.
#pragma once

namespace {

struct Pairs {
  __m512bh v;

  Pairs() = default;
  Pairs(Vec bits) { memcpy(&v, &bits, sizeof v); }
};

inline void keep([[maybe_unused]] Pairs& a) {
#if defined(__GNUC__) && !defined(PIXELFAST_EMULATE)
  asm("" : "+v"(a.v));
#endif
}

inline Vec fma(const Pairs& a, const Pairs& b, Vec c) { return {_mm512_dpbf16_ps(c.v, a.v, b.v)}; }

}  // namespace
