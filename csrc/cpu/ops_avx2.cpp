// The inner loops for AVX2, if this is compiled for it (see setup.py).
#include "ops.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vec_avx2.h"
#include "ops_impl.h"

const pixelfast::Kernels* pixelfast::avx2_kernels() { return &kKernels; }
#else
const pixelfast::Kernels* pixelfast::avx2_kernels() { return nullptr; }
#endif
