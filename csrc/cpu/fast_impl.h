// The two ends of a fast product (see fast_product.h): inputs at the points of toom.h, and outputs from sums at them.
#pragma once

#include "toom.h"

namespace {

using pixelfast::FastInputs;
using pixelfast::FastOutputs;

// sum over k of c[k] x[k]; the compiler knows c, and leaves out what is multiplied by 0 or 1
template <int Count>
inline Vec combination(const double* c, const Vec* x) {
  Vec total = Vec::set(0.0f);
  bool first = true;
#pragma GCC unroll 8
  for (int k = 0; k < Count; k++) {
    if (c[k] == 0.0) continue;
    if (first) total = c[k] == 1.0 ? x[k] : c[k] == -1.0 ? neg(x[k]) : x[k] * Vec::set(static_cast<float>(c[k]));
    else if (c[k] == 1.0) total = total + x[k];
    else if (c[k] == -1.0) total = total - x[k];
    else total = fma(x[k], Vec::set(static_cast<float>(c[k])), total);
    first = false;
  }
  return total;
}

template <int M, int R>
void transform_inputs(const FastInputs& call) {
  static constexpr Toom kToom = toom(M, R);
  constexpr int points = M + R - 1;
  for (int cell = 0; cell < call.cells; cell++) {
    // Columns that only outputs beyond the end would need are not read.
    const int most = cell + 1 < call.cells ? points - 1 : call.last + R - 2;
    ptrdiff_t column[points];
#pragma GCC unroll 8
    for (int k = 0; k < points; k++) column[k] = (k < most ? k : most) * call.col_stride;
    for (int image = 0; image < call.images; image++) {
      const float* source = call.source + cell * M * call.col_stride + image * call.stride;
      float* out = call.out + cell * call.cell_stride + image * call.count;
      for (ptrdiff_t i = 0; i < call.count; i += Vec::width) {
        const ptrdiff_t left = call.count - i;
        Vec x[points];
#pragma GCC unroll 8
        for (int k = 0; k < points; k++) x[k] = load_left(source + column[k] + i, left);
#pragma GCC unroll 8
        for (int p = 0; p < points; p++)
          store_left(combination<points>(kToom.inputs[p], x), out + p * call.point_stride + i, left);
      }
    }
  }
}

template <int M, int Points>
void transform_outputs(const FastOutputs& call) {
  static constexpr Toom kToom = toom(M, Points - M + 1);
  for (int cell = 0; cell < call.cells; cell++) {
    const int columns = cell + 1 < call.cells ? M : call.last;
    for (int image = 0; image < call.images; image++) {
      const float* sums = call.sums + cell * call.cell_stride + image * call.row_stride;
      float* out = call.out + cell * M * call.col_stride + image * call.stride;
      for (ptrdiff_t i = 0; i < call.count; i += Vec::width) {
        const ptrdiff_t left = call.count - i;
        Vec x[Points];
#pragma GCC unroll 8
        for (int p = 0; p < Points; p++) x[p] = Vec::load(sums + p * call.point_stride + i);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
          if (m >= columns) break;
          float* held = out + m * call.col_stride + i;
          const Vec start = call.bias ? Vec::load(call.bias + i) : load_left(held, left);
          store_left(start + combination<Points>(kToom.outputs[m], x), held, left);
        }
      }
    }
  }
}

void fast_inputs(const FastInputs& call) {
  if (call.columns == 2) {
    switch (call.width) {
      case 1: return transform_inputs<2, 1>(call);
      case 2: return transform_inputs<2, 2>(call);
      case 3: return transform_inputs<2, 3>(call);
      default: return transform_inputs<2, 4>(call);
    }
  }
  switch (call.width) {
    case 1: return transform_inputs<4, 1>(call);
    case 2: return transform_inputs<4, 2>(call);
    case 3: return transform_inputs<4, 3>(call);
    default: return transform_inputs<4, 4>(call);
  }
}

void fast_outputs(const FastOutputs& call) {
  if (call.columns == 2) {
    switch (call.points) {
      case 3: return transform_outputs<2, 3>(call);
      case 4: return transform_outputs<2, 4>(call);
      default: return transform_outputs<2, 5>(call);
    }
  }
  switch (call.points) {
    case 5: return transform_outputs<4, 5>(call);
    case 6: return transform_outputs<4, 6>(call);
    default: return transform_outputs<4, 7>(call);
  }
}

}  // namespace
