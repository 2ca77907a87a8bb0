// Buffers that only hand numbers from one instruction to the next, and where they lie meanwhile. If each had its place in
// rows and columns, every pixel would touch new memory: 5 MB a row for 12 images of a PixelCNN of 17 layers, and nothing
// would stay in the first caches. Instead they share a few kilobytes, where their lives do not overlap.
#pragma once

#include <vector>

#include "../program.h"

namespace pixelfast {

struct Locals {
  std::vector<ptrdiff_t> offset;  // of each buffer, in floats for one image; -1: it is not among them
  ptrdiff_t floats = 0;           // for one image
};

// Written by pixel instructions, and read by them where they stand: they need one column.
Locals find_locals(const Program& program);

// Touched by nothing but the instructions of a row, on their own row: they need all columns, while whole rows are run.
Locals find_row_scratch(const Program& program);

}  // namespace pixelfast
