// A sampling program as plain data, the same as pixelfast/ir/program.py, which says what each part means.
// It is parsed from a stream of 64-bit words and an array of floats (engines/packing.py writes them); whatever a
// malformed stream says, parsing either refuses it or yields a program that no engine can crash on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "names.h"

namespace pixelfast {

std::vector<std::string> operation_names();
std::vector<std::string> reduction_names();
std::vector<std::string> head_names();
std::vector<std::string> order_names();
std::vector<std::string> instruction_names();
std::vector<std::string> precision_names();
int arguments_of(Operation operation);

struct ProgramError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct Rect {
  int row0, row1, col0, col1;
};

// Rows r with r mod row_step = row_phase, and columns likewise.
struct Lattice {
  int row_step = 1, row_phase = 0, col_step = 1, col_phase = 0;

  bool everywhere() const { return row_step == 1 && col_step == 1; }
  bool has_row(int row) const { return row_step == 1 || modulo(row, row_step) == row_phase; }
  // The first of its columns from `col` on.
  int column_from(int col) const { return col_step == 1 ? col : col + modulo(col_phase - col, col_step); }

 private:
  static int modulo(int a, int b) { return ((a % b) + b) % b; }
};

struct Buffer {
  int features, rows, col0, col1;  // columns [col0, col1) are stored
  Rect domain;
};

struct Field {
  int features, row0, col0, rows, cols;
};

struct Slot {
  int buffer, channel, count, row, col;
};

struct FieldSlot {
  int field, channel, count;
};

struct Pixel {
  int row, col, channel;
};

using Leaf = std::variant<Slot, FieldSlot, std::vector<float>, float>;

struct Op {
  Operation name;
  int args[3];  // below the number of leaves: a leaf; otherwise an earlier op
};

struct Product {
  std::vector<Slot> taps;
  std::vector<float> weights;  // (sum of the taps' counts, out.count)
  std::vector<float> bias;     // (out.count), or empty: add to what `out` holds
  // What else happens to the sums; not in the stream, see cpu/fuse.cpp.
  std::optional<Slot> added;
  bool relu = false;
};

struct Lookup {
  std::vector<Pixel> taps;
  std::vector<float> tables;  // (taps, K, out.count)
};

struct Map {
  std::vector<Leaf> leaves;
  std::vector<Op> ops;
};

struct Reduce {
  Reduction kind;
  std::vector<Slot> sources;
  float correction;
};

struct Norm {
  Slot source;
  std::vector<float> scale, shift;
  float eps;
  bool relu = false;  // of the result; not in the stream, see cpu/fuse.cpp
};

struct Cache {
  int buffer, channel, count, row, col;  // pixel (r, c) stands at (r + row, c + col)
};

// Pixels [first, last) in raster order.
struct Run {
  int first, last;
};

struct Attention {
  Slot query;
  Cache keys, values;
  int heads, masks;  // masks: 1 for all heads, or one for each
  float scale;
  std::vector<int> offsets;  // (masks x elements of the rectangle + 1): of each list, its first run
  std::vector<Run> runs;
  int biases;               // 0, 1 or heads
  std::vector<float> bias;  // (biases, keys of all lists)
};

struct Instruction {
  Rect rect;
  Lattice lattice;
  Slot out;
  int sweep;  // of a row: 0: all columns at once; 1, -1: column by column from the left, from the right
  std::variant<Product, Lookup, Map, Reduce, Norm, Attention> body;  // in the order of Opcode
};

// What the parameters of a mixture of logistics mean: see pixelfast/distributions/mixture.py.
struct Mixture {
  int components = 0;
  Order order = Order::colour_major;
  float log_scale_min = 0;
};

struct Draw {
  int channel;
  Slot source;
};

struct Encode {
  Slot out;
  int channel;
  std::vector<float> table;  // (out.count, K)
};

// How far to the right instructions read what stands `above` rows higher: see Reach in pixelfast/lowering/wavefront.py.
struct Reach {
  int above, pixels, chunks, rows;
};

struct Program {
  int channels, height, width, levels, parameters;
  Distribution head;
  Mixture mixture;  // if that is the head
  std::vector<Buffer> buffers;
  std::vector<Field> fields;
  std::vector<Instruction> row;
  std::vector<std::vector<Instruction>> steps;  // one list for each channel, like the next two
  std::vector<Draw> draws;
  std::vector<std::vector<Encode>> encodes;
  // The order in which known rows run (engines/known_rows.py); empty: like other rows, column by column. Positions among
  // the instructions of all steps, where each step's are followed by its draw.
  std::vector<int> known_order;
  std::vector<int> leads;      // of each row instruction, for rows that overlap (pixelfast/lowering/wavefront.py)
  std::vector<Reach> reaches;

  int first_row = 0, col0 = 0, col1 = 0;  // what runs: rows [first_row, height), columns [col0, col1)
};

// Throws ProgramError.
Program parse(const int64_t* words, size_t word_count, const float* floats, size_t float_count);

// Throws ProgramError unless every read and write of the program stays inside what it declares. Part of parse().
void validate(const Program& program);
void validate_wave(const Program& program);

}  // namespace pixelfast
