// The inner loops for NEON, if this is compiled for it (see setup.py).
#include "ops.h"

#if defined(__aarch64__) || defined(PIXELFAST_EMULATE)
#include "vec_neon.h"
#include "ops_impl.h"

const pixelfast::Kernels* pixelfast::neon_kernels() { return &kKernels; }
#else
const pixelfast::Kernels* pixelfast::neon_kernels() { return nullptr; }
#endif
