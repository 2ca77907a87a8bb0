// Expressions, channel by channel: every operation streams over a block of rows, so that its dispatch is paid once for
// about a thousand numbers and what lies between two operations stays in the first-level cache.
#pragma once

namespace {

using pixelfast::ConstRows;
using pixelfast::kMapBlock;
using pixelfast::MapCall;
using pixelfast::MapLeaf;
using pixelfast::MapOp;
using pixelfast::Operation;
using pixelfast::Rows;
using pixelfast::RowsOf;

// Channels [first, first + count) of rows.
struct Operand {
  ConstRows source;
  ptrdiff_t first;
};

struct Target {
  Rows out;
  ptrdiff_t first, rows, count;
};

template <class F>
inline void each(const Target& t, const Operand* x, F function) {
  for (ptrdiff_t r = 0; r < t.rows; r++) {
    const float *a = row_of(x[0].source, r) + x[0].first, *b = row_of(x[1].source, r) + x[1].first;
    const float *c = row_of(x[2].source, r) + x[2].first, *d = row_of(x[3].source, r) + x[3].first;
    float* out = row_of(t.out, r) + t.first;
    ptrdiff_t i = 0;
    for (; i + Vec::width <= t.count; i += Vec::width)
      function([&](const float* p) { return Vec::load(p + i); }, a, b, c, d).store(out + i);
    if (i < t.count) {
      int left = static_cast<int>(t.count - i);
      function([&](const float* p) { return Vec::load_first(p + i, left); }, a, b, c, d).store_first(out + i, left);
    }
  }
}

template <class F>
inline void unary(const Target& t, const Operand* x, F f) {
  each(t, x, [&](auto load, const float* a, auto...) { return f(load(a)); });
}
template <class F>
inline void binary(const Target& t, const Operand* x, F f) {
  each(t, x, [&](auto load, const float* a, const float* b, auto...) { return f(load(a), load(b)); });
}
template <class F>
inline void ternary(const Target& t, const Operand* x, F f) {
  each(t, x, [&](auto load, const float* a, const float* b, const float* c, auto...) {
    return f(load(a), load(b), load(c));
  });
}

inline void gate_of_sums(const Target& t, const Operand* x) {
  each(t, x, [](auto load, const float* a, const float* b, const float* c, const float* d) {
    return gate(load(a) + load(b), load(c) + load(d));
  });
}

void fused(int code, const Target& t, const Operand* x) {
  switch (code) {
    case pixelfast::kGate: return binary(t, x, [](Vec a, Vec b) { return gate(a, b); });
    case pixelfast::kGateOfSums: return gate_of_sums(t, x);
    case pixelfast::kMulAdd: return ternary(t, x, [](Vec a, Vec b, Vec c) { return fma(a, b, c); });
    case pixelfast::kAddRelu: return binary(t, x, [](Vec a, Vec b) { return relu(a + b); });
    case pixelfast::kElu: return unary(t, x, [](Vec a) { return elu(a); });
    default: return unary(t, x, [](Vec a) { return a; });
  }
}

void compute(int code, const Target& t, const Operand* x) {
  const Vec zero = Vec::set(0.0f), one = Vec::set(1.0f);
  if (code >= pixelfast::kGate) return fused(code, t, x);
  switch (static_cast<Operation>(code)) {
    case Operation::neg: return unary(t, x, [](Vec a) { return neg(a); });
    case Operation::abs: return unary(t, x, [](Vec a) { return abs(a); });
    case Operation::exp: return unary(t, x, [](Vec a) { return exp(a); });
    case Operation::expm1: return unary(t, x, [](Vec a) { return expm1(a); });
    case Operation::log: return unary(t, x, [](Vec a) { return lanewise(a, ::logf); });
    case Operation::log1p: return unary(t, x, [](Vec a) { return lanewise(a, ::log1pf); });
    case Operation::sqrt: return unary(t, x, [](Vec a) { return sqrt(a); });
    case Operation::rsqrt: return unary(t, x, [&](Vec a) { return one / sqrt(a); });
    case Operation::reciprocal: return unary(t, x, [&](Vec a) { return one / a; });
    case Operation::tanh: return unary(t, x, [](Vec a) { return tanh(a); });
    case Operation::sigmoid: return unary(t, x, [](Vec a) { return sigmoid(a); });
    case Operation::erf: return unary(t, x, [](Vec a) { return lanewise(a, ::erff); });
    case Operation::sin: return unary(t, x, [](Vec a) { return lanewise(a, ::sinf); });
    case Operation::cos: return unary(t, x, [](Vec a) { return lanewise(a, ::cosf); });
    case Operation::atan: return unary(t, x, [](Vec a) { return lanewise(a, ::atanf); });
    case Operation::floor: return unary(t, x, [](Vec a) { return floor(a); });
    case Operation::trunc: return unary(t, x, [](Vec a) { return trunc(a); });
    case Operation::relu: return unary(t, x, [](Vec a) { return relu(a); });
    case Operation::logical_not: return unary(t, x, [&](Vec a) { return from_mask(equal(a, zero)); });
    case Operation::add: return binary(t, x, [](Vec a, Vec b) { return a + b; });
    case Operation::sub: return binary(t, x, [](Vec a, Vec b) { return a - b; });
    case Operation::mul: return binary(t, x, [](Vec a, Vec b) { return a * b; });
    case Operation::div: return binary(t, x, [](Vec a, Vec b) { return a / b; });
    case Operation::maximum: return binary(t, x, [](Vec a, Vec b) { return maximum(a, b); });
    case Operation::minimum: return binary(t, x, [](Vec a, Vec b) { return minimum(a, b); });
    case Operation::pow: return binary(t, x, [](Vec a, Vec b) { return lanewise(a, b, ::powf); });
    case Operation::eq: return binary(t, x, [](Vec a, Vec b) { return from_mask(equal(a, b)); });
    case Operation::ne: return binary(t, x, [](Vec a, Vec b) { return from_mask(not_equal(a, b)); });
    case Operation::lt: return binary(t, x, [](Vec a, Vec b) { return from_mask(less(a, b)); });
    case Operation::le: return binary(t, x, [](Vec a, Vec b) { return from_mask(less_equal(a, b)); });
    case Operation::gt: return binary(t, x, [](Vec a, Vec b) { return from_mask(less(b, a)); });
    case Operation::ge: return binary(t, x, [](Vec a, Vec b) { return from_mask(less_equal(b, a)); });
    case Operation::where:
      return ternary(t, x, [&](Vec c, Vec a, Vec b) { return select(not_equal(c, zero), a, b); });
  }
}

template <class Float>
inline RowsOf<Float> from_row(const RowsOf<Float>& rows, ptrdiff_t row) {
  if (rows.each) return {nullptr, rows.stride, rows.each + row};
  return {rows.base + row * rows.stride, rows.stride, nullptr};
}

// Rows of `count` floats without gaps.
template <class Float>
inline bool solid(const RowsOf<Float>& rows, ptrdiff_t count) {
  return !rows.each && rows.stride == count;
}

// One number of each row, repeated for all channels of the block.
void spread(const MapLeaf& leaf, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t count, float* out) {
  for (ptrdiff_t r = 0; r < rows; r++) {
    float value = *row_of(leaf.source, row + r);
    for (ptrdiff_t i = 0; i < count; i++) out[r * count + i] = value;
  }
}

// Channels [first, first + count) of all rows.
void map_channels(const MapCall& call, ptrdiff_t first, ptrdiff_t count) {
  const ptrdiff_t most = kMapBlock / count < 1 ? 1 : kMapBlock / count;
  for (ptrdiff_t row = 0; row < call.rows; row += most) {
    const ptrdiff_t rows = call.rows - row < most ? call.rows - row : most;
    for (int i = 0; i < call.leaf_count; i++) {
      const MapLeaf& leaf = call.leaves[i];
      if (leaf.broadcast && (row == 0 || leaf.source.each || leaf.source.stride != 0))
        spread(leaf, row, rows, count, call.registers + call.leaf_registers[i] * kMapBlock);
    }
    for (int i = 0; i < call.op_count; i++) {
      const MapOp& op = call.ops[i];
      Operand x[pixelfast::kMostArguments];
      bool whole = true;
      for (int a = 0; a < pixelfast::kMostArguments; a++) {
        const int arg = op.args[a];
        const MapLeaf* leaf = arg < 0 ? &call.leaves[~arg] : nullptr;
        if (leaf && !leaf->broadcast) x[a] = {from_row(leaf->source, row), first};
        else x[a] = {{call.registers + (leaf ? call.leaf_registers[~arg] : arg) * kMapBlock, count, nullptr}, 0};
        whole = whole && solid(x[a].source, count);
      }
      Target target = {{call.registers + op.out * kMapBlock, count, nullptr}, 0, rows, count};
      if (op.out < 0) target = {from_row(call.out, row), first, rows, count};
      if (whole && solid(target.out, count)) target.rows = 1, target.count = rows * count;
      compute(op.code, target, x);
    }
  }
}

void map(const MapCall& call) {
  for (ptrdiff_t first = 0; first < call.count; first += kMapBlock)
    map_channels(call, first, call.count - first < kMapBlock ? call.count - first : kMapBlock);
}

}  // namespace
