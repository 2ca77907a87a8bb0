// NEON of 64-bit ARM on any processor, for tests only (make emulated): SIMDe's functions under the names of the intrinsics.
//
// What stands below is missing in SIMDe 0.7.4.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>

namespace {

inline float32x4_t emulated_vdivq_f32(float32x4_t a, float32x4_t b) {
  float x[4], y[4];
  vst1q_f32(x, a), vst1q_f32(y, b);
  for (int i = 0; i < 4; i++) x[i] /= y[i];
  return vld1q_f32(x);
}

inline float32x4_t emulated_vsqrtq_f32(float32x4_t a) {
  float x[4];
  vst1q_f32(x, a);
  for (float& lane : x) lane = ::sqrtf(lane);
  return vld1q_f32(x);
}

}  // namespace

#define vdivq_f32 emulated_vdivq_f32
#define vsqrtq_f32 emulated_vsqrtq_f32
