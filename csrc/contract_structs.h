// Written by `python -m pixelfast.ir.contract_cpp` from pixelfast/ir/contract.py: change that.
// A program as plain data: pixelfast/ir/program.py says what each part means.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <variant>
#include <vector>
#include "contract.h"
#include "floats.h"

namespace pixelfast {

// Rows [row0, row1) and columns [col0, col1).
struct Rect {
  int row0 = 0;
  int row1 = 0;
  int col0 = 0;
  int col1 = 0;
};

// Rows r with r mod row_step = row_phase, and columns likewise.
struct Lattice {
  int row_step = 0;
  int row_phase = 0;
  int col_step = 0;
  int col_phase = 0;
};

// Columns [col0, col1) are stored.
struct Buffer {
  int features = 0;
  int rows = 0;
  int col0 = 0;
  int col1 = 0;
  Rect domain;
};

struct Field {
  int features = 0;
  int row0 = 0;
  int col0 = 0;
  int rows = 0;
  int cols = 0;
};

struct Slot {
  int buffer = 0;
  int channel = 0;
  int count = 0;
  int row = 0;
  int col = 0;
};

struct FieldSlot {
  int field = 0;
  int channel = 0;
  int count = 0;
};

struct Pixel {
  int row = 0;
  int col = 0;
  int channel = 0;
};

// Pixel (r, c) stands at (r + row, c + col).
struct Cache {
  int buffer = 0;
  int channel = 0;
  int count = 0;
  int row = 0;
  int col = 0;
};

// Arguments below the number of leaves are leaves, the others earlier operations.
struct Op {
  Operation name{};
  std::array<int, 3> args{};
};

// Pixels [first, last) in raster order.
struct Run {
  int first = 0;
  int last = 0;
};

using Leaf = std::variant<Slot, FieldSlot, Floats, float>;

// Weights are (channels of the taps, out.count). Without a bias it adds to what `out` holds.
struct Product {
  std::vector<Slot> taps;
  Floats weights;
  Floats bias;
  // Not in the stream:
  std::optional<Slot> added;  // to the sums: see cpu/fuse.cpp
  bool relu = false;          // of all that
};

// Tables are (taps, K, out.count).
struct Lookup {
  std::vector<Pixel> taps;
  Floats tables;
};

struct Map {
  std::vector<Leaf> leaves;
  std::vector<Op> ops;
};

struct Reduce {
  Reduction kind{};
  std::vector<Slot> sources;
  float correction = 0;
};

struct Norm {
  Slot source;
  Floats scale;
  Floats shift;
  float eps = 0;
  // Not in the stream:
  bool relu = false;  // of the result: see cpu/fuse.cpp
};

// Of each list its first run: offsets (masks * elements of the rectangle + 1). Masks and biases are one for all
// heads, or one for each; the bias is (biases, keys of all lists).
struct Attention {
  Slot query;
  Cache keys;
  Cache values;
  int heads = 0;
  int masks = 0;
  float scale = 0;
  std::vector<int> offsets;
  std::vector<Run> runs;
  int biases = 0;
  Floats bias;
};

// In the order of Opcode.
using Body = std::variant<Product, Lookup, Map, Reduce, Norm, Attention>;

// A sweep runs column by column: 1: from the left, -1: from the right; 0: all columns at once.
struct Instruction {
  Rect rect;
  Lattice lattice;
  Slot out;
  int sweep = 0;
  Body body;
};

// What the parameters of a mixture mean: see pixelfast/distributions/components.py.
struct Mixture {
  int components = 0;
  int component_step = 0;
  int channel_step = 0;
  int means = 0;
  int scales = 0;
  int weights = 0;
  int coefficients = 0;
  float log_scale_min = 0;
  int log_scales = 0;
  int offset = 0;
};

struct Draw {
  int channel = 0;
  Slot source;
};

// The table is (out.count, K).
struct Encode {
  Slot out;
  int channel = 0;
  Floats table;
};

// How far to the right instructions read what stands `above` rows higher: see lowering/wavefront.py.
struct Reach {
  int above = 0;
  int pixels = 0;
  int chunks = 0;
  int rows = 0;
};

// Steps, draws and encodes are one for each channel. The order is that in which known rows run
// (lowering/given_rows.py): positions among the instructions of all steps, where each step's are followed by its
// draw; without one they run like other rows, column by column. Leads are of the row instructions, for rows that
// overlap (lowering/wavefront.py).
struct Program {
  int channels = 0;
  int height = 0;
  int width = 0;
  int levels = 0;
  int parameters = 0;
  Distribution head{};
  Mixture mixture;
  std::vector<Buffer> buffers;
  std::vector<Field> fields;
  std::vector<Instruction> row;
  std::vector<std::vector<Instruction>> steps;
  std::vector<Draw> draws;
  std::vector<std::vector<Encode>> encodes;
  std::vector<int> known_order;
  std::vector<int> leads;
  std::vector<Reach> reaches;
  // Not in the stream:
  int first_row = 0, col0 = 0, col1 = 0;  // what runs: rows [first_row, height), columns [col0, col1)
};

// Calls f with each Slot that a body reads.
template <class F>
void each_slot(const Body& body, F f) {
  if (const auto* item = std::get_if<Product>(&body)) {
    for (const Slot& place : item->taps) f(place);
  }
  if (const auto* item = std::get_if<Map>(&body)) {
    for (const Leaf& choice : item->leaves)
      if (const auto* place = std::get_if<Slot>(&choice)) f(*place);
  }
  if (const auto* item = std::get_if<Reduce>(&body)) {
    for (const Slot& place : item->sources) f(place);
  }
  if (const auto* item = std::get_if<Norm>(&body)) {
    f(item->source);
  }
  if (const auto* item = std::get_if<Attention>(&body)) {
    f(item->query);
  }
}

// Calls f with each Cache that a body reads.
template <class F>
void each_cache(const Body& body, F f) {
  if (const auto* item = std::get_if<Attention>(&body)) {
    f(item->keys);
    f(item->values);
  }
}

// Calls f with each Pixel that a body reads.
template <class F>
void each_pixel(const Body& body, F f) {
  if (const auto* item = std::get_if<Lookup>(&body)) {
    for (const Pixel& place : item->taps) f(place);
  }
}

// How many columns a row stays behind the one that a `Reach` is about.
inline int columns_behind(int pixels, int chunks, int rows, int chunk, int lag) {
  return std::max({pixels, chunks + chunk - 1, rows + chunk - 1}) + lag;
}

// How many steps of a wave pass from the first chunk of a row to its end, at most.
inline int steps_of_row(int columns, int most_lead, int chunk, int lag) {
  return columns + most_lead + 2 * chunk + lag;
}

}  // namespace pixelfast
