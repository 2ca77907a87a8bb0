// Buffers that live no longer than a pixel: written by pixel instructions, and read by them where they stand. They need
// no rows and columns, only a place in a few kilobytes that never leave the first-level cache, and they can share it.
#pragma once

#include <vector>

#include "../program.h"

namespace pixelfast {

struct Locals {
  std::vector<int> offset;  // of each buffer, in floats for one image; -1: it is stored in rows and columns
  int floats = 0;           // for one image
};

Locals find_locals(const Program& program);

}  // namespace pixelfast
