// The inner loops for AVX-512, if this is compiled for it (see setup.py).
#include "ops.h"

#if (defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)) || \
    defined(PIXELFAST_EMULATE)
#include "vec_avx512.h"
#include "ops_impl.h"

const pixelfast::Kernels* pixelfast::avx512_kernels() { return &kKernels; }
#else
const pixelfast::Kernels* pixelfast::avx512_kernels() { return nullptr; }
#endif
