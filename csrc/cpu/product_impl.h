// Products: rows x taps times packed weights, in register blocks of up to 12 rows by up to 4 vectors of outputs.
//
// A block keeps MR x NV sums in registers and, for each k, multiplies MR broadcast inputs with NV vectors of weights.
// Small blocks have too few sums to hide the latency of a multiply-add, so they keep several sets of them over k.
#pragma once

namespace {

using pixelfast::Panel;
using pixelfast::ProductCall;
using pixelfast::Tap;

constexpr int kMostRows = 12;
constexpr int kMostVectors = Vec::registers >= 32 ? 4 : 2;

// The rows of a block of nv vectors: as many as leave registers for the weights and one input.
constexpr int most_rows(int nv) {
  int rows = (Vec::registers - nv - 1) / nv;
  return rows < kMostRows ? rows : kMostRows;
}

constexpr int sets_of_sums(int sums) { return sums >= 8 ? 1 : sums >= 4 ? 2 : 4; }

template <int MR, int NV>
struct Block {
  static constexpr int kSets = sets_of_sums(MR * NV);
  Vec sums[kSets][MR][NV];

  inline void start(const Panel& panel, float* const* out) {
    const int tail = panel.count - (NV - 1) * Vec::width;
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        const float* held = out[m] + v * Vec::width;
        if (panel.bias) sums[0][m][v] = Vec::load(panel.bias + v * Vec::width);
        else sums[0][m][v] = v < NV - 1 ? Vec::load(held) : Vec::load_first(held, tail);
#pragma GCC unroll 4
        for (int s = 1; s < kSets; s++) sums[s][m][v] = Vec::set(0.0f);
      }
  }

  template <int Set>
  inline void multiply(const float* const* source, ptrdiff_t k, const float* weights) {
    Vec w[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) w[v] = Vec::load(weights + v * Vec::width);
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) {
      Vec x = Vec::set(source[m][k]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sums[Set][m][v] = fma(x, w[v], sums[Set][m][v]);
    }
  }

  inline void add(const Tap& tap, ptrdiff_t row, const float* weights) {
    constexpr int step = NV * Vec::width;
    const float* source[MR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) source[m] = row_of(tap.source, row + m);
    const float* w = weights + tap.first * step;
    ptrdiff_t k = 0;
    for (; k + 4 <= tap.count; k += 4, w += 4 * step) {
      multiply<0>(source, k, w);
      multiply<1 % kSets>(source, k + 1, w + step);
      multiply<2 % kSets>(source, k + 2, w + 2 * step);
      multiply<3 % kSets>(source, k + 3, w + 3 * step);
    }
    for (; k < tap.count; k++, w += step) multiply<0>(source, k, w);
  }

  inline void finish(const Panel& panel, float* const* out) {
    const int tail = panel.count - (NV - 1) * Vec::width;
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) {
        Vec total = sums[0][m][v];
#pragma GCC unroll 4
        for (int s = 1; s < kSets; s++) total = total + sums[s][m][v];
        float* held = out[m] + v * Vec::width;
        if (v < NV - 1 || tail == Vec::width) total.store(held);
        else total.store_first(held, tail);
      }
  }
};

template <int MR, int NV>
void run_block(const ProductCall& call, const Panel& panel, ptrdiff_t row) {
  float* out[MR];
#pragma GCC unroll 16
  for (int m = 0; m < MR; m++) out[m] = row_of(call.out, row + m) + panel.channel;
  Block<MR, NV> block;
  block.start(panel, out);
  for (ptrdiff_t t = 0; t < call.tap_count; t++) block.add(call.taps[t], row, panel.weights);
  block.finish(panel, out);
}

using BlockFunction = void (*)(const ProductCall&, const Panel&, ptrdiff_t);

// Instantiates exactly the blocks that fit into the registers.
template <int MR, int NV>
constexpr BlockFunction block_function() {
  if constexpr (NV <= kMostVectors && MR <= most_rows(NV)) return run_block<MR, NV>;
  else return nullptr;
}

#define PIXELFAST_BLOCKS(NV)                                                                                        \
  {block_function<1, NV>(), block_function<2, NV>(),  block_function<3, NV>(),  block_function<4, NV>(),             \
   block_function<5, NV>(), block_function<6, NV>(),  block_function<7, NV>(),  block_function<8, NV>(),             \
   block_function<9, NV>(), block_function<10, NV>(), block_function<11, NV>(), block_function<12, NV>()}
constexpr BlockFunction kBlocks[4][kMostRows] = {PIXELFAST_BLOCKS(1), PIXELFAST_BLOCKS(2), PIXELFAST_BLOCKS(3),
                                                 PIXELFAST_BLOCKS(4)};
#undef PIXELFAST_BLOCKS

void product(const ProductCall& call) {
  for (int p = 0; p < call.panel_count; p++) {
    const Panel& panel = call.panels[p];
    ptrdiff_t most = most_rows(panel.vectors), blocks = (call.rows + most - 1) / most;
    // Evenly: 8 + 8 rows, rather than 12 + 4.
    for (ptrdiff_t row = 0; blocks > 0; blocks--) {
      ptrdiff_t rows = (call.rows - row + blocks - 1) / blocks;
      kBlocks[panel.vectors - 1][rows - 1](call, panel, row);
      row += rows;
    }
  }
}

}  // namespace
