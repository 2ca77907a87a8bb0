// The operations of a Map, number by number, as pixelfast/ir/expression.py has them in PyTorch.
#pragma once

#include "../contract.h"
#include "device.h"

namespace pixelfast::cuda {

PIXELFAST_DEVICE float operate(int name, float a, float b, float c) {
  switch (static_cast<Operation>(name)) {
    case Operation::neg: return -a;
    case Operation::abs: return fabsf(a);
    case Operation::exp: return expf(a);
    case Operation::expm1: return expm1f(a);
    case Operation::log: return logf(a);
    case Operation::log1p: return log1pf(a);
    case Operation::sqrt: return sqrtf(a);
    case Operation::rsqrt: return 1.0f / sqrtf(a);
    case Operation::reciprocal: return 1.0f / a;
    case Operation::tanh: return tanhf(a);
    case Operation::sigmoid: return 1.0f / (1.0f + expf(-a));
    case Operation::erf: return erff(a);
    case Operation::sin: return sinf(a);
    case Operation::cos: return cosf(a);
    case Operation::atan: return atanf(a);
    case Operation::floor: return floorf(a);
    case Operation::trunc: return truncf(a);
    case Operation::relu: return a < 0.0f ? 0.0f : a;
    case Operation::logical_not: return a == 0.0f ? 1.0f : 0.0f;
    case Operation::add: return a + b;
    case Operation::sub: return a - b;
    case Operation::mul: return a * b;
    case Operation::div: return a / b;
    case Operation::maximum: return a != a || a > b ? a : b;  // NaN if either is
    case Operation::minimum: return a != a || a < b ? a : b;
    case Operation::pow: return powf(a, b);
    case Operation::eq: return a == b ? 1.0f : 0.0f;
    case Operation::ne: return a != b ? 1.0f : 0.0f;
    case Operation::lt: return a < b ? 1.0f : 0.0f;
    case Operation::le: return a <= b ? 1.0f : 0.0f;
    case Operation::gt: return a > b ? 1.0f : 0.0f;
    case Operation::ge: return a >= b ? 1.0f : 0.0f;
    case Operation::where: return a != 0.0f ? b : c;
  }
  return 0.0f;
}

}  // namespace pixelfast::cuda
