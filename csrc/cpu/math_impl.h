// Elementary functions on vectors, to about 2 units in the last place of float32. Included after one vec_*.h.
#pragma once

namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // their sum is ln 2; n * kLn2High is exact

// x = n ln 2 + r with |r| <= ln(2)/2; gives exp(r) - 1, and n.
inline Vec reduced_expm1(Vec x, Vec& n) {
  n = round(x * Vec::set(kLog2e));
  Vec r = fma(n, Vec::set(-kLn2Low), fma(n, Vec::set(-kLn2High), x));
  Vec p = Vec::set(1.9875691500e-4f);
  p = fma(p, r, Vec::set(1.3981999507e-3f));
  p = fma(p, r, Vec::set(8.3334519073e-3f));
  p = fma(p, r, Vec::set(4.1665795894e-2f));
  p = fma(p, r, Vec::set(1.6666665459e-1f));
  p = fma(p, r, Vec::set(5.0000001201e-1f));
  return fma(p * r, r, r);
}

inline Vec clamp(Vec x, float low, float high) { return max(Vec::set(low), min(Vec::set(high), x)); }  // keeps NaN

inline Vec exp(Vec x) {
  Vec n, p = reduced_expm1(clamp(x, -105.0f, 89.0f), n);
  return ldexp(p + Vec::set(1.0f), n);
}

// 2^n p + (2^n - 1), in halves, since 2^128 is no float.
inline Vec expm1(Vec x) {
  Vec n, p = reduced_expm1(clamp(x, -30.0f, 89.0f), n);
  Vec half = ldexp(Vec::set(0.5f), n);
  Vec result = fma(half, p, half - Vec::set(0.5f));
  return select(equal(n, Vec::set(0.0f)), p, result + result);
}

inline Vec tanh(Vec x) {
  Vec clamped = clamp(x, -10.0f, 10.0f), e = expm1(clamped + clamped);
  return e / (e + Vec::set(2.0f));
}

inline Vec sigmoid(Vec x) { return Vec::set(1.0f) / (Vec::set(1.0f) + exp(neg(x))); }

// tanh(a) sigmoid(b) with one division.
inline Vec gate(Vec a, Vec b) {
  Vec clamped = clamp(a, -10.0f, 10.0f), e = expm1(clamped + clamped);
  return e / ((e + Vec::set(2.0f)) * (Vec::set(1.0f) + exp(neg(b))));
}

inline Vec elu(Vec x) { return select(less(Vec::set(0.0f), x), x, expm1(x)); }

inline Vec relu(Vec x) { return max(Vec::set(0.0f), x); }  // NaN stays NaN

// NaN where either is NaN.
inline Vec maximum(Vec a, Vec b) { return select(not_equal(a, a), a, max(a, b)); }
inline Vec minimum(Vec a, Vec b) { return select(not_equal(a, a), a, min(a, b)); }

inline Vec from_mask(Mask m) { return select(m, Vec::set(1.0f), Vec::set(0.0f)); }

// A function of the C library, lane by lane.
template <class Function>
inline Vec lanewise(Vec a, Function function) {
  float lanes[Vec::width];
  a.store(lanes);
  for (int i = 0; i < Vec::width; i++) lanes[i] = function(lanes[i]);
  return Vec::load(lanes);
}

template <class Function>
inline Vec lanewise(Vec a, Vec b, Function function) {
  float left[Vec::width], right[Vec::width];
  a.store(left);
  b.store(right);
  for (int i = 0; i < Vec::width; i++) left[i] = function(left[i], right[i]);
  return Vec::load(left);
}

}  // namespace
