// The names of program.py, in its order: their positions are the codes in the stream (test_instructions.py).
// Needs no other header, so that the inner loops can include it (see cpu/ops_impl.h).
#pragma once

namespace pixelfast {

#define PIXELFAST_OPERATIONS(X)                                                                                       \
  X(neg) X(abs) X(exp) X(expm1) X(log) X(log1p) X(sqrt) X(rsqrt) X(reciprocal) X(tanh) X(sigmoid) X(erf) X(sin)      \
  X(cos) X(floor) X(trunc) X(relu) X(logical_not) X(add) X(sub) X(mul) X(div) X(maximum) X(minimum) X(pow) X(eq)     \
  X(ne) X(lt) X(le) X(gt) X(ge) X(where)
#define PIXELFAST_REDUCTIONS(X) X(mean) X(sum) X(var) X(amax) X(amin) X(logsumexp)
#define PIXELFAST_HEADS(X) X(categorical) X(bernoulli_logit) X(bernoulli_probability) X(mixture_of_logistics)
#define PIXELFAST_ORDERS(X) X(colour_major) X(mixture_major)
#define PIXELFAST_PRECISIONS(X) X(fp32) X(fp16w)
#define PIXELFAST_INSTRUCTIONS(X) X(Product) X(Lookup) X(Map) X(Reduce) X(Norm) X(Attention)

#define PIXELFAST_ENUM(name) name,
enum class Operation { PIXELFAST_OPERATIONS(PIXELFAST_ENUM) };
enum class Reduction { PIXELFAST_REDUCTIONS(PIXELFAST_ENUM) };
enum class Distribution { PIXELFAST_HEADS(PIXELFAST_ENUM) };
enum class Order { PIXELFAST_ORDERS(PIXELFAST_ENUM) };
enum class Precision { PIXELFAST_PRECISIONS(PIXELFAST_ENUM) };
enum class Opcode { PIXELFAST_INSTRUCTIONS(PIXELFAST_ENUM) };
#undef PIXELFAST_ENUM

}  // namespace pixelfast
