// Four floats: NEON of 64-bit ARM. See vec_scalar.h for what each function does.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ops.h"

#ifdef PIXELFAST_EMULATE
#include "emulated_neon.h"
#else
#include <arm_neon.h>
#endif

namespace {

constexpr const char* kName = "neon";

struct Mask {
  uint32x4_t m;
};

struct Vec {
  static constexpr int width = 4;
  static constexpr int registers = 32;
  float32x4_t v;

  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec load(const pixelfast::Half* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))))};
  }
  static Vec load_first(const float* p, int n) {
    float lanes[4] = {0, 0, 0, 0};
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
  }
  static Vec set(float x) { return {vdupq_n_f32(x)}; }
  void store(float* p) const { vst1q_f32(p, v); }
  void store_first(float* p, int n) const {
    float lanes[4];
    store(lanes);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
  }
};

inline void keep([[maybe_unused]] Vec& a) {
#if defined(__GNUC__) && !defined(PIXELFAST_EMULATE)
  asm("" : "+w"(a.v));
#endif
}

inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
inline Vec floor(Vec a) { return {vrndmq_f32(a.v)}; }
inline Vec trunc(Vec a) { return {vrndq_f32(a.v)}; }
inline Vec round(Vec a) { return {vrndnq_f32(a.v)}; }
inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
inline Vec neg(Vec a) { return {vnegq_f32(a.v)}; }

inline float32x4_t power_of_two(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
// In two halves, so that results beyond the range of normal numbers come out right.
inline Vec ldexp(Vec a, Vec n) {
  int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1);
  return {vmulq_f32(vmulq_f32(a.v, power_of_two(half)), power_of_two(vsubq_s32(whole, half)))};
}


inline Mask equal(Vec a, Vec b) { return {vceqq_f32(a.v, b.v)}; }
inline Mask not_equal(Vec a, Vec b) { return {vmvnq_u32(vceqq_f32(a.v, b.v))}; }
inline Mask less(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
inline Mask less_equal(Vec a, Vec b) { return {vcleq_f32(a.v, b.v)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {vbslq_f32(m.m, a.v, b.v)}; }
inline bool all(Mask m) { return vminvq_u32(m.m) == 0xffffffffu; }

inline float sum(Vec a) { return vaddvq_f32(a.v); }
inline float largest(Vec a) { return vmaxvq_f32(a.v); }

}  // namespace
