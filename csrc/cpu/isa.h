// Which instruction set to use: the best that this processor and this build have, or the one that was asked for.
#pragma once

#include <string>
#include <vector>

#include "ops.h"

namespace pixelfast {

// Those that run here, best first.
std::vector<std::string> available_isas();

// `name` wins over the environment variable PIXELFAST_ISA; both empty: the best. Throws std::invalid_argument.
const Kernels* choose_kernels(const std::string& name);

}  // namespace pixelfast
