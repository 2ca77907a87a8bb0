"""Programs of a few instructions, which an engine runs as it runs any other: they time one operation on the general path.

Each has an image of one channel. Its source buffer is filled once a row; the instructions in question run again and again,
once a pixel for all images (M = N rows of a product), or once a row for all columns and images (M = W N). Copies of an
instruction have weights of their own, so that weights are streamed as in a model. Letters: N images, F features, K inputs and O
outputs of a product, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pixelfast.engines.base import Request
from pixelfast.ir.program import Buffer, Draw, Instruction, Map, Norm, Op, Product, Program, Rect, Slot

HEIGHT, WIDTH = 8, 16
PADDING = 4
IMAGE = Rect(0, HEIGHT, 0, WIDTH)
OUT, SOURCE, RESULT = range(3)
"""Buffers: the parameters of the draw, what instructions read, and what they write."""

Make = Callable[[np.random.Generator], Instruction]


@dataclass(frozen=True)
class Tiny:
    """A program with what one run of it does.

    Attributes:
        operations: float32 operations of the instructions in question, for each image.
        bytes: that they read and write, weights left out, for each image.
        calls: how often they run for each image: once for every pixel, times the copies.
    """

    program: Program
    operations: float
    bytes: float
    calls: int

    def request(self, images: int, threads: int) -> Request:
        noise = np.random.default_rng(0).random((images, HEIGHT, WIDTH, 1), dtype=np.float32)
        return Request(noise, None, (), threads=threads)


def product(inputs: int, outputs: int, taps: int, per_row: bool, copies: int) -> Tiny:
    """out = bias + sum over taps of weights · source: K = taps x inputs numbers in, O = outputs numbers out."""

    def make(rng: np.random.Generator) -> Instruction:
        offsets = [(-1, i - taps // 2) for i in range(taps)] if per_row else [(0, i + 1 - taps) for i in range(taps)]
        slots = tuple(Slot(SOURCE, 0, inputs, row, max(-PADDING, min(PADDING, col))) for row, col in offsets)
        weights, bias = _normal(rng, taps * inputs, outputs) / 100, _normal(rng, outputs)
        return Instruction(Slot(RESULT, 0, outputs), Product(slots, weights, bias), IMAGE)

    size = 2.0 * taps * inputs * outputs, 4.0 * (taps * inputs + outputs)
    return _program(make, inputs, outputs, per_row, copies, *size)


def gate(features: int, copies: int) -> Tiny:
    """out = tanh(first half) . sigmoid(second half), F features each."""

    def make(rng: np.random.Generator) -> Instruction:
        halves = Slot(SOURCE, 0, features), Slot(SOURCE, features, features)
        ops = Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (2, 3))
        return Instruction(Slot(RESULT, 0, features), Map(halves, ops), IMAGE)

    return _program(make, 2 * features, features, False, copies, 0.0, 12.0 * features)


def norm(features: int, copies: int) -> Tiny:
    """Layer normalisation over F features."""

    def make(rng: np.random.Generator) -> Instruction:
        scale, shift = _normal(rng, features), _normal(rng, features)
        return Instruction(Slot(RESULT, 0, features), Norm(Slot(SOURCE, 0, features), scale, shift, 1e-5), IMAGE)

    return _program(make, features, features, False, copies, 0.0, 8.0 * features)


def draw(levels: int) -> Tiny:
    """A categorical draw from K logits, and nothing else."""
    buffers = (Buffer("out", levels, 1, (0, WIDTH), IMAGE),)
    fill = Instruction(Slot(OUT, 0, levels), Map((_normal(np.random.default_rng(0), levels),), ()), IMAGE)
    draws = (Draw(0, Slot(OUT, 0, levels)),)
    program = Program((1, HEIGHT, WIDTH), levels, levels, "categorical", buffers, (), (fill,), ((),), draws, ((),))
    return Tiny(program, 0.0, 4.0 * levels * HEIGHT * WIDTH, HEIGHT * WIDTH)


def _program(make: Make, inputs: int, outputs: int, per_row: bool, copies: int, operations: float, moved: float) -> Tiny:
    """`copies` of an instruction that reads SOURCE and writes RESULT; operations and bytes are those of one pixel."""
    rng = np.random.default_rng(0)
    columns = (-PADDING, WIDTH + PADDING)
    buffers = (
        Buffer("out", 1, 1, (0, WIDTH), IMAGE),
        Buffer("source", inputs, 3, columns, IMAGE),
        Buffer("result", outputs, 1, (0, WIDTH), IMAGE),
    )
    fills: tuple[Instruction, ...] = (
        Instruction(Slot(SOURCE, 0, inputs), Map((_normal(rng, inputs),), ()), IMAGE),
        Instruction(Slot(OUT, 0, 1), Map((0.0,), ()), IMAGE),
    )
    timed = tuple(make(rng) for _ in range(copies))
    program = Program(
        shape=(1, HEIGHT, WIDTH),
        levels=2,
        parameters=1,
        head="bernoulli_logit",
        buffers=buffers,
        fields=(),
        row=fills + (timed if per_row else ()),
        steps=(() if per_row else timed,),
        draws=(Draw(0, Slot(OUT, 0, 1)),),
        encodes=((),),
    )
    calls = HEIGHT * WIDTH * copies
    return Tiny(program, operations * calls, moved * calls, calls)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)
