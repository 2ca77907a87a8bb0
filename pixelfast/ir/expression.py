"""Expressions over aligned values: the operations of `pixelfast.ir.program.OPERATIONS`, on PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .program import Leaf, Op


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
    "atan": torch.atan,
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


def without_zeros(leaves: Sequence[Leaf], ops: Sequence[Op]) -> tuple[tuple[Leaf, ...], tuple[Op, ...]]:
    """An expression without sums of which one side is the number 0, and without leaves that nothing reads any more."""

    def is_zero(place: int) -> bool:
        return place < len(leaves) and isinstance(leaves[place], float) and leaves[place] == 0.0

    stands = list(range(len(leaves)))  # of each leaf and operation: the leaf or operation that has its value
    for index, op in enumerate(ops):
        args = [stands[arg] for arg in op.args]
        kept = [arg for arg in args if not is_zero(arg)] if op.name == "add" else args
        stands.append(kept[0] if len(kept) == 1 and op.name == "add" else args[0] if not kept else len(leaves) + index)
    used, pending = set(), [stands[-1]]
    while pending:
        place = pending.pop()
        if place not in used:
            used.add(place)
            pending += [stands[arg] for arg in ops[place - len(leaves)].args] if place >= len(leaves) else []
    number = {place: new for new, place in enumerate(sorted(used))}
    rebuilt = tuple(
        Op(ops[place - len(leaves)].name, tuple(number[stands[arg]] for arg in ops[place - len(leaves)].args))
        for place in sorted(used)
        if place >= len(leaves)
    )
    return tuple(leaves[place] for place in sorted(used) if place < len(leaves)), rebuilt
