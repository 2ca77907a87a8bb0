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
    "atan": 1.2e-7,
    "pow": 1.2e-7,
}
ROUNDED = 6.1e-8
# Functions that are made of several rounded operations: those of `OPERATION` in Triton kernels, and PyTorch's.
SEVERAL = 5e-7

# Engines against the reference interpreter in float32: sums in another order. Relative to the largest number compared.
INSTRUCTION = 2e-6
# Products with fewer multiplications have up to 2.4 times the rounding error of plain ones (csrc/cpu/fast_product.h), and
# the tests sum up to 5,000 terms: 5.3e-6 was the largest.
FAST_PRODUCT = 1e-5
PROGRAM = 1e-5
# Scores of tens, rounded, are exponents.
ATTENTION = 4e-6
# log_prob sums hundreds of terms, each from slightly different parameters.
LOG_PROB = 1e-5
# Whole programs whose products round their inputs, to precisions that the programs' own numbers have not.
HALVES = {"fp16": 1e-2, "bf16": 8e-2}


def of_operation(engine: str, name: str) -> float:
    """How far an engine's operation may lie from float64, relative to the result; an engine that is new gets the most room."""
    if engine in ("cpu", "cuda"):
        return OPERATION.get(name, ROUNDED)
    if engine == "triton":
        return SEVERAL if name in OPERATION else ROUNDED
    return SEVERAL
