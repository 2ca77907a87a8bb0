// AVX-512 with BF16, if this is compiled for it (see setup.py): products of pairs by its instruction, all else as in AVX-512.
#include "ops.h"

#if defined(__AVX512BF16__) || defined(PIXELFAST_EMULATE)
#include "vec_avx512.h"
#include "dot_pairs.h"
#include "product_impl.h"

const pixelfast::Kernels* pixelfast::avx512_bf16_kernels() {
  static const Kernels kernels = [] {
    Kernels same = *avx512_kernels();
    same.name = "avx512_bf16";
    same.product[kPairs] = product<Pair>;
    return same;
  }();
  return &kernels;
}
#else
const pixelfast::Kernels* pixelfast::avx512_bf16_kernels() { return nullptr; }
#endif
