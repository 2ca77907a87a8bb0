// The inner loops for one instruction set: included once by each ops_*.cpp, after its vector type.
//
// Everything stands in an anonymous namespace and uses no inline function of the C++ library. Otherwise the linker
// could keep one copy of a function, compiled for AVX-512, for use by all instruction sets.
#pragma once

#include "../contract.h"
#include "math_impl.h"
#include "product_impl.h"
#include "map_impl.h"
#include "rows_impl.h"
#include "attention_impl.h"
#include "draw_impl.h"
#include "fast_impl.h"

namespace {

int sets(int vectors) { return sets_of_sums(vectors); }

int at_once(ptrdiff_t rows, int vectors) { return rows <= kMostRows ? kBlocks<float>[vectors - 1][rows - 1].most : 1; }

constexpr pixelfast::Kernels kKernels = {
    kName, Vec::width, kMostVectors, sets, at_once, {product<float>, product<pixelfast::Half>},
    fast_inputs, fast_outputs, map, reduce, norm, attend, add, draw};

}  // namespace
