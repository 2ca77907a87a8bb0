// A program as the cluster kernel reads it: tables of plain structs, the same on host and device.
//
// Every block of a cluster holds all activations of the cluster's images, its *replica*: the buffers of the program, those
// that fit in shared memory, the others in device memory. The output channels of a product are divided among the blocks,
// each of which keeps its part of the weights in shared memory and sends what it computes to all replicas. Everything else
// is little work, and done by every block for itself.
// Letters: N images of a cluster, K inputs of a product. Offsets and sizes are in floats, where nothing else is said.
#pragma once

#include <cstdint>

namespace pixelfast::cuda {

constexpr int kMostImages = 8;   // of a cluster

struct BufferEntry {
  int features, rows, col0, columns;       // [rows][columns][N][features]; one column if it is `local`
  int row_begin, row_end, col_begin, col_end;  // the domain
  int local;                               // lives as long as a pixel
  int shared;                              // where: in shared or in device memory
  int64_t offset;                          // in that part of the replica
};

struct SlotEntry {
  int buffer, channel, count, row, col;
};

struct PixelEntry {
  int row, col, channel;
};

struct LeafEntry {
  int kind;  // 0 slot, 1 field, 2 vector, 3 number
  SlotEntry slot;  // of a field: `buffer` is its number
  int64_t vector;
  float number;
};

struct OpEntry {
  int name, args[3];
};

struct InstructionEntry {
  int opcode;  // of contract.h
  int row_begin, row_end, col_begin, col_end;
  SlotEntry out;
  int first, count;       // slots, pixels or leaves
  int first_op, ops;
  int inputs;             // K of a product
  int64_t weights, bias;  // (out.count, K); -1: add to what is there. Of a Norm: scale and shift. Of a Lookup: tables
  int resident;           // where the block's part of the weights begins in shared memory, or -1
  int guard;              // a barrier of the cluster before the sums are sent: others may still read what stands there
  int async;              // sent by stores that arrive later, instead of followed by a barrier
  int kind;               // of a Reduce
  float number;           // eps, correction
};

struct DrawEntry {
  int channel;
  SlotEntry source;
};

struct EncodeEntry {
  SlotEntry out;
  int channel;
  int64_t table;  // (out.count, K)
};

struct FieldEntry {
  int row0, col0;
  int64_t image, row, col;  // strides; 0 where it is broadcast
  int64_t offset;
};

struct Tables {
  int channels, height, width, levels, parameters, head;
  int first_row, col0, col1, buffer_count, row_count;
  int shared_weights, shared_replica;  // where they begin in shared memory
  const BufferEntry* buffers;
  const SlotEntry* slots;
  const PixelEntry* pixels;
  const LeafEntry* leaves;
  const OpEntry* ops;
  const InstructionEntry* instructions;  // those of a row, then those of the steps
  const int* steps;                      // (channels + 1): where each step's instructions begin
  const DrawEntry* draws;
  const EncodeEntry* encodes;
  const int* encodes_of;                 // (channels + 1)
  const float* floats;
};

// One call. Arrays are as in engines/request.py; nullptr where not wanted or not given.
struct CallTable {
  int images;
  double temperature;
  const float* noise;
  const int32_t* given;
  const FieldEntry* fields;
  const float* field_values;
  int32_t* values;
  double* log_prob;
  float* parameters;
  unsigned long long* failure;  // the first (row, col, channel, image) whose parameters describe no distribution
  float* replicas;              // of all blocks, in device memory
  int64_t replica;              // the size of one
  int32_t* drawn;               // of all blocks: (H, W, C, N)
};

}  // namespace pixelfast::cuda
