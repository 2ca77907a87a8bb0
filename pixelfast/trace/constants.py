"""Constants: the value of an element that depends on no sub-pixel.

One rule holds for every operation: **such an element has the value that PyTorch computes for it**. The operation itself runs
once over the constant elements of its operands, in their own types: here, or in the condition graph for each call where
conditions enter (`Context.fold`). Zeros stand for the elements that come from the image meanwhile, and what comes out in
places that depend on one of those is not looked at.

- Pointwise and layout operations need nothing else.
- A product is a sum, so an element that depends on some sub-pixels is product(elements of the image) + product(constants) +
  bias. The first and the last are a node, the second are numbers that differ from place to place (`sum_of_parts`).
- What looks at all channels of a pixel at once (norms, reductions, attention, recurrences) reads nodes: constants beside
  elements of the image become fields (`Context.regular`). Pixels of which all channels are constant follow the rule.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UnsupportedModel
from .context import NAIVE, Context
from .index import all_elements
from .values import Value, constant_part, constants, mixed

aten = torch.ops.aten


def alone(c: Context, value: Value) -> Value:
    """The constant elements of a value, with zeros where its elements come from the image: what a sum of both needs."""
    if value.numbers is None or value.const is None:
        return constant_part(value)
    live = Value(None, value.ids > 0)
    return c.fold(aten.where.self, (live, Value(None, torch.zeros((), dtype=value.dtype)), constant_part(value)), {})


def sum_of_parts(c: Context, x: Value, ids: Tensor, product: Callable[[Value], Value], bias: Value | None = None) -> Value:
    """The value of a linear operation over `x`, of whose elements `ids` are those that read the image.

    Args:
        ids: element numbers of nodes that hold product(elements of the image) + bias; 0 where the result is constant.
        product: the operation over a value without elements of the image, without the bias.
        bias: known numbers that broadcast against the result.
    """
    if x.const is None and all_elements(ids):
        return Value(ids)
    known = product(alone(c, x))
    whole = known if bias is None else c.fold(aten.add.Tensor, (known, bias), {})
    assert known.const is not None
    if known.dynamic is None and not known.const.any():
        return mixed(ids, whole.const, whole.dynamic)
    return c.expression_value(("add", ("leaf", 0), ("leaf", 1)), [Value(ids), known], lambda: whole)


def known_tensor(c: Context, value: Value, what: str, does: str) -> Tensor:
    """The numbers of an operand that engines must know beforehand; `what` it is and what it `does`, for the message.

    Raises:
        UnsupportedModel: they depend on the image, or on the conditions of a call.
    """
    if value.numbers is not None or value.dynamic is not None:
        source = "the image" if value.numbers is not None else "conditions"
        raise UnsupportedModel(f"{c.at}: {what} that depends on {source} {does}, which is not supported; {NAIVE}")
    return constants(value).detach()
