"""The `Map` instruction: out[i, f] = expression of leaf_0[i, f], leaf_1[i, f], ... for items i and features f.

Each distinct expression, that is operations, literals and which leaves are broadcast, is a kernel of its own, written as
Triton source: a loop over a table of operations would branch for every one of them. Where the numbers come from is data
(`operand.py`), so a network of many equal layers has few kernels. An output may be a leaf as well: an element is read before
it is written, by the program that writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .bodies import alone, named
from .expressions import compiled, lines, number
from .launch import Launch, power_of_two

TEMPLATE = """
def {name}(arena, operands, col, image, live, block, features, BLOCK_F: tl.constexpr, ALIGN: tl.constexpr):
    f = block * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    {body}
    out = addresses(operands, col, image, ALIGN)
    tl.store(arena + out[:, None] + f[None, :], {result}, mask=mask)
"""


def source(leaves: Sequence[bool | float], ops: Sequence[Any]) -> tuple[str, str]:
    """The body of an expression and its name: a leaf is a literal number, or an operand and whether it is broadcast."""
    body, names, operands = [], [], 1
    for leaf in leaves:
        if not isinstance(leaf, bool):
            names.append(number(leaf))
            continue
        names.append(f"x{operands}")
        body.append(f"p{operands} = addresses(operands + {operands} * WORDS, col, image, ALIGN)[:, None]")
        if leaf:
            body.append(f"x{operands} = tl.load(arena + p{operands}, mask=live[:, None], other=0.0)")
        else:
            body.append(f"x{operands} = tl.load(arena + p{operands} + f[None, :], mask=mask, other=0.0)")
        operands += 1
    steps = lines(ops, names)
    result = steps[-1].split(" = ")[0] if steps else names[-1]
    return named(TEMPLATE, "pointwise", body="\n    ".join(body + steps), result=result)


def pointwise(
    arena: torch.Tensor,
    operands: torch.Tensor,
    position: torch.Tensor,
    leaves: Sequence[bool | float],
    ops: Sequence[Any],
    *,
    columns: int,
    images: int,
    features: int,
    align: int,
    own: int = 0,
) -> Launch:
    """A launch: `operands` are those of the output, and of the leaves that are not literals, in their order."""
    items, width = columns * (own or images), min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // width))
    body = compiled(*source(leaves, ops))
    return Launch(
        kernel=alone(body, "pointwise"),
        grid=(-(-columns * images // block), -(-features // width)),
        arguments={
            "arena": arena, "operands": operands, "position": position, "columns": columns, "images": images,
            "features": features,
        },
        constants={"BLOCK_I": block, "BLOCK_F": width, "ALIGN": align},
        body=body,
    )
