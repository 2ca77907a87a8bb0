// Written by `python -m pixelfast.ir.contract_cpp` from pixelfast/ir/contract.py: change that.
// Names and limits. It needs no other header, so that the inner loops can include it (see cpu/ops_impl.h).
#pragma once

namespace pixelfast {

constexpr long long kMagic = 0x5049584641535431;
constexpr long long kContract = 0x674d39f7cf5cb5a3;  // the version of all this

constexpr long long kReach = 1048576;  // rows, columns and offsets lie within +-kReach
constexpr long long kMargin = 4096;  // rows and columns beyond the image in which anything runs: a run visits all of them
constexpr long long kMostChannels = 1024;  // of an image
constexpr long long kMostLevels = 65536;  // values of a sub-pixel, parameters of its distribution, components of a mixture
constexpr long long kMostOffset = 16777216;  // of values from the integers that they stand for: float32 has all of them
constexpr long long kMostFeatures = 4194304;  // of a buffer or a field
constexpr long long kMostFloats = 1099511627776;  // of all buffers, for one image
constexpr long long kMostPixels = 1073741824;  // that attention can number, and lists or runs of them
constexpr long long kMostKeys = 1099511627776;  // of all lists of an attention
constexpr long long kMostThreads = 4096;  // of a call
constexpr long long kMostOperands = 48;  // leaves and operations of an expression, in the kernel for GPUs

enum class Operation { neg, abs, exp, expm1, log, log1p, sqrt, rsqrt, reciprocal, tanh, sigmoid, erf, sin, cos, atan,
  floor, trunc, relu, logical_not, add, sub, mul, div, maximum, minimum, pow, eq, ne, lt, le, gt, ge, where };

enum class Reduction { mean, sum, var, amax, amin, logsumexp };

enum class Distribution { categorical, bernoulli_logit, bernoulli_probability, mixture_of_logistics,
  mixture_of_gaussians };

enum class Precision { fp32, fp16w };
constexpr const char* kPrecisions[] = {"fp32", "fp16w"};

enum class Split { none, rows, parts };
constexpr const char* kSplits[] = {"none", "rows", "parts"};

enum class Opcode { Product, Lookup, Map, Reduce, Norm, Attention };

// Of each operation.
constexpr int kArguments[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
  2, 2, 2, 3};

}  // namespace pixelfast
