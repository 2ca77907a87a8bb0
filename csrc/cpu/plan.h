// A program made ready for one instruction set: weights packed into panels, expressions compiled, slots numbered.
// A plan never changes once made, so any number of calls and threads share it.
#pragma once

#include <memory>
#include <vector>

#include "../aligned.h"
#include "../program.h"
#include "ahead.h"
#include "fast_product.h"
#include "locals.h"
#include "ops.h"

namespace pixelfast {

struct PackedProduct {
  std::vector<Panel> panels;
  Storage storage = kFloats;
  ptrdiff_t rows = 0;            // K, of the packed weights
  std::vector<ptrdiff_t> first;  // of each tap: its first row of the packed weights
  size_t weights = 0;            // how many, with the bias
  int divided = 0;               // so many of its taps, the first ones, are added before the others (0: all in one go)
  int added = -1;                // a slot of what is added to the sums, or -1
  bool relu = false;             // of all that
};

struct PackedLookup {
  std::vector<Pixel> taps;
  AlignedFloats tables;  // (taps, K, out.count)
};

struct CompiledMap {
  std::vector<MapOp> ops;
  std::vector<MapLeaf> leaves;    // complete for vectors and numbers; the tile fills in the others
  std::vector<int> leaf_slots;    // of each leaf: its slot among Plan::slots, or -1
  std::vector<FieldSlot> fields;  // of each leaf: its field, or {-1}
  std::vector<int> leaf_registers;
  int registers = 0;
  AlignedFloats constants;
};

struct PlannedReduce {
  Reduction kind;
  float correction;
};

struct PlannedNorm {
  AlignedFloats scale, shift;
  float eps;
  bool relu;
};

struct PlannedAttention {
  Attention attention;
  AlignedFloats bias;          // (biases, keys of all lists)
  Rect rect;                   // of which there are lists
  std::vector<size_t> first;   // of each list, its first key among those of all lists
  size_t keys = 0;             // of all lists
};

// Slots are numbers in Plan::slots; sources are slots [first_source, last_source).
struct Step {
  Rect rect;  // the part of the instruction's rectangle in which anything runs
  Lattice lattice;
  int out, first_source, last_source;
  int sweep = 0;  // of a row: neighbours with the same number run together, column by column: from the left if it is positive
  std::variant<PackedProduct, PackedFastProduct, PackedLookup, CompiledMap, PlannedReduce, PlannedNorm, PlannedAttention> body;
};

struct PlannedDraw {
  int channel, source;
};

struct PlannedEncode {
  Rect rect;
  int out, channel;
  AlignedFloats table;  // (K, out.count)
};

// A part of a known row: an instruction of step k, or, where it is null, reading the parameters of its draw.
struct KnownItem {
  int k;
  const Step* step;
};

// What a list of instructions costs at one pixel: vectors of weights, and instructions to start.
struct Effort {
  double vectors = 0, instructions = 0;
};

struct Plan {
  const Kernels* kernels;
  int channels, height, width, levels, parameters, first_row, col0, col1;
  Distribution head;
  Mixture mixture;
  Arena weights;  // of all products, in the order in which they run
  mutable Pool pool;  // of tiles' buffers
  std::vector<Buffer> buffers;
  Locals locals, row_scratch;
  std::vector<Field> fields;
  std::vector<Slot> slots;
  std::vector<Step> row;
  std::vector<std::vector<Step>> steps;
  std::vector<PlannedDraw> draws;
  std::vector<std::vector<PlannedEncode>> encodes;
  std::vector<KnownItem> known_order;  // empty: known rows run column by column

  std::vector<int> leads;  // of the steps of `row`, and
  int most_lead = 0;       // the largest
  std::vector<Reach> reaches;
  int cell = 1;            // rows may be cut between cells of so many columns, counted from col0
  bool waves = true;       // whether rows may overlap: not where columns wait for all of a row
  Effort row_effort, pixel_effort;
  Ahead ahead;
  int low_products = 0;    // products with weights in the precision that was asked for, where that is not float32

  // The most that any instruction needs; sizes of a worker's scratch.
  size_t most_taps = 0, most_leaves = 0, most_registers = 0, most_keys = 0, most_runs = 0;
  bool strided = false;  // whether any instruction runs at every second column only, or fewer
};

// `cell`: 2 or 4, the columns of a cell in products over whole rows (fast_product.h); 0: plain products only.
// The program's arrays may go afterwards.
std::unique_ptr<const Plan> make_plan(Program program, const Kernels* kernels, int cell, Precision precision);

void fuse(Program& program);

// How many vectors each panel of `vectors` takes: as even as possible, since a wide block wants about `most` of them.
std::vector<int> panel_widths(int vectors, int most);

// How a product's weights are stored: as floats where the precision would not hold them.
Storage storage_of(const Product& product, int outputs, Precision precision);

// The product whose weights are what is stored; if they are others, `kept` holds them.
Product rounded(const Product& product, Storage storage, std::vector<float>& kept);

PackedProduct pack_product(const Product& product, int outputs, Storage storage, const Kernels& kernels, Arena& weights);

// `slot_of` numbers a slot.
struct SlotNumbers {
  virtual int number(const Slot& slot) = 0;

 protected:
  ~SlotNumbers() = default;
};
CompiledMap compile_map(const Map& map, int count, SlotNumbers& slots);

}  // namespace pixelfast
