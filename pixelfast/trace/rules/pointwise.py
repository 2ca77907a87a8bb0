"""Rules for pointwise operations: expressions, and what is more than one: products with zeros, known selections, batch norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ..constants import alone, known_tensor
from ..context import Context, name_of, rule
from ..expressions import EXPRESSIONS, Expression, expression
from ..index import written_out
from ..values import Value, mixed, replace_values, values_in

aten = torch.ops.aten


MORE_THAN_AN_EXPRESSION = {"mul", "where"}
"""Operations of `EXPRESSIONS` that have a rule of their own, which ends in `pointwise`."""


@rule(*sorted(EXPRESSIONS.keys() - MORE_THAN_AN_EXPRESSION))
def pointwise(c: Context, target: Any, *args: Any, **kwargs: Any) -> Value:
    """The operation's expression over its operands."""
    if all(value.numbers is None for value in values_in((args, kwargs))):
        return c.fold(target, args, kwargs)  # type: ignore[no-any-return]
    name = name_of(target)
    if name.startswith("bitwise") and any(value.dtype != torch.bool for value in values_in(args)):
        raise UnsupportedModel(f"{c.at}: {name} is supported on booleans only")
    operands: list[Value | float] = []

    def leaf(value: Value) -> tuple[str, int]:
        operands.append(value)
        return ("leaf", len(operands) - 1)

    plain = {k: v for k, v in kwargs.items() if v is not None and k not in ("dtype", "layout", "device", "pin_memory")}
    tree = expression(name, replace_values(args, leaf), replace_values(plain, leaf), str(c.at))
    return c.expression_value(tree, operands, lambda: c.constants_of(target, args, kwargs))


@rule("_to_copy")
def to_copy(c: Context, target: Any, x: Value, **kwargs: Any) -> Value:
    dtype = kwargs.get("dtype")
    to_integer = dtype is not None and not dtype.is_floating_point and dtype != torch.bool
    tree: Expression = ("trunc", ("leaf", 0)) if to_integer else ("leaf", 0)
    if dtype == torch.bool:
        tree = ("ne", ("leaf", 0), 0.0)
    if tree == ("leaf", 0):
        return x
    return c.expression_value(tree, [x], lambda: c.constants_of(target, (x,), kwargs))


@rule("mul")
def mul(c: Context, target: Any, a: Value | float, b: Value | float) -> Value:
    """A product; where a known factor is 0 the product is the constant 0, and a 0/1 mask computes nothing."""
    for x, factor in ((a, b), (b, a)):
        if not isinstance(x, Value) or not isinstance(factor, Value) or factor.const is None:
            continue
        if factor.numbers is None and factor.dynamic is None and bool((factor.const == 0).any()):
            return _masked(c, target, x, factor, factor.const)
    return pointwise(c, target, a, b)


def _masked(c: Context, target: Any, x: Value, factor: Value, known: Tensor) -> Value:
    """x times known numbers of which some are 0."""
    shape = torch.broadcast_shapes(x.shape, known.shape)
    ids = torch.where((known == 0).expand(shape), 0, x.ids.expand(shape))
    constant = c.fold(target, (alone(c, x), factor), {})
    if bool(((known == 0) | (known == 1)).all()) or not ids.any():
        return mixed(ids, constant.const, constant.dynamic)
    return c.expression_value(("mul", ("leaf", 0), ("leaf", 1)), [Value(ids), factor], lambda: constant)


@rule("where")
def where(c: Context, target: Any, condition: Value, a: Value | float, b: Value | float) -> Value:
    if condition.numbers is None and condition.dynamic is None:
        return select(c, target, condition, a, b)
    return pointwise(c, target, condition, a, b)


@rule("masked_fill")
def masked_fill(c: Context, target: Any, x: Value, mask: Value, value: Value | float) -> Value:
    fill = value if isinstance(value, Value) else Value(None, torch.tensor(value, dtype=x.dtype))
    return where(c, aten.where.self, mask, fill, x)


def select(c: Context, target: Any, condition: Value, a: Value | float, b: Value | float) -> Value:
    """`where` with a known condition only picks elements."""
    assert condition.const is not None
    chosen = condition.const.bool()
    constant = c.constants_of(target, (condition, a, b), {})
    ids_a, ids_b = (
        value.ids if isinstance(value, Value) and value.numbers is not None else torch.zeros((), dtype=torch.int64)
        for value in (a, b)
    )
    if ids_a.dim() and ids_b.dim() and _by_place(c, chosen, ids_a, ids_b):
        parts: list[Value | float] = [Value(torch.where(chosen, ids_a, 0)), Value(torch.where(chosen, 0, ids_b))]
        return c.expression_value(("add", ("leaf", 0), ("leaf", 1)), parts, lambda: constant)  # of the two one is 0
    ids = torch.where(chosen, ids_a, ids_b)
    return mixed(ids.expand(constant.shape), constant.const, constant.dynamic)


def _by_place(c: Context, chosen: Tensor, *operands: Tensor) -> bool:
    """Whether a selection takes one channel of an operand here and leaves it there, so that it is no choice of channels."""
    for ids in operands:
        shape = torch.broadcast_shapes(ids.shape, chosen.shape)
        place = c.builder.table.places(written_out(ids.expand(shape)).numpy())
        channel = (place.node.astype(np.int64) << 32 | place.feature)[place.known]
        _, number, count = np.unique(channel, return_inverse=True, return_counts=True)
        taken = np.bincount(number.reshape(-1), chosen.expand(shape).numpy()[place.known], len(count))
        if ((taken > 0) & (taken < count)).any():
            return True
    return False


@rule("_native_batch_norm_legit_no_training")
def batch_norm(
    c: Context, target: Any, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, momentum: float,
    eps: float,
) -> list[Value]:  # fmt: skip
    """Eval-mode batch normalisation: a scale and a shift for each channel."""

    def known(value: Value) -> Tensor:
        return known_tensor(c, value, "a number", "belongs to batch normalisation").double()

    scale = (known(var) + eps).rsqrt()
    scale = scale if weight is None else scale * known(weight)
    shift = -known(mean) * scale
    shift = shift if bias is None else shift + known(bias)
    view = (1, -1, *([1] * (len(x.shape) - 2)))
    leaves: list[Value | float] = [x, Value(None, scale.float().view(view)), Value(None, shift.float().view(view))]
    tree = ("add", ("mul", ("leaf", 0), ("leaf", 1)), ("leaf", 2))
    args = (x, weight, bias, mean, var, momentum, eps)

    def constants() -> Value:
        return c.constants_of(target, args, {})[0]  # type: ignore[index]

    return [c.expression_value(tree, leaves, constants)]


@rule("native_batch_norm")
def native_batch_norm(
    c: Context, target: Any, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, training: bool,
    momentum: float, eps: float,
) -> list[Value]:  # fmt: skip
    if training:
        raise c.statistics("native_batch_norm")
    legit = aten._native_batch_norm_legit_no_training.default
    return batch_norm(c, legit, x, weight, bias, mean, var, momentum, eps)
