// Products: rows x taps times packed weights, in register blocks of a few rows by up to 4 vectors of outputs.
//
// A block keeps its sums in registers and, for each k, multiplies MR broadcast inputs with NV vectors of weights. With
// few rows there would be too few sums to hide the latency of a multiply-add; then a block takes several panels at once.
// Weights are stored as W, float or Half, and are float32 once they are in a register.
//
// The order in which the terms of an output are added up depends on the width of its panel and on nothing else, so that
// an image comes out the same, to the last bit, in any batch. (Taps that are left out at borders would have added 0.)
#pragma once

#include "row_of.h"

namespace {

using pixelfast::Panel;
using pixelfast::ProductCall;
using pixelfast::Tap;

constexpr int kMostRows = 9;
constexpr int kMostVectors = Vec::registers >= 32 ? 4 : 2;
constexpr int kMostPanels = 4;
// A multiply-add takes about 4 cycles. Two of them fit into a cycle, but with vectors of a cache line one row of weights
// a cycle is more than the second-level cache gives: there, more panels at once win nothing.
constexpr int kEnoughSums = Vec::width < 16 ? 8 : 4;

// Weights beyond the second-level cache are wanted before the processor's own prefetcher has seen that they will be: the first
// block of rows would wait for them, while the others find them at hand. So each block fetches some of the next panel's: a
// cache line of every row of it. Weights in fewer bytes are for few images, which are one block.
constexpr ptrdiff_t kCacheLine = 64;
constexpr int kFetchingRows = 3;  // one or two lose
template <class W>
constexpr bool kFetches = false;
template <>
constexpr bool kFetches<float> = true;

// Sums of each output: number k mod sets of a tap goes to sum k mod sets. Narrow panels may have no neighbours.
constexpr int sets_of_sums(int nv) { return nv == 1 ? 4 : nv == 2 && kMostVectors > 2 ? 2 : 1; }

constexpr bool fits(int mr, int nv, int panels) {
  return mr <= kMostRows && mr * nv * panels * sets_of_sums(nv) + nv + 1 <= Vec::registers;
}

constexpr int most_rows(int nv) {
  int rows = 1;
  while (fits(rows + 1, nv, 1)) rows++;
  return rows;
}

constexpr int kMostRowsOf[] = {most_rows(1), most_rows(2), most_rows(3), most_rows(4)};

constexpr int panels_at_once(int mr, int nv) {
  int panels = 1;
  while (panels < kMostPanels && mr * nv * panels * sets_of_sums(nv) < kEnoughSums && fits(mr, nv, panels + 1)) panels++;
  return panels;
}

// From here on the compiler does not know where this points to: it loads again.
inline void forget([[maybe_unused]] const float*& p) {
#if defined(__GNUC__)
  asm("" : "+r"(p));
#endif
}

// Brings a cache line into the second-level cache.
inline void fetch([[maybe_unused]] const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#endif
}

template <class W, int MR, int NV, int Panels, bool Fetch>
struct Block {
  static constexpr int kSets = sets_of_sums(NV);
  // Inputs that stayed in registers from one panel to the next would push sums out of them.
  static constexpr bool kReload = Panels > 1 && MR * NV * Panels * kSets + NV + MR > Vec::registers;
  Vec sums[kSets][Panels][MR][NV];
  ptrdiff_t ahead;  // how many bytes behind each row of weights a line is fetched

  inline void start(const Panel* panels, float* const* out) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; p++) {
      const Panel& panel = panels[p];
      const int tail = panel.count - (NV - 1) * Vec::width;
#pragma GCC unroll 16
      for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
          const float* held = out[m] + panel.channel + v * Vec::width;
          if (panel.bias) sums[0][p][m][v] = Vec::load(panel.bias + v * Vec::width);
          else sums[0][p][m][v] = v < NV - 1 ? Vec::load(held) : Vec::load_first(held, tail);
#pragma GCC unroll 4
          for (int s = 1; s < kSets; s++) sums[s][p][m][v] = Vec::set(0.0f);
        }
    }
  }

  // Row `next` behind `weights`, of all panels.
  template <int Set, bool Whole>
  inline void multiply(const float* const* source, ptrdiff_t k, const W* const* weights, int next, const Panel* panels) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; p++) {
      const ptrdiff_t at = next * stride<Whole>(panels[p]);
      if (Fetch) fetch(reinterpret_cast<const char*>(weights[p] + at) + ahead);
      Vec w[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        w[v] = Vec::load(weights[p] + at + v * Vec::width);
        // Or g++ loads weights again for each row: 3 x 4 then runs at 79 % of the peak instead of 99 %.
        if (MR > 1) keep(w[v]);
      }
#pragma GCC unroll 16
      for (int m = 0; m < MR; m++) {
        const float* row = source[m];
        if (kReload && p > 0) forget(row);
        const Vec x = Vec::set(row[k]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sums[Set][p][m][v] = fma(x, w[v], sums[Set][p][m][v]);
      }
    }
  }

  // A constant where rows of weights are whole vectors: 3 % of the time of the products of small networks.
  template <bool Whole>
  static ptrdiff_t stride(const Panel& panel) {
    return Whole ? NV * Vec::width : panel.stride;
  }

  template <bool Whole>
  inline void add(const Tap& tap, ptrdiff_t row, const Panel* panels) {
    const float* source[MR];
    const W* weights[Panels];
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) source[m] = row_of(tap.source, row + m);
#pragma GCC unroll 4
    for (int p = 0; p < Panels; p++) weights[p] = static_cast<const W*>(panels[p].weights) + tap.first * stride<Whole>(panels[p]);
    ptrdiff_t k = 0;
    for (; k + 4 <= tap.count; k += 4) {
      multiply<0, Whole>(source, k, weights, 0, panels);
      multiply<1 % kSets, Whole>(source, k + 1, weights, 1, panels);
      multiply<2 % kSets, Whole>(source, k + 2, weights, 2, panels);
      multiply<3 % kSets, Whole>(source, k + 3, weights, 3, panels);
#pragma GCC unroll 4
      for (int p = 0; p < Panels; p++) weights[p] += 4 * stride<Whole>(panels[p]);
    }
    for (int left = 0; k < tap.count; k++, left++) multiply<0, Whole>(source, k, weights, left, panels);
  }

  inline void finish(const ProductCall& call, ptrdiff_t row, const Panel* panels, float* const* out) {
    const Vec least = Vec::set(call.relu ? 0.0f : -INFINITY);
#pragma GCC unroll 4
    for (int p = 0; p < Panels; p++) {
      const Panel& panel = panels[p];
      const int tail = panel.count - (NV - 1) * Vec::width;
#pragma GCC unroll 16
      for (int m = 0; m < MR; m++) {
        const float* added = call.adds ? row_of(call.added, row + m) + panel.channel : nullptr;
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
          const bool whole = v < NV - 1 || tail == Vec::width;
          Vec total = sums[0][p][m][v];
#pragma GCC unroll 4
          for (int s = 1; s < kSets; s++) total = total + sums[s][p][m][v];
          const float* more = added + v * Vec::width;
          if (added) total = total + (whole ? Vec::load(more) : Vec::load_first(more, tail));
          total = max(least, total);  // NaN stays NaN
          float* held = out[m] + panel.channel + v * Vec::width;
          if (whole) total.store(held);
          else total.store_first(held, tail);
        }
      }
    }
  }
};

template <class W, int MR, int NV, int Panels, bool Fetch = false>
void run_block(const ProductCall& call, const Panel* panels, ptrdiff_t row, ptrdiff_t ahead) {
  float* out[MR];
#pragma GCC unroll 16
  for (int m = 0; m < MR; m++) out[m] = row_of(call.out, row + m);
  Block<W, MR, NV, Panels, Fetch> block;
  block.ahead = ahead;
  block.start(panels, out);
  bool whole = true;
  for (int p = 0; p < Panels; p++) whole = whole && panels[p].stride == NV * Vec::width;
  if (whole)
    for (ptrdiff_t t = 0; t < call.tap_count; t++) block.template add<true>(call.taps[t], row, panels);
  else
    for (ptrdiff_t t = 0; t < call.tap_count; t++) block.template add<false>(call.taps[t], row, panels);
  block.finish(call, row, panels, out);
}

using BlockFunction = void (*)(const ProductCall&, const Panel*, ptrdiff_t, ptrdiff_t);

struct Blocks {
  int most = 0;  // panels at once
  BlockFunction with[kMostPanels] = {};  // 1, 2, .. of them
  BlockFunction fetching = nullptr;      // one, while the weights of the next panel are fetched; or null
};

// Instantiates exactly the blocks that are of use.
template <class W, int MR, int NV, int Panels = 1>
constexpr Blocks blocks() {
  if constexpr (NV > kMostVectors || !fits(MR, NV, Panels)) return {};
  else {
    Blocks found{Panels, {}, nullptr};
    if constexpr (Panels < panels_at_once(MR, NV)) found = blocks<W, MR, NV, Panels + 1>();
    if constexpr (MR >= kFetchingRows && kFetches<W>) found.fetching = run_block<W, MR, NV, 1, true>;
    found.with[Panels - 1] = run_block<W, MR, NV, Panels>;
    return found;
  }
}

#define PIXELFAST_BLOCKS(NV)                                                                                     \
  {blocks<W, 1, NV>(), blocks<W, 2, NV>(), blocks<W, 3, NV>(), blocks<W, 4, NV>(), blocks<W, 5, NV>(),            \
   blocks<W, 6, NV>(), blocks<W, 7, NV>(), blocks<W, 8, NV>(), blocks<W, 9, NV>()}
template <class W>
constexpr Blocks kBlocks[4][kMostRows] = {PIXELFAST_BLOCKS(1), PIXELFAST_BLOCKS(2), PIXELFAST_BLOCKS(3),
                                          PIXELFAST_BLOCKS(4)};
#undef PIXELFAST_BLOCKS

// Which line of a row a block fetches: every second one first, since processors tend to bring their neighbours along.
constexpr ptrdiff_t line_of(ptrdiff_t block, ptrdiff_t lines) {
  const ptrdiff_t even = (lines + 1) / 2;
  return block < even ? 2 * block : 2 * (block - even) + 1;
}

// All rows for one panel, evenly: 5 + 5 rows, rather than 6 + 4.
template <class W>
void run_blocks(const ProductCall& call, const Panel& panel) {
  const int nv = panel.vectors;
  const ptrdiff_t most = kMostRowsOf[nv - 1], blocks = call.rows <= most ? 1 : (call.rows + most - 1) / most;
  const ptrdiff_t lines = (nv * Vec::width * static_cast<ptrdiff_t>(sizeof(W)) + kCacheLine - 1) / kCacheLine;
  for (ptrdiff_t block = 0, row = 0; block < blocks; block++) {
    const ptrdiff_t rows = (call.rows - row + blocks - block - 1) / (blocks - block);
    const Blocks& choice = kBlocks<W>[nv - 1][rows - 1];
    const bool fetches = panel.next && choice.fetching && block < lines && (blocks > 1 || lines == 1);
    (fetches ? choice.fetching : choice.with[0])(call, &panel, row, panel.next + line_of(block, lines) * kCacheLine);
    row += rows;
  }
}

// All rows for the panel, or for it and its neighbours; gives how many.
template <class W>
int run_panels(const ProductCall& call, const Panel* panels, int left) {
  const int nv = panels->vectors;
  const ptrdiff_t most = kMostRowsOf[nv - 1];
  if (call.rows <= most && kBlocks<W>[nv - 1][call.rows - 1].most > 1) {
    const Blocks& choice = kBlocks<W>[nv - 1][call.rows - 1];
    int alike = 1;
    while (alike < left && panels[alike].vectors == nv) alike++;
    // Evenly: 3 + 2 panels, rather than 4 + 1.
    const int count = alike <= choice.most ? alike : alike < 2 * choice.most ? (alike + 1) / 2 : choice.most;
    choice.with[count - 1](call, panels, 0, 0);
    return count;
  }
  run_blocks<W>(call, *panels);
  return 1;
}

template <class W>
void product(const ProductCall& call) {
  for (int p = 0; p < call.panel_count;) p += run_panels<W>(call, call.panels + p, call.panel_count - p);
}

}  // namespace
