// Attention of one image's one head at one pixel: scores of all keys, their softmax, the mean of the values.
//
// Vectors run over channels, keys come one after another: every sum has the order of the keys, whatever runs beside it.
#pragma once

namespace {

using pixelfast::AttendCall;
using pixelfast::KeyRun;

inline float dot(const float* a, const float* b, ptrdiff_t count) {
  Vec even = Vec::set(0.0f), odd = even;
  ptrdiff_t i = 0;
  for (; i + 2 * Vec::width <= count; i += 2 * Vec::width) {
    even = fma(Vec::load(a + i), Vec::load(b + i), even);
    odd = fma(Vec::load(a + i + Vec::width), Vec::load(b + i + Vec::width), odd);
  }
  for (; i < count; i += Vec::width) even = fma(load_left(a + i, count - i), load_left(b + i, count - i), even);
  return sum(even + odd);
}

// The scores of all keys; gives their number.
inline ptrdiff_t score(const AttendCall& call) {
  ptrdiff_t count = 0;
  for (int r = 0; r < call.run_count; r++) {
    const KeyRun& run = call.runs[r];
    const float* key = run.keys + call.keys;
    for (ptrdiff_t i = 0; i < run.count; i++, key += call.key_stride)
      call.scores[count++] = call.scale * dot(call.query, key, call.size);
  }
  if (call.bias)
    for (ptrdiff_t i = 0; i < count; i++) call.scores[i] += call.bias[i];
  return count;
}

// exp(score - largest) in place of each score; gives their sum. A score that is not a number makes it one, too.
inline float exponentiate(float* scores, ptrdiff_t count) {
  Vec best = Vec::set(-INFINITY), total = Vec::set(0.0f);
  ptrdiff_t i = 0;
  for (; i + Vec::width <= count; i += Vec::width) best = max(Vec::load(scores + i), best);
  float top = largest(best), rest = 0.0f;
  for (; i < count; i++)
    if (scores[i] > top) top = scores[i];
  const Vec shift = Vec::set(top);
  for (i = 0; i + Vec::width <= count; i += Vec::width) {
    const Vec e = exp(Vec::load(scores + i) - shift);
    e.store(scores + i);
    total = total + e;
  }
  if (i < count) {
    exp(load_left(scores + i, count - i) - shift).store_first(scores + i, static_cast<int>(count - i));
    for (; i < count; i++) rest += scores[i];
  }
  return sum(total) + rest;
}

// Channels [first, first + NV * width) of the mean.
template <int NV>
inline void mean_of(const AttendCall& call, ptrdiff_t first, Vec rate) {
  Vec total[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) total[v] = Vec::set(0.0f);
  const float* weight = call.scores;
  for (int r = 0; r < call.run_count; r++) {
    const float* value = call.runs[r].values + call.values + first;
    for (ptrdiff_t i = 0; i < call.runs[r].count; i++, value += call.value_stride) {
      const Vec w = Vec::set(*weight++);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) total[v] = fma(w, Vec::load(value + v * Vec::width), total[v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) (total[v] * rate).store(call.out + first + v * Vec::width);
}

// The last channels, fewer than a vector.
inline void mean_of_rest(const AttendCall& call, ptrdiff_t first, Vec rate) {
  const int left = static_cast<int>(call.value_size - first);
  Vec total = Vec::set(0.0f);
  const float* weight = call.scores;
  for (int r = 0; r < call.run_count; r++) {
    const float* value = call.runs[r].values + call.values + first;
    for (ptrdiff_t i = 0; i < call.runs[r].count; i++, value += call.value_stride)
      total = fma(Vec::set(*weight++), Vec::load_first(value, left), total);
  }
  (total * rate).store_first(call.out + first, left);
}

void attend(const AttendCall& call) {
  const ptrdiff_t count = score(call);
  const float total = count ? exponentiate(call.scores, count) : 1.0f;
  const Vec rate = Vec::set(1.0f / total);
  ptrdiff_t i = 0;
  for (; i + 4 * Vec::width <= call.value_size; i += 4 * Vec::width) mean_of<4>(call, i, rate);
  for (; i + Vec::width <= call.value_size; i += Vec::width) mean_of<1>(call, i, rate);
  if (i < call.value_size) mean_of_rest(call, i, rate);
}

}  // namespace
