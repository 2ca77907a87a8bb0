"""Expressions over channels as Triton source: one line for each operation of `pixelfast.ir.program.OPERATIONS`.

The functions here are written with operations that exist both in compiled kernels and in Triton's interpreter, and keep their
relative precision near 0, where formulas with `exp` alone lose it.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from . import operand


@triton.jit
def expm1(x):
    """exp(x) - 1: below 1/2 its series, whose next term is 2e-9 of it."""
    series = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040 + x * (1 / 40320 + x * (1 / 362880)))))
    series = x + x * x * (0.5 + x * (1 / 6 + x * series))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x), corrected for what 1 + x rounds away; beyond the largest number, and below -1, as log is."""
    total = 1.0 + x
    lost = x - (total - 1.0)
    corrected = tl.log(total) + tl.where((total > 0.0) & (tl.abs(total) < 1e30), lost / total, 0.0)
    return tl.where(x == 0.0, x, corrected)


@triton.jit
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2|x|), from expm1, which keeps the digits of a small difference."""
    less = expm1(-2.0 * tl.abs(x))
    size = -less / (2.0 + less)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def sigmoid(x):
    """The sigmoid, from the exponential of a negative number, which cannot overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
def atan(x):
    """Cephes' atanf: of |x| beyond tan(3 pi / 8) by -1 / |x|, beyond tan(pi / 8) by (|x| - 1) / (|x| + 1), and its series."""
    size = tl.abs(x)
    far, middle = size > 2.414213562373095, size > 0.4142135623730950
    angle = tl.where(far, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    above = tl.where(far, -1.0, tl.where(middle, size - 1.0, size))
    y = above / tl.where(far, size, tl.where(middle, size + 1.0, 1.0))
    z = y * y
    series = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    result = angle + (series * z * y + y)
    return tl.where(x < 0.0, -result, result)


@triton.jit
def truncate(x):
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))


@triton.jit
def power(x, y):
    """x ** y as C has it, by way of float64: the logarithm of a float32 number, times a large y, needs more digits."""
    base, exponent = tl.broadcast(x.to(tl.float64), y.to(tl.float64))
    size = tl.exp(exponent * tl.log(tl.abs(base)))
    whole = (tl.floor(exponent) == exponent) | (tl.abs(exponent) == float("inf"))
    odd = whole & (tl.floor(exponent * 0.5) * 2.0 != exponent) & (tl.abs(exponent) < 9.0e15)
    negative = base < 0.0
    size = tl.where(negative & odd, -size, size)
    size = tl.where(negative & (tl.abs(base) < float("inf")) & (whole == 0), float("nan"), size)
    one = (exponent == 0.0) | (base == 1.0) | ((base == -1.0) & (tl.abs(exponent) == float("inf")))
    return tl.where(one, 1.0, size).to(tl.float32)


SOURCE: dict[str, str] = {
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "exp": "tl.exp({0})",
    "expm1": "expm1({0})",
    "log": "tl.log({0})",
    "log1p": "log1p({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "tl.rsqrt({0})",
    "reciprocal": "tl.div_rn(tl.full([1, 1], 1.0, tl.float32), {0})",
    "tanh": "tanh({0})",
    "sigmoid": "sigmoid({0})",
    "erf": "tl.erf({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "atan": "atan({0})",
    "floor": "tl.floor({0})",
    "trunc": "truncate({0})",
    "relu": "tl.where({0} < 0.0, 0.0, {0})",
    "logical_not": "({0} == 0.0).to(tl.float32)",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "tl.div_rn({0}, {1})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "pow": "power({0}, {1})",
    "eq": "({0} == {1}).to(tl.float32)",
    "ne": "({0} != {1}).to(tl.float32)",
    "lt": "({0} < {1}).to(tl.float32)",
    "le": "({0} <= {1}).to(tl.float32)",
    "gt": "({0} > {1}).to(tl.float32)",
    "ge": "({0} >= {1}).to(tl.float32)",
    "where": "tl.where({0} != 0.0, {1}, {2})",
}


def number(value: float) -> str:
    """A literal, as a tile of its own so that operations of literals alone are operations of tiles, too."""
    text = repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    return f"tl.full([1, 1], {text}, tl.float32)"


def lines(ops: Sequence[Any], names: Sequence[str], prefix: str = "v") -> list[str]:
    """One assignment for each operation; `names` are those of the leaves. The last one assigned is the result."""
    known, result = list(names), []
    for index, op in enumerate(ops):
        known.append(f"{prefix}{index}")
        result.append(f"{known[-1]} = {SOURCE[op.name].format(*(known[i] for i in op.args))}")
    return result


_known: dict[tuple[str, str], Any] = {}


def compiled(source: str, name: str, functions: Sequence[Any] = (), noinline: bool = False) -> Any:
    """The function `name` of a piece of source, under `triton.jit`, made once; `functions`: what else it calls."""
    if (name, source) not in _known:
        filename = f"<pixelfast kernel {name} {len(_known)}>"
        # Triton reads the source of a function again, as Python's tracebacks do.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        space: dict[str, Any] = {"__name__": "pixelfast.kernels.generated", "tl": tl, "WORDS": operand.WORDS}
        space |= {function.__name__: function for function in (*FUNCTIONS, *functions)}
        exec(compile(source, filename, "exec"), space)
        _known[name, source] = triton.jit(do_not_specialize=SCALARS, noinline=noinline)(space[name])
    return _known[name, source]


FUNCTIONS = (expm1, log1p, tanh, sigmoid, atan, truncate, power, operand.running_items, operand.addresses)

SCALARS = (
    "first", "columns", "images", "features", "chunks", "taps", "height", "width", "channels", "channel", "levels", "encodes",
    "count",
)  # fmt: skip
"""Whole numbers that must not make variants of a kernel when they happen to be 1 or a multiple of 16."""
