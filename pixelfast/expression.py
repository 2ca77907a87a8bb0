"""Expressions over aligned values: the operations of `pixelfast.program.OPERATIONS`, on PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .program import Op


def _compare(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: function(a, b).to(a.dtype)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": torch.floor,
    "trunc": torch.trunc,
    "relu": torch.relu,
    "logical_not": lambda a: (a == 0).to(a.dtype),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "eq": _compare(torch.eq),
    "ne": _compare(torch.ne),
    "lt": _compare(torch.lt),
    "le": _compare(torch.le),
    "gt": _compare(torch.gt),
    "ge": _compare(torch.ge),
    "where": lambda condition, a, b: torch.where(condition != 0, a, b),
}


def evaluate(ops: Sequence[Op], leaves: Sequence[Tensor]) -> Tensor:
    """The value of the last operation, or of the only leaf; leaves broadcast against each other."""
    values = list(leaves)
    for op in ops:
        values.append(FUNCTIONS[op.name](*(values[i] for i in op.args)))
    return values[-1]
