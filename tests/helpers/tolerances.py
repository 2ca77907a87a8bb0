"""How closely engines must agree: one table. Copies, comparisons and drawn values compare exactly."""

from __future__ import annotations

# Relative error of one operation on float32 against the same in float64; half a unit in the last place is 6e-8.
# What is not listed is rounded once.
OPERATION = {
    "exp": 2.5e-7,
    "expm1": 3e-7,
    "tanh": 4e-7,
    "sigmoid": 3e-7,
    "rsqrt": 1.8e-7,
    "log": 1.2e-7,
    "log1p": 1.2e-7,
    "erf": 1.2e-7,
    "sin": 1.2e-7,
    "cos": 1.2e-7,
    "pow": 1.2e-7,
}
ROUNDED = 6.1e-8
# The functions of `OPERATION` in Triton kernels, in its interpreter: made of several rounded operations.
TRITON_OPERATION = 5e-7

# Engines against the reference interpreter in float32: sums in another order. Relative to the largest number compared.
INSTRUCTION = 2e-6
# Products with fewer multiplications have up to 2.4 times the rounding error of plain ones (csrc/cpu/fast_product.h), and
# the tests sum up to 5,000 terms: 5.3e-6 was the largest.
FAST_PRODUCT = 1e-5
PROGRAM = 1e-5
# log_prob sums hundreds of terms, each from slightly different parameters.
LOG_PROB = 1e-5
