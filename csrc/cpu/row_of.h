// Where a row of numbers starts. See ops_impl.h for why this is no member function.
#pragma once

#include "ops.h"

namespace {

template <class Float>
inline Float* row_of(const pixelfast::RowsOf<Float>& rows, ptrdiff_t m) {
  return rows.each ? rows.each[m] + rows.stride : rows.base + m * rows.stride;
}

}  // namespace
