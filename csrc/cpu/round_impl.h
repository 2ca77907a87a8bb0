// Rounds rows of inputs to pairs of bfloat16. By integers, and plainly enough for the compiler to make vectors of it.
#pragma once

#include "half.h"

namespace {

void round_pairs(const pixelfast::RoundCall& call) {
  for (ptrdiff_t m = 0; m < call.rows; m++) {
    const float* const x = row_of(call.source, m);
    float* const out = call.out + m * call.stride;
    const ptrdiff_t whole = call.count / 2;
    for (ptrdiff_t k = 0; k < whole; k++) out[k] = pair_of(x[2 * k], x[2 * k + 1]).bits;
    if (call.count % 2) out[whole] = pair_of(x[2 * whole], 0.0f).bits;
  }
}

}  // namespace
