// From a program to the tables of the cluster kernel, for one shape of cluster.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "../program.h"
#include "tables.h"

namespace pixelfast::cuda {

// The program needs something that the kernel does not have; the text says what.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Shape {
  int ranks;            // blocks of a cluster
  int images;           // of a cluster: 1, 2, 4 or 8
  size_t shared_bytes;  // that a block may have
};

struct Plan {
  Tables tables{};  // without the pointers, which belong to where the tables lie
  std::vector<BufferEntry> buffers;
  std::vector<SlotEntry> slots;
  std::vector<PixelEntry> pixels;
  std::vector<LeafEntry> leaves;
  std::vector<OpEntry> ops;
  std::vector<InstructionEntry> instructions;
  std::vector<int> steps, encodes_of;
  std::vector<DrawEntry> draws;
  std::vector<EncodeEntry> encodes;
  std::vector<float> floats;
  std::vector<Field> fields;

  size_t shared_bytes = 0;  // that a block needs
  int64_t replica = 0;      // floats of a block's replica in device memory
  int resident = 0, products = 0;  // products of the steps whose weights are in shared memory, and all

  // With pointers into this plan, for the shim.
  Tables on_host() const;
};

// Throws Unsupported.
Plan make_plan(const Program& program, const Shape& shape);

// Which cluster suits a program and a number of images: the fewest blocks whose shared memory holds all that the steps
// need, or `most_ranks`; no measurement stands behind it.
Shape choose_shape(const Program& program, int images, size_t shared_bytes, int most_ranks, int multiprocessors);

// The strides of a field's array (images or 1, rows or 1, columns or 1, features), of which `offset` is the first number.
FieldEntry field_entry(const Field& field, const int64_t sizes[4], int64_t offset);

}  // namespace pixelfast::cuda
