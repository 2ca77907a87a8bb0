// Row by row: reductions over channels, layer normalisation, and sums of table rows.
#pragma once

namespace {

using pixelfast::NormCall;
using pixelfast::ReduceCall;
using pixelfast::Reduction;
using pixelfast::Span;

inline Vec load_left(const float* p, ptrdiff_t left) {
  return left >= Vec::width ? Vec::load(p) : Vec::load_first(p, static_cast<int>(left));
}

inline void store_left(Vec x, float* p, ptrdiff_t left) {
  if (left >= Vec::width) x.store(p);
  else x.store_first(p, static_cast<int>(left));
}

// Sum of function(x) over `count` numbers, in two chains.
template <class F>
inline float sum_of(const float* x, ptrdiff_t count, F function) {
  Vec even = Vec::set(0.0f), odd = even;
  ptrdiff_t i = 0;
  for (; i + 2 * Vec::width <= count; i += 2 * Vec::width) {
    even = even + function(Vec::load(x + i));
    odd = odd + function(Vec::load(x + i + Vec::width));
  }
  float total = 0.0f;
  for (; i + Vec::width <= count; i += Vec::width) even = even + function(Vec::load(x + i));
  if (i < count) {  // the lanes beyond the end must not count, whatever the function makes of 0
    float lanes[Vec::width];
    function(Vec::load_first(x + i, static_cast<int>(count - i))).store(lanes);
    for (ptrdiff_t lane = 0; lane < count - i; lane++) total += lanes[lane];
  }
  return total + sum(even + odd);
}

template <class F>
inline float sum_row(const ReduceCall& call, ptrdiff_t row, F function) {
  float total = 0.0f;
  for (int s = 0; s < call.source_count; s++) {
    const Span& span = call.sources[s];
    total += sum_of(row_of(span.source, row), span.count, function);
  }
  return total;
}

// The largest or smallest number; NaN if there is one.
template <bool Largest>
inline float extreme_row(const ReduceCall& call, ptrdiff_t row) {
  float best = Largest ? -INFINITY : INFINITY;
  for (int s = 0; s < call.source_count; s++) {
    const Span& span = call.sources[s];
    const float* x = row_of(span.source, row);
    for (ptrdiff_t i = 0; i < span.count; i++)
      if ((Largest ? x[i] > best : x[i] < best) || x[i] != x[i]) best = x[i];
    if (best != best) return best;
  }
  return best;
}

inline float log_sum_exp(const ReduceCall& call, ptrdiff_t row) {
  float top = extreme_row<true>(call, row);
  if (top == INFINITY || top == -INFINITY) top = 0.0f;
  Vec shift = Vec::set(top);
  return top + ::logf(sum_row(call, row, [&](Vec x) { return exp(x - shift); }));
}

inline float variance(const ReduceCall& call, ptrdiff_t row, float count) {
  Vec mean = Vec::set(sum_row(call, row, [](Vec x) { return x; }) / count);
  float squares = sum_row(call, row, [&](Vec x) { return (x - mean) * (x - mean); });
  float freedom = count - call.correction;
  return squares / (freedom > 0.0f ? freedom : 0.0f);
}

void reduce(const ReduceCall& call) {
  ptrdiff_t count = 0;
  for (int s = 0; s < call.source_count; s++) count += call.sources[s].count;
  const float n = static_cast<float>(count);
  for (ptrdiff_t row = 0; row < call.rows; row++) {
    float& out = *row_of(call.out, row);
    switch (static_cast<Reduction>(call.kind)) {
      case Reduction::mean: out = sum_row(call, row, [](Vec x) { return x; }) / n; break;
      case Reduction::sum: out = sum_row(call, row, [](Vec x) { return x; }); break;
      case Reduction::var: out = variance(call, row, n); break;
      case Reduction::amax: out = extreme_row<true>(call, row); break;
      case Reduction::amin: out = extreme_row<false>(call, row); break;
      case Reduction::logsumexp: out = log_sum_exp(call, row); break;
    }
  }
}

inline void norm_row(const NormCall& call, const float* x, float* out) {
  const ptrdiff_t count = call.source.count;
  const float n = static_cast<float>(count);
  const Vec least = Vec::set(call.relu ? 0.0f : -INFINITY);
  // Numbers that hardly differ from each other differ less from their mean than its last bit. From the first one they differ by
  // what they differ at all: of these differences, no mean is large.
  const Vec first = Vec::set(x[0]);
  const Vec mean = Vec::set(sum_of(x, count, [&](Vec v) { return v - first; }) / n);
  const auto centred = [&](Vec v) { return (v - first) - mean; };
  const float var = sum_of(x, count, [&](Vec v) { return centred(v) * centred(v); }) / n;
  const Vec rate = Vec::set(1.0f / ::sqrtf(var + call.eps));
  for (ptrdiff_t i = 0; i < count; i += Vec::width) {
    const ptrdiff_t left = count - i;
    const Vec normal = centred(load_left(x + i, left)) * rate;
    const Vec scaled = fma(normal, load_left(call.scale + i, left), load_left(call.shift + i, left));
    store_left(max(least, scaled), out + i, left);
  }
}

// The same for NV whole vectors, which stay in registers.
template <int NV>
inline void norm_vectors(const NormCall& call, const float* x, float* out) {
  constexpr float n = NV * Vec::width;
  const Vec least = Vec::set(call.relu ? 0.0f : -INFINITY);
  const Vec first = Vec::set(x[0]);
  Vec v[NV], total = Vec::set(0.0f), squares = total;
#pragma GCC unroll 8
  for (int i = 0; i < NV; i++) total = total + (v[i] = Vec::load(x + i * Vec::width) - first);
  const Vec mean = Vec::set(sum(total) / n);
#pragma GCC unroll 8
  for (int i = 0; i < NV; i++) v[i] = v[i] - mean, squares = fma(v[i], v[i], squares);
  const Vec rate = Vec::set(1.0f / ::sqrtf(sum(squares) / n + call.eps));
#pragma GCC unroll 8
  for (int i = 0; i < NV; i++) {
    const ptrdiff_t at = i * Vec::width;
    max(least, fma(v[i] * rate, Vec::load(call.scale + at), Vec::load(call.shift + at))).store(out + at);
  }
}

void norm(const NormCall& call) {
  const ptrdiff_t count = call.source.count;
  const ptrdiff_t vectors = count % Vec::width ? 0 : count / Vec::width;
  for (ptrdiff_t row = 0; row < call.rows; row++) {
    const float* x = row_of(call.source.source, row);
    float* out = row_of(call.out, row);
    switch (vectors) {
      case 1: norm_vectors<1>(call, x, out); break;
      case 2: norm_vectors<2>(call, x, out); break;
      case 4: norm_vectors<4>(call, x, out); break;
      case 8: norm_vectors<8>(call, x, out); break;
      default: norm_row(call, x, out);
    }
  }
}

void add(float* out, const float* const* tables, int table_count, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i += Vec::width) {
    const ptrdiff_t left = count - i;
    Vec total = load_left(out + i, left);
    for (int t = 0; t < table_count; t++) total = total + load_left(tables[t] + i, left);
    store_left(total, out + i, left);
  }
}

}  // namespace
