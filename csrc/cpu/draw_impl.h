// One draw from a softmax by inverse CDF, for any number of categories.
//
// exp(logit - largest) is summed in blocks of 64: float32 within a block, float64 over the blocks, so that an edge of
// the CDF is off by less than 1e-6 however many categories there are. A category of probability 0 is never drawn.
#pragma once

namespace {

using pixelfast::DrawCall;

constexpr ptrdiff_t kDrawBlock = 64;

// The largest logit; false if there is NaN or +infinity, or nothing but -infinity.
inline bool largest_logit(const float* x, ptrdiff_t count, float& top) {
  const Vec infinity = Vec::set(INFINITY), none = Vec::set(-INFINITY);
  Vec best = none, sound = Vec::set(1.0f), zero = Vec::set(0.0f);
  ptrdiff_t i = 0;
  for (; i + Vec::width <= count; i += Vec::width) {
    Vec logits = Vec::load(x + i);
    best = max(logits, best);
    sound = select(less(logits, infinity), sound, zero);
  }
  top = largest(best);
  bool fine = all(not_equal(sound, zero));
  for (; i < count; i++) {
    if (!(x[i] < INFINITY)) fine = false;
    if (x[i] > top) top = x[i];
  }
  return fine && top > -INFINITY;
}

// exps = exp((x - top) / temperature) for the block's 64 categories, 0 beyond the last; gives their sum.
inline float exponentials(const float* x, ptrdiff_t left, Vec top, Vec rate, float* exps) {
  Vec total = Vec::set(0.0f);
  for (ptrdiff_t i = 0; i < kDrawBlock; i += Vec::width) {
    Vec e = Vec::set(0.0f);
    if (left - i >= Vec::width) {
      e = exp((Vec::load(x + i) - top) * rate);
    } else if (left > i) {
      float lanes[Vec::width] = {};
      exp((Vec::load_first(x + i, static_cast<int>(left - i)) - top) * rate)
          .store_first(lanes, static_cast<int>(left - i));
      e = Vec::load(lanes);
    }
    e.store(exps + i);
    total = total + e;
  }
  return sum(total);
}

bool draw(DrawCall& call) {
  float top;
  if (!largest_logit(call.logits, call.count, top)) return false;
  const Vec largest = Vec::set(top), rate = Vec::set(call.inverse_temperature);
  const ptrdiff_t blocks = (call.count + kDrawBlock - 1) / kDrawBlock;
  double total = 0.0;
  for (ptrdiff_t b = 0; b < blocks; b++) {
    const ptrdiff_t first = b * kDrawBlock;
    call.sums[b] = exponentials(call.logits + first, call.count - first, largest, rate, call.exps + first);
    total += call.sums[b];
  }

  const double target = call.noise * total;
  double below = 0.0;
  ptrdiff_t block = 0;
  while (block < blocks - 1 && below + call.sums[block] <= target) below += call.sums[block++];
  ptrdiff_t k = block * kDrawBlock;
  const ptrdiff_t end = k + kDrawBlock < call.count ? k + kDrawBlock : call.count;
  while (k < end - 1 && below + call.exps[k] <= target) below += call.exps[k++];
  // Only rounding can lead to a category without probability, past the last one of its block that has some.
  while (call.exps[k] == 0.0f && k > 0) k--;
  while (call.exps[k] == 0.0f) k++;

  call.value = static_cast<int>(k);
  const double logit = (static_cast<double>(call.logits[k]) - top) * call.inverse_temperature;
  call.log_prob = logit - ::log(total);
  return true;
}

}  // namespace
