#include "rounded_inputs.h"

#include <algorithm>

namespace pixelfast {
namespace {

constexpr ptrdiff_t kChunk = 48;  // rows: whole blocks of every size, and what they read stays in the second-level cache

template <class Float>
RowsOf<Float> from_row(const RowsOf<Float>& rows, ptrdiff_t m) {
  if (rows.each) return {nullptr, rows.stride, rows.each + m};
  return {rows.base + m * rows.stride, rows.stride, nullptr};
}

}  // namespace

RoundedInputs::RoundedInputs(size_t most_pairs, size_t most_taps) : pairs_(kChunk * most_pairs), taps_(most_taps) {}

void RoundedInputs::run(ProductCall call, const Kernels& kernels) {
  const ProductCall whole = call;
  ptrdiff_t stride = 0;
  for (ptrdiff_t t = 0; t < call.tap_count; t++) stride += pairs_of(call.taps[t].count);
  call.taps = taps_.data();
  for (ptrdiff_t row = 0; row < whole.rows; row += kChunk) {
    call.rows = std::min(kChunk, whole.rows - row);
    call.out = from_row(whole.out, row), call.added = from_row(whole.added, row);
    float* next = pairs_.data();
    for (ptrdiff_t t = 0; t < call.tap_count; t++) {
      const Tap& tap = whole.taps[t];
      kernels.round_pairs({from_row(tap.source, row), tap.count, call.rows, next, stride});
      taps_[t] = Tap{{next, stride, nullptr}, tap.first, pairs_of(tap.count)};
      next += pairs_of(tap.count);
    }
    kernels.product[kPairs](call);
  }
}

}  // namespace pixelfast
