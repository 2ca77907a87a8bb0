// The inner loops one number at a time.
#include "ops.h"
#include "vec_scalar.h"
#include "ops_impl.h"

const pixelfast::Kernels* pixelfast::scalar_kernels() { return &kKernels; }
