#include "fast_product.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "plan.h"
#include "toom.h"

namespace pixelfast {
namespace {

// How a run of up to 7 taps is cut: for the fewest multiplications with pieces of up to 4. Wider ones lose more to
// rounding: over 3 rows of 7 columns and 32 channels, F(2, 7) has 2.5 times the error of a plain sum, F(2, 4) with
// F(2, 3) has 1.2 times.
const std::vector<int> kPieces[] = {{}, {1}, {2}, {3}, {4}, {3, 2}, {3, 3}, {4, 3}};
constexpr int kLongest = 7;

// A tap of the product: the first row of its weights, and its number.
struct Member {
  int col, tap;
  ptrdiff_t first;
};

// Taps [member, member + width) of a run.
struct Part {
  const Member* member;
  int width, grid, shift;
  ptrdiff_t count;
};

class Packer {
 public:
  Packer(const Product& product, int outputs, int cell) : product_(product), outputs_(outputs), cell_(cell) {
    ptrdiff_t first = 0;
    for (size_t i = 0; i < product.taps.size(); i++) {
      const Slot& slot = product.taps[i];
      sources_[{slot.buffer, slot.row, slot.channel, slot.count}].push_back({slot.col, static_cast<int>(i), first});
      first += slot.count;
    }
    for (auto& [key, members] : sources_) {
      std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.col < b.col; });
      cut(members);
    }
    std::stable_sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.width > b.width; });
  }

  // Whether it pays over `columns` columns: the time that it takes, in multiply-adds of vectors.
  bool pays(int columns, int width) const {
    const ptrdiff_t cells = (columns + cell_ - 1) / cell_, vectors = (outputs_ + width - 1) / width;
    ptrdiff_t direct = 0, fast = 0, points = 0;
    for (const Part& part : parts_) {
      direct += part.width * part.count * vectors;
      fast += points_of(part.width) * part.count * vectors;
      points = std::max<ptrdiff_t>(points, points_of(part.width));
    }
    for (const FastGrid& grid : grids_) fast += kVectorCost * grid.points * ((grid.count + width - 1) / width);
    fast += kVectorCost * points * vectors;
    return kMargin * static_cast<double>(cells * fast) < static_cast<double>(columns * direct);
  }

  PackedFastProduct pack(const Kernels& kernels, Arena& weights) const {
    PackedFastProduct packed;
    packed.columns = cell_, packed.grids = grids_, packed.points = 0, packed.outputs = outputs_;
    ptrdiff_t first = 0;
    for (const Part& part : parts_) {
      packed.points = std::max(packed.points, points_of(part.width));
      packed.pieces.push_back({part.grid, part.shift, first});
      first += part.count;
    }
    pack_weights(kernels, weights, packed);
    return packed;
  }

 private:
  // To make or use up a vector at one point takes as long as this many multiply-adds. The times that follow from it lie
  // within 10 % of those measured (AVX-512, 12 images, 16 to 256 channels). With one image, small products lose up to
  // 20 % more to their overhead, and weights beyond the caches take longer to read, being up to twice as many.
  static constexpr ptrdiff_t kVectorCost = 8;
  static constexpr double kMargin = 1.15;

  int points_of(int width) const { return cell_ + width - 1; }

  void cut(const std::vector<Member>& members) {
    for (size_t next = 0; next < members.size();) {
      size_t length = 1;
      while (next + length < members.size() && length < kLongest &&
             members[next + length].col == members[next].col + static_cast<int>(length))
        length++;
      for (int width : kPieces[length]) {
        add(&members[next], width);
        next += static_cast<size_t>(width);
      }
    }
  }

  void add(const Member* member, int width) {
    const Slot& slot = product_.taps[member->tap];
    const int phase = ((slot.col % cell_) + cell_) % cell_;
    auto [found, isnew] =
        grid_of_.try_emplace({slot.buffer, slot.row, slot.channel, slot.count, width, phase}, grids_.size());
    if (isnew) grids_.push_back(FastGrid{member->tap, width, points_of(width), 0, slot.count});
    const int grid = static_cast<int>(found->second);
    const int shift = (slot.col - product_.taps[grids_[grid].tap].col) / cell_;
    grids_[grid].extra = std::max(grids_[grid].extra, shift);
    parts_.push_back(Part{member, width, grid, shift, slot.count});
  }

  // For each panel and point (K, vectors * width), where K runs over the pieces that use the point.
  void pack_weights(const Kernels& kernels, Arena& weights, PackedFastProduct& packed) const {
    const int width = kernels.width, vectors = (outputs_ + width - 1) / width;
    ptrdiff_t rows = 0;
    for (const Part& part : parts_) rows += points_of(part.width) * part.count;
    packed.floats = static_cast<size_t>(rows) * vectors * width;
    packed.zeros = AlignedFloats(static_cast<size_t>(kernels.most_vectors) * width);
    packed.bias = AlignedFloats(product_.bias.empty() ? 0 : static_cast<size_t>(vectors) * width);
    std::copy(product_.bias.begin(), product_.bias.end(), packed.bias.data());
    float* next = weights.take(packed.floats);
    const std::vector<int> widths = panel_widths(vectors, kernels.most_vectors);
    packed.panels.resize(packed.points * widths.size());
    int channel = 0;
    for (size_t i = 0; i < widths.size(); i++) {
      const int step = widths[i] * width, count = std::min(step, outputs_ - channel);
      for (int p = 0; p < packed.points; p++) {
        const float* const weights_of_point = next;
        for (const Part& part : parts_) {
          if (points_of(part.width) <= p) break;
          transform(part, p, channel, count, step, next);
          next += part.count * step;
        }
        const ptrdiff_t bytes = (next - weights_of_point) * static_cast<ptrdiff_t>(sizeof(float));
        packed.panels[p * widths.size() + i] =
            Panel{weights_of_point, packed.zeros.data(), channel, step, widths[i], step, bytes};
      }
      channel += count;
    }
  }

  void transform(const Part& part, int point, int channel, int count, int step, float* out) const {
    const Toom numbers = toom(cell_, part.width);
    for (ptrdiff_t k = 0; k < part.count; k++)
      for (int o = 0; o < count; o++) {
        double sum = 0;
        for (int j = 0; j < part.width; j++)
          sum += numbers.weights[point][j] *
                 static_cast<double>(product_.weights[(part.member[j].first + k) * outputs_ + channel + o]);
        out[k * step + o] = static_cast<float>(sum);
      }
  }

  const Product& product_;
  const int outputs_, cell_;
  std::map<std::tuple<int, int, int, int>, std::vector<Member>> sources_;
  std::map<std::tuple<int, int, int, int, int, int>, size_t> grid_of_;
  std::vector<FastGrid> grids_;
  std::vector<Part> parts_;
};

}  // namespace

std::optional<PackedFastProduct> pack_fast_product(const Product& product, int outputs, int cell, int columns,
                                                   const Kernels& kernels, Arena& weights) {
  Packer packer(product, outputs, cell);
  if (!packer.pays(columns, kernels.width)) return std::nullopt;
  return packer.pack(kernels, weights);
}

}  // namespace pixelfast
