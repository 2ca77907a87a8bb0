// float16 by hand: the path for machines without an instruction for it, and what packing rounds with.
#pragma once

#include <stdint.h>
#include <string.h>

#include "ops.h"

namespace {

using pixelfast::Half;

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Exact. The exponents of float start 112 lower, and a multiplication makes numbers of subnormal ones.
inline float float_of(Half half) {
  const uint32_t magnitude = half.bits & 0x7fffu, sign = (half.bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  return float_of_bits(bits_of(float_of_bits(magnitude << 13) * 0x1p112f) | sign);
}

// To the nearest, ties to even; infinity from 65520 on.
inline Half half_of(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
  uint32_t found = 0x7c00;
  if (magnitude > 0x7f800000u) found = 0x7e00;
  // One half has the last place of subnormal numbers, 2^-24: adding it rounds there.
  else if (magnitude < 0x38800000u) found = bits_of(float_of_bits(magnitude) + 0.5f) - bits_of(0.5f);
  else if (magnitude < 0x477ff000u) found = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  return Half{static_cast<uint16_t>(sign | found)};
}

}  // namespace
