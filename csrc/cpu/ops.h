// The inner loops, as plain structs and function pointers: one table of functions for each instruction set.
// Rows of a call are images, columns x images, or any pixels whatever.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pixelfast {

// Row m starts at base + m * stride or, where `each` is not null, at each[m] + stride. (ops_impl.h has row_of(rows, m):
// a member function would be one function for all instruction sets.)
template <class Float>
struct RowsOf {
  Float* base;
  ptrdiff_t stride;
  Float* const* each;
};
using Rows = RowsOf<float>;
using ConstRows = RowsOf<const float>;

// How a product's weights are stored. Sums are float32 whatever it is.
enum Storage { kFloats, kHalves, kStorages };

struct Half {
  uint16_t bits;  // of a float16
};

// Source channels [0, count) of a tap; they meet rows [first, first + count) of the packed weights.
struct Tap {
  ConstRows source;
  ptrdiff_t first, count;
};

// Outputs [channel, channel + count): weights (K, stride), bias (vectors * width) or null. Where rows of weights are shorter
// than the panel's vectors, what lies behind the last one can be read, too. The panel that is used next has its weights
// `next` bytes further on; 0: none is known.
struct Panel {
  const void* weights;  // stored as the function that the panel is for wants them
  const float* bias;
  int channel, count, vectors;
  ptrdiff_t stride, next;
};

// out = (bias, or what `out` holds) + sum over taps of weights^T . source + (added), and then its relu
struct ProductCall {
  const Panel* panels;
  int panel_count;
  const Tap* taps;
  ptrdiff_t tap_count;
  Rows out;
  ptrdiff_t rows;
  bool adds, relu;
  ConstRows added;
};

// What a Map is made of: the operations of contract.h by position, and a few that stand for several of them.
enum MapCode {
  kGate = 1000,  // tanh(a) sigmoid(b)
  kGateOfSums,   // tanh(a + b) sigmoid(c + d): layers with a condition
  kMulAdd,       // a b + c
  kAddRelu,      // relu(a + b)
  kElu,
  kCopy,
};

constexpr int kMostArguments = 4;

struct MapOp {
  int code;
  int out;      // a register, or -1: the destination
  int args[kMostArguments];  // >= 0: a register; ~leaf otherwise
};

struct MapLeaf {
  ConstRows source;
  bool broadcast;  // one number for all channels
};

constexpr ptrdiff_t kMapBlock = 1024;  // floats of a register

struct MapCall {
  const MapOp* ops;
  int op_count;
  const MapLeaf* leaves;
  int leaf_count;
  const int* leaf_registers;  // where a broadcast leaf is spread out
  float* registers;           // (registers, kMapBlock)
  Rows out;
  ptrdiff_t rows, count;
};

struct Span {
  ConstRows source;
  ptrdiff_t count;
};

// One number for each row, over the channels of all sources.
struct ReduceCall {
  int kind;  // a position in REDUCTIONS
  const Span* sources;
  int source_count;
  float correction;
  Rows out;
  ptrdiff_t rows;
};

struct NormCall {
  Span source;
  const float *scale, *shift;
  float eps;
  bool relu;  // of the result
  Rows out;
  ptrdiff_t rows;
};

// Keys and values of neighbouring columns: those of key i begin at keys + i * key_stride and values + i * value_stride.
struct KeyRun {
  const float *keys, *values;
  ptrdiff_t count;
};

// out = mean of the values, weighted by the softmax over all keys of scale * (query . key) + bias; 0 without any.
struct AttendCall {
  const float* query;
  const KeyRun* runs;
  int run_count;
  ptrdiff_t size, value_size;          // channels of a key, of a value
  ptrdiff_t key_stride, value_stride;
  ptrdiff_t keys, values;              // offset from the runs' pointers, of this image and head
  float scale;
  const float* bias;                   // of each key, or null
  float* scores;                       // scratch: a float for each key
  float* out;
};

// One draw from `count` logits: value = number of k < count-1 whose cumulative probability is <= noise.
struct DrawCall {
  const float* logits;
  ptrdiff_t count;
  float inverse_temperature;
  double noise;
  float* exps;   // scratch: count floats, rounded up to 64
  double* sums;  // scratch: count / 64, rounded up
  int value;
  double log_prob;
};

// Inputs of a fast product at the points of toom.h: out (points, cells, lanes, count), from (columns, images, count).
struct FastInputs {
  const float* source;
  ptrdiff_t col_stride, stride, count;
  int columns, width;       // of a cell, of the pieces
  int cells, last, images;  // columns of the last cell that are wanted
  float* out;
  ptrdiff_t point_stride, cell_stride;
};

// out = (bias, or what `out` holds) + what the sums at the points, (points, cells, lanes, count), amount to.
struct FastOutputs {
  const float* sums;
  ptrdiff_t point_stride, cell_stride, row_stride;
  const float* bias;
  int columns, points;
  int cells, last, images;
  float* out;
  ptrdiff_t col_stride, stride, count;
};

struct Kernels {
  const char* name;
  int width, most_vectors;  // floats of a vector; vectors of a panel
  int (*sets_of_sums)(int vectors);  // into which a product with panels of so many vectors puts each output's terms
  int (*panels_at_once)(ptrdiff_t rows, int vectors);  // that a product takes at once, if they are alike
  void (*product[kStorages])(const ProductCall&);  // for weights stored in each way
  void (*fast_inputs)(const FastInputs&);
  void (*fast_outputs)(const FastOutputs&);
  void (*map)(const MapCall&);
  void (*reduce)(const ReduceCall&);
  void (*norm)(const NormCall&);
  void (*attend)(const AttendCall&);
  void (*add)(float* out, const float* const* tables, int table_count, ptrdiff_t count);  // out += sum of the tables
  bool (*draw)(DrawCall&);  // false: the logits describe no distribution
};

// Null where the library was built for another kind of processor.
const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

}  // namespace pixelfast
