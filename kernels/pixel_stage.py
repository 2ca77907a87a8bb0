"""A stage of one pixel for all images: a `Product` and the `Map`s and `Norm`s that go on with its result, in one launch.

    y[f, i] = (bias[f], or what out holds) + sum over k of weights[k, f] * x[i, k]
    z[f, i] = expression or layer norm of y, of earlier z and of operands from memory

Between two launches all programs wait for each other, which costs more than the arithmetic of a pixel: what needs no other
program's result stays in registers. A program holds the same features of up to two parts of the product, so that a gate,
tanh(y_0) * sigmoid(y_1), needs nobody else; a norm needs all features in one program.

Features lie along the first axis of a tile and items along the second: tensor cores take 16 or 64 rows at a time, but as few
as 8 columns, and of images there may be only one. Weights are packed as in `row_products.py`, the parts side by side.
The source of a kernel is written for each distinct ending, as in `pointwise.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .bodies import alone, named
from .expressions import compiled, lines, number
from .launch import Launch, power_of_two
from .norm import normalised
from .row_products import gathered


@dataclass(frozen=True)
class MapStep:
    """An expression: a leaf is the name of an earlier value, a literal, or an operand and whether it is broadcast."""

    leaves: tuple[str | bool | float, ...]
    ops: tuple[Any, ...]


@dataclass(frozen=True)
class NormStep:
    """Layer norm of an earlier value; its operands are scale and shift."""

    source: str
    eps: float


Step = MapStep | NormStep


@dataclass(frozen=True)
class Ending:
    """What follows the product: y0, y1 are its parts, z0, z1, ... the results of the steps; some of them are stored."""

    parts: int
    add: bool
    steps: tuple[Step, ...]
    stored: tuple[str, ...]


TEMPLATE = """
def {name}(
    arena, weights, operands, col, image, live, block, features, chunks,
    PITCH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr, ALIGN: tl.constexpr,
    TAPS: tl.constexpr,
):
    f = block * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    there = (f < features)[:, None]
    mask = there & live[None, :]
    {start}
    tile = weights + k[None, :].to(tl.int64) * PITCH + f[:, None]
    for chunk in range(chunks):
        x = tl.trans(gathered(arena, operands + (chunk + {tail}) * WORDS, col, image, live, BLOCK_K, TAPS))
        {multiply}
        tile += BLOCK_K * PITCH
    {steps}
"""


def source(ending: Ending) -> tuple[str, str, int]:
    """The body of an ending, its name, and how many operands come before those of the chunks.

    They are: outputs of the parts, their biases, and for each step its operands and, if it is stored, its output.
    """
    parts, start, multiply, stores = ending.parts, [], [], []
    for part in range(parts):
        if ending.add or f"y{part}" in ending.stored:
            start.append(f"out{part} = arena + addresses(operands + {part} * WORDS, col, image, ALIGN)[None, :] + f[:, None]")
        if ending.add:
            start.append(f"y{part} = tl.load(out{part}, mask=mask, other=0.0)")
        else:
            bias = f"tl.load(operands + {parts + part} * WORDS)"
            start.append(f"b{part} = tl.load(arena + {bias} + f, mask=f < features, other=0.0)")
            start.append(f"y{part} = tl.zeros([BLOCK_F, BLOCK_I], tl.float32) + b{part}[:, None]")
        multiply.append(f"w{part} = tl.load(tile + {part} * (PITCH // {parts}))" if part else "w0 = tl.load(tile)")
        multiply.append(f'y{part} = tl.dot(w{part}, x.to(w{part}.dtype), y{part}, input_precision="ieee")')
        if f"y{part}" in ending.stored:
            stores.append(f"tl.store(out{part}, y{part}, mask=mask)")
    place, body = 2 * parts, []
    for index, step in enumerate(ending.steps):
        more, place = _step(step, f"z{index}", place)
        body += more
        if f"z{index}" in ending.stored:
            body.append(f"p{place} = addresses(operands + {place} * WORDS, col, image, ALIGN)[None, :] + f[:, None]")
            stores.append(f"tl.store(arena + p{place}, z{index}, mask=mask)")
            place += 1
    text, name = named(
        TEMPLATE, "pixel_stage", start="\n    ".join(start), tail=str(place), multiply="\n        ".join(multiply),
        steps="\n    ".join(body + stores),
    )  # fmt: skip
    return text, name, place


def _step(step: Step, result: str, place: int) -> tuple[list[str], int]:
    """The lines of a step whose first operand is number `place`, and the next free number."""
    if isinstance(step, NormStep):
        found = []
        for name in ("scale", "shift"):
            address = f"tl.load(operands + {place} * WORDS)"
            found.append(f"{name}{place} = tl.load(arena + {address} + f, mask=f < features, other=0.0)[:, None]")
            place += 1
        normal = f"normalised({step.source}, there, features, {step.eps!r}, 0)"
        return [*found, f"{result} = {normal} * scale{place - 2} + shift{place - 1}"], place
    found, names = [], []
    for leaf in step.leaves:
        if isinstance(leaf, str):
            names.append(leaf)
        elif isinstance(leaf, bool):
            found.append(f"p{place} = addresses(operands + {place} * WORDS, col, image, ALIGN)[None, :]")
            more, allowed = ("", "live[None, :]") if leaf else (" + f[:, None]", "mask")
            found.append(f"x{place} = tl.load(arena + p{place}{more}, mask={allowed}, other=0.0)")
            names.append(f"x{place}")
            place += 1
        else:
            names.append(number(leaf))
    made = lines(step.ops, names, f"{result}_")
    last = made[-1].split(" = ")[0] if made else names[-1]
    return [*found, *made, f"{result} = {last} + tl.zeros([BLOCK_F, BLOCK_I], tl.float32)"], place


def pixel_stage(
    arena: torch.Tensor, weights: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, ending: Ending,
    *, images: int, features: int, block: int, chunk: int, align: int, taps: int, own: int = 0,
) -> Launch:  # fmt: skip
    """`features` of each part, `block` of which a program computes; weights (rows, parts x width).

    `taps` and `align`: what the addresses of the taps, and of all other operands, are multiples of.
    """
    text, name, tail = source(ending)
    body = compiled(text, name, (gathered, normalised))
    block_i = own or (8 if images <= 8 else 16 if images <= 256 else 32)
    return Launch(
        kernel=alone(body, "pixel_stage"),
        grid=(-(-images // block_i), -(-features // block)),
        arguments={
            "arena": arena, "weights": weights, "operands": operands, "position": position, "columns": 1, "images": images,
            "features": features, "chunks": operands.shape[0] - tail,
        },
        constants={
            "PITCH": weights.shape[1], "BLOCK_I": block_i, "BLOCK_F": block, "BLOCK_K": chunk, "ALIGN": align, "TAPS": taps,
        },
        warps=8 if block * chunk >= 32 * 64 else 4,
        body=body,
    )  # fmt: skip


def feature_block(features: int, steps: Sequence[Step], own: int = 0) -> int:
    """How many features a program computes: all of them for a norm, otherwise few, so that many programs read the weights.

    A persistent kernel's program computes all of them anyway, in as few blocks as its registers allow.
    """
    whole = max(16, power_of_two(features))
    return whole if any(isinstance(step, NormStep) for step in steps) else min(whole, 128 if own else 32)
