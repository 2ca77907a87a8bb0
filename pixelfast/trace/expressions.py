"""ATen pointwise operations as expressions over `pixelfast.ir.program.OPERATIONS`.

An expression is a nested tuple: ("leaf", i), a number, or (operation, argument, ...). The table maps an ATen operation to
a function from its arguments (leaves or numbers) to such an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import UnsupportedModel
from ..ir.program import UNARY, Op

Expression = Any


def linearise(expression: Expression, leaf_count: int) -> tuple[list[Op], list[float]]:
    """Operations in order, and the numbers that become further leaves; op arguments count leaves, numbers, then ops."""
    numbers: list[float] = []
    seen: dict[int, tuple[str, int]] = {}
    order: list[tuple[str, list[tuple[str, int]]]] = []

    def visit(node: Expression) -> tuple[str, int]:
        if isinstance(node, (int, float, bool)):
            numbers.append(float(node))
            return "number", len(numbers) - 1
        if node[0] == "leaf":
            return "leaf", node[1]
        if id(node) not in seen:
            args = [visit(child) for child in node[1:]]
            order.append((node[0], args))
            seen[id(node)] = ("op", len(order) - 1)
        return seen[id(node)]

    visit(expression)
    base = {"leaf": 0, "number": leaf_count, "op": leaf_count + len(numbers)}
    return [Op(name, tuple(base[kind] + i for kind, i in args)) for name, args in order], numbers


def _elu(x: Expression, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Expression:
    negative = ("expm1", ("mul", ("minimum", x, 0.0), input_scale) if input_scale != 1 else ("minimum", x, 0.0))
    value = ("add", ("relu", x), negative if alpha == 1 else ("mul", negative, alpha))
    return value if scale == 1 else ("mul", value, scale)


def _gelu(x: Expression, approximate: str = "none") -> Expression:
    if approximate == "tanh":
        cube = ("mul", ("mul", x, x), x)
        inner = ("mul", ("add", x, ("mul", cube, 0.044715)), math.sqrt(2 / math.pi))
        return ("mul", ("mul", x, 0.5), ("add", ("tanh", inner), 1.0))
    return ("mul", ("mul", x, 0.5), ("add", ("erf", ("mul", x, math.sqrt(0.5))), 1.0))


def _softplus(x: Expression, beta: float = 1.0, threshold: float = 20.0) -> Expression:
    scaled = x if beta == 1 else ("mul", x, float(beta))
    value: Expression = ("add", ("relu", scaled), ("log1p", ("exp", ("neg", ("abs", scaled)))))
    value = value if beta == 1 else ("div", value, float(beta))
    # Above the usual threshold of 20 both are the same in float32.
    return value if threshold >= 20 else ("where", ("gt", scaled, float(threshold)), x, value)


def _clamp(x: Expression, low: Expression = None, high: Expression = None) -> Expression:
    x = x if low is None else ("maximum", x, low)
    return x if high is None else ("minimum", x, high)


def _power(x: Expression, exponent: Expression) -> Expression:
    named = {0.5: ("sqrt", x), -0.5: ("rsqrt", x), -1.0: ("reciprocal", x), 2.0: ("mul", x, x), 1.0: x}
    if isinstance(exponent, (int, float)):
        return named.get(float(exponent), ("pow", x, exponent))
    return ("pow", x, exponent)


def _scaled(operation: str) -> Callable[..., Expression]:
    return lambda a, b, alpha=1: (operation, a, b if alpha == 1 else ("mul", b, alpha))


def _divide(a: Expression, b: Expression, rounding_mode: str | None = None) -> Expression:
    quotient = ("div", a, b)
    return quotient if rounding_mode is None else (rounding_mode, quotient)


def _round(x: Expression, decimals: int = 0) -> Expression:
    """Round to the nearest integer; halves go to the even one, as in PyTorch."""
    scale = 10.0**decimals
    scaled = x if decimals == 0 else ("mul", x, scale)
    up = ("floor", ("add", scaled, 0.5))
    is_half = ("eq", ("sub", up, scaled), 0.5)
    is_odd = ("ne", ("mul", ("floor", ("mul", up, 0.5)), 2.0), up)
    rounded = ("sub", up, ("mul", is_half, is_odd))
    return rounded if decimals == 0 else ("div", rounded, scale)


def _hard_sigmoid(x: Expression) -> Expression:
    return ("div", _clamp(("add", x, 3.0), 0.0, 6.0), 6.0)


def _unary(operation: str) -> Callable[..., Expression]:
    return lambda x: (operation, x)


def _binary(operation: str) -> Callable[..., Expression]:
    return lambda a, b: (operation, a, b)


EXPRESSIONS: dict[str, Callable[..., Expression]] = {
    **{name: _unary(name) for name in UNARY},
    **{name: _binary(name) for name in ("mul", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")},
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": lambda a, b, alpha=1: ("sub", b, a if alpha == 1 else ("mul", a, alpha)),
    "div": _divide,
    "floor_divide": lambda a, b: ("floor", ("div", a, b)),
    "remainder": lambda a, b: ("sub", a, ("mul", ("floor", ("div", a, b)), b)),
    "pow": _power,
    "exp2": lambda x: ("pow", 2.0, x),  # exp(x ln 2) has ten times the rounding error
    "square": lambda x: ("mul", x, x),
    "sign": lambda x: ("sub", ("gt", x, 0.0), ("lt", x, 0.0)),
    "elu": _elu,
    "selu": lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1.0 / alpha),
    "leaky_relu": lambda x, slope=0.01: ("add", ("relu", x), ("mul", ("minimum", x, 0.0), slope)),
    "_prelu_kernel": lambda x, slope: ("add", ("relu", x), ("mul", ("minimum", x, 0.0), slope)),
    "gelu": _gelu,
    "silu": lambda x: ("mul", x, ("sigmoid", x)),
    "mish": lambda x: ("mul", x, ("tanh", _softplus(x))),
    "softplus": _softplus,
    "log_sigmoid_forward": lambda x: ("neg", _softplus(("neg", x))),
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda x: ("mul", x, _hard_sigmoid(x)),
    "relu6": lambda x: _clamp(x, 0.0, 6.0),
    "round": _round,
    "clamp": _clamp,
    "clamp_min": lambda x, low: ("maximum", x, low),
    "clamp_max": lambda x, high: ("minimum", x, high),
    "where": lambda condition, a, b: ("where", condition, a, b),
    "logical_and": lambda a, b: ("mul", ("ne", a, 0.0), ("ne", b, 0.0)),
    "logical_or": lambda a, b: ("maximum", ("ne", a, 0.0), ("ne", b, 0.0)),
    "bitwise_and": lambda a, b: ("mul", a, b),
    "bitwise_or": lambda a, b: ("maximum", a, b),
    "bitwise_xor": lambda a, b: ("ne", a, b),
    "bitwise_not": lambda a: ("logical_not", a),
}
"""ATen name -> expression. `bitwise_*` are taken on booleans only; the converter checks that."""


def expression(name: str, args: tuple[Expression, ...], kwargs: dict[str, Any], where: str) -> Expression:
    """The expression of an ATen operation over leaves and numbers."""
    try:
        return EXPRESSIONS[name](*args, **kwargs)
    except TypeError as error:
        raise UnsupportedModel(f"{where}: the operation {name} with arguments {kwargs or args} is not supported") from error
