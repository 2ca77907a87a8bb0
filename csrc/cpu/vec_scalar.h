// One number at a time: the definition of what every vector type does, and the path for machines without vectors.
//
// max(a, b) and min(a, b) give b where either is NaN. Comparisons with NaN are false, not_equal is true.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

namespace {

constexpr const char* kName = "scalar";

struct Mask {
  bool m;
};

struct Vec {
  static constexpr int width = 1;
  static constexpr int registers = 16;
  float v;

  static Vec load(const float* p) { return {*p}; }
  static Vec load(const pixelfast::Half* p) { return {float_of(*p)}; }
  static Vec load_first(const float* p, int) { return {*p}; }  // lanes from n on are 0
  static Vec set(float x) { return {x}; }
  void store(float* p) const { *p = v; }
  void store_first(float* p, int) const { *p = v; }
};

inline void keep(Vec&) {}  // in a register, from now on

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec sqrt(Vec a) { return {::sqrtf(a.v)}; }
inline Vec floor(Vec a) { return {::floorf(a.v)}; }
inline Vec trunc(Vec a) { return {::truncf(a.v)}; }
inline Vec round(Vec a) { return {::rintf(a.v)}; }  // to the nearest, ties to even
inline Vec abs(Vec a) { return {::fabsf(a.v)}; }
inline Vec neg(Vec a) { return {-a.v}; }
// a * 2^n for a whole number |n| <= 200, NaN where either is NaN
inline Vec ldexp(Vec a, Vec n) { return {n.v == n.v ? ::ldexpf(a.v, static_cast<int>(n.v)) : n.v}; }


inline Mask equal(Vec a, Vec b) { return {a.v == b.v}; }
inline Mask not_equal(Vec a, Vec b) { return {a.v != b.v}; }
inline Mask less(Vec a, Vec b) { return {a.v < b.v}; }
inline Mask less_equal(Vec a, Vec b) { return {a.v <= b.v}; }
inline Vec select(Mask m, Vec a, Vec b) { return m.m ? a : b; }
inline bool all(Mask m) { return m.m; }

inline float sum(Vec a) { return a.v; }
inline float largest(Vec a) { return a.v; }

}  // namespace
