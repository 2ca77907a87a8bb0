// AVX-512 on any processor, for tests only (make emulated): SIMDe's functions under the names of the intrinsics.
//
// What stands below is missing in SIMDe 0.7.4, or wrong: its scalef makes infinity of 0.7 * 2^128, and its roundscale forgets
// to put brackets around an argument.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

namespace {

struct EmulatedLanes {
  float x[16];

  explicit EmulatedLanes(simde__m512 a) { simde_mm512_storeu_ps(x, a); }
  simde__m512 vector() const { return simde_mm512_loadu_ps(x); }
};

inline simde__m512 emulated_cvtph_ps(simde__m256i a) {
  simde__m128i parts[2];
  memcpy(parts, &a, sizeof a);
  const simde__m256 wide[] = {simde_mm256_cvtph_ps(parts[0]), simde_mm256_cvtph_ps(parts[1])};
  return simde_mm512_loadu_ps(wide);
}

inline simde__m512 emulated_maskz_loadu_ps(simde__mmask16 mask, const float* p) {
  EmulatedLanes lanes(simde_mm512_setzero_ps());
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) lanes.x[i] = p[i];
  return lanes.vector();
}

inline void emulated_mask_storeu_ps(float* p, simde__mmask16 mask, simde__m512 a) {
  const EmulatedLanes lanes(a);
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) p[i] = lanes.x[i];
}

inline simde__m512 emulated_scalef_ps(simde__m512 a, simde__m512 n) {
  EmulatedLanes lanes(a);
  const EmulatedLanes powers(n);
  for (int i = 0; i < 16; i++)
    lanes.x[i] = powers.x[i] == powers.x[i] ? ::ldexpf(lanes.x[i], static_cast<int>(powers.x[i])) : powers.x[i];
  return lanes.vector();
}

template <class Combine>
inline float emulated_reduce(simde__m512 a, Combine combine) {
  EmulatedLanes lanes(a);
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; i++) lanes.x[i] = combine(lanes.x[i], lanes.x[i + n]);
  return lanes.x[0];
}

inline float emulated_reduce_add_ps(simde__m512 a) {
  return emulated_reduce(a, [](float x, float y) { return x + y; });
}

inline float emulated_reduce_max_ps(simde__m512 a) {
  return emulated_reduce(a, [](float x, float y) { return x > y ? x : y; });
}

}  // namespace

#undef _mm512_scalef_ps
#undef _mm512_roundscale_ps
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_scalef_ps emulated_scalef_ps
#define _mm512_roundscale_ps(a, how) simde_mm512_roundscale_ps(a, (how))
#define _mm512_reduce_add_ps emulated_reduce_add_ps
#define _mm512_reduce_max_ps emulated_reduce_max_ps
