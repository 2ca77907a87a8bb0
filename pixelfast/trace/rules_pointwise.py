"""Rules for pointwise operations that are more than an expression: products with zeros, known selections, batch norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedModel
from .elements import Value, written_out
from .pointwise import Expression
from .values import mixed, shape_of

if TYPE_CHECKING:
    from .convert import Converter

aten = torch.ops.aten


def to_copy(c: Converter, target: Any, x: Value, **kwargs: Any) -> Value:
    dtype = kwargs.get("dtype")
    if dtype in (torch.float16, torch.bfloat16):
        raise UnsupportedModel(f"{c.at} converts to {dtype}: sample the model in float32 (model.float())")
    to_integer = dtype is not None and not dtype.is_floating_point and dtype != torch.bool
    tree: Expression = ("trunc", ("leaf", 0)) if to_integer else ("leaf", 0)
    if dtype == torch.bool:
        tree = ("ne", ("leaf", 0), 0.0)
    if tree == ("leaf", 0):
        return x
    return c.expression_value(tree, [x], lambda: c.constants_of(target, (x,), kwargs))


def mul(c: Converter, target: Any, a: Value | float, b: Value | float) -> Value:
    """A product; where a known factor is 0 the product is the constant 0, and a 0/1 mask computes nothing."""
    for x, factor in ((a, b), (b, a)):
        if not isinstance(x, Value) or not isinstance(factor, Value) or factor.numbers is not None or factor.dynamic:
            continue
        assert x.numbers is not None
        assert factor.const is not None
        zero = factor.const == 0
        if not zero.any():
            continue
        shape = torch.broadcast_shapes(shape_of(x), factor.const.shape)
        ids = torch.where(zero.expand(shape), 0, x.ids.expand(shape))
        const = None if x.const is None else x.const.expand(shape) * factor.const
        if bool((factor.const[~zero] == 1).all()) and x.dynamic is None:
            return mixed(ids, const, None)
        masked = Value(ids, None if x.const is None else x.const.expand(shape), x.dynamic)
        return c.pointwise(target, "mul", (masked, factor), {})
    return c.pointwise(target, "mul", (a, b), {})


def where(c: Converter, target: Any, condition: Value, a: Value, b: Value) -> Value:
    if condition.numbers is None and condition.dynamic is None:
        return select(c, condition, a, b)
    return c.pointwise(target, "where", (condition, a, b), {})


def masked_fill(c: Converter, target: Any, x: Value, mask: Value, value: Value | float) -> Value:
    fill = value if isinstance(value, Value) else Value(None, torch.tensor(float(value)))
    return where(c, aten.where.self, mask, fill, x)


def select(c: Converter, condition: Value, a: Value, b: Value) -> Value:
    """`where` with a known condition only picks elements."""
    assert condition.const is not None

    def parts(value: Value) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(shape_of(value), dtype=torch.int64) if value.numbers is None else value.ids
        return ids, value.const if value.const is not None else torch.zeros(ids.shape)

    if a.dynamic or b.dynamic:
        return c.pointwise(aten.where.self, "where", (condition, a, b), {})
    (ids_a, const_a), (ids_b, const_b) = parts(a), parts(b)
    chosen = condition.const.bool()
    if a.numbers is not None and b.numbers is not None and _by_place(c, chosen, ids_a, ids_b):
        kept = [
            mixed(torch.where(mask, ids, 0), torch.where(mask, const.float(), 0.0), None)
            for mask, ids, const in ((chosen, ids_a, const_a), (~chosen, ids_b, const_b))
        ]
        return c.pointwise(aten.add.Tensor, "add", tuple(kept), {})  # of the two one is 0
    return mixed(torch.where(chosen, ids_a, ids_b), torch.where(chosen, const_a.float(), const_b.float()), None)


def _by_place(c: Converter, chosen: Tensor, *operands: Tensor) -> bool:
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


def batch_norm(
    c: Converter, target: Any, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, _: float, eps: float
) -> list[Value]:
    """Eval-mode batch normalisation: a scale and a shift for each channel."""
    assert mean.const is not None
    assert var.const is not None
    scale = (var.const.double() + eps).rsqrt()
    scale = scale if weight is None or weight.const is None else scale * weight.const.double()
    shift = -mean.const.double() * scale
    shift = shift if bias is None or bias.const is None else shift + bias.const.double()
    view = (1, -1, *([1] * (len(shape_of(x)) - 2)))
    leaves: list[Value | float] = [x, Value(None, scale.float().view(view)), Value(None, shift.float().view(view))]
    tree = ("add", ("mul", ("leaf", 0), ("leaf", 1)), ("leaf", 2))
    args = (x, weight, bias, mean, var, _, eps)

    def constants() -> Value:
        return c.constants_of(target, args, {})[0]  # type: ignore[index]

    return [c.expression_value(tree, leaves, constants)]


def native_batch_norm(
    c: Converter, target: Any, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, training: bool,
    momentum: float, eps: float,
) -> list[Value]:  # fmt: skip
    if training:
        raise c.statistics("native_batch_norm")
    legit = aten._native_batch_norm_legit_no_training.default
    return batch_norm(c, legit, x, weight, bias, mean, var, momentum, eps)
