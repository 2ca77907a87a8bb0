// Weights of products in panels, stored as the precision says.
#include <algorithm>
#include <cmath>

#include "half.h"
#include "plan.h"

namespace pixelfast {
namespace {

constexpr float kLeastNormal = 0x1p-14f;  // of float16

// Whether float16 keeps every weight to 2^-11 of itself or of the largest weight of its output: none is too large, and no
// output has nothing but subnormal weights.
bool fits_halves(const Product& product, int outputs) {
  std::vector<float> largest(outputs, 0.0f);
  for (size_t i = 0; i < product.weights.size(); i++) {
    const float size = std::fabs(product.weights[i]);
    if (!std::isfinite(float_of(half_of(size)))) return false;
    largest[i % outputs] = std::max(largest[i % outputs], size);
  }
  return std::all_of(largest.begin(), largest.end(), [](float most) { return most == 0.0f || most >= kLeastNormal; });
}

float stored(float weight, float*) { return weight; }
Half stored(float weight, Half*) { return half_of(weight); }

// (K, step) from columns [channel, channel + count) of the product's weights.
template <class W>
void pack_panel(const Product& product, int outputs, ptrdiff_t rows, int channel, int count, ptrdiff_t step, float* memory) {
  W* out = reinterpret_cast<W*>(memory);
  for (ptrdiff_t k = 0; k < rows; k++)
    for (int o = 0; o < count; o++) out[k * step + o] = stored(product.weights[k * outputs + channel + o], out);
}

// Panels start at cache lines.
ptrdiff_t floats_of_panel(ptrdiff_t weights, Storage storage) {
  return storage == kHalves ? (weights + 31) / 32 * 16 : (weights + 15) / 16 * 16;
}

// How far rows of so many weights lie apart: with what would fill up their last vector left out, weights take less room in
// the caches.
constexpr int stride_of(int count) { return (count + 3) / 4 * 4; }

}  // namespace

Storage storage_of(const Product& product, int outputs, Precision precision) {
  return precision == Precision::fp16w && fits_halves(product, outputs) ? kHalves : kFloats;
}

Product rounded(const Product& product, Storage storage, std::vector<float>& kept) {
  if (storage == kFloats) return product;
  kept.assign(product.weights.begin(), product.weights.end());
  for (float& weight : kept) weight = float_of(half_of(weight));
  Product copy = product;
  copy.weights = Floats(kept.data(), kept.size());
  return copy;
}

std::vector<int> panel_widths(int vectors, int most) {
  std::vector<int> widths;
  for (int panels = (vectors + most - 1) / most; panels > 0; panels--) {
    widths.push_back((vectors + panels - 1) / panels);
    vectors -= widths.back();
  }
  return widths;
}

PackedProduct pack_product(const Product& product, int outputs, Storage storage, const Kernels& kernels, Arena& weights) {
  PackedProduct packed;
  packed.storage = storage;
  ptrdiff_t& rows = packed.rows;
  for (const Slot& tap : product.taps) {
    packed.first.push_back(rows);
    rows += tap.count;
  }
  const int width = kernels.width, vectors = (outputs + width - 1) / width;
  const std::vector<int> widths = panel_widths(vectors, kernels.most_vectors);
  packed.weights = static_cast<size_t>(rows + 1) * vectors * width;
  ptrdiff_t floats = 0;
  int left = outputs;
  for (int wide : widths) {
    floats += floats_of_panel(rows * stride_of(std::min(wide * width, left)), storage) + wide * width;
    left -= wide * width;
  }
  float* next = weights.take(floats);
  int channel = 0;
  for (int wide : widths) {
    const int whole = wide * width, count = std::min(whole, outputs - channel), step = stride_of(count);
    float* bias = next + floats_of_panel(rows * step, storage);
    const auto pack = storage == kHalves ? pack_panel<Half> : pack_panel<float>;
    pack(product, outputs, rows, channel, count, step, next);
    if (!product.bias.empty()) std::copy_n(product.bias.data() + channel, count, bias);
    const ptrdiff_t bytes = (bias + whole - next) * static_cast<ptrdiff_t>(sizeof(float));
    packed.panels.push_back(Panel{next, product.bias.empty() ? nullptr : bias, channel, count, wide, step, bytes});
    next = bias + whole;
    channel += count;
  }
  return packed;
}

}  // namespace pixelfast
