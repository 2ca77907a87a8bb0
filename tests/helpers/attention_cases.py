"""Programs of one attention: queries, keys and values come as fields, whatever else differs is a case's."""

from __future__ import annotations

import dataclasses

import numpy as np
from native import HEIGHT, IMAGE, WIDTH
from programs import normal

from pixelfast.ir.program import (
    Attention,
    Buffer,
    Cache,
    Draw,
    Field,
    FieldSlot,
    Instruction,
    Map,
    PixelRuns,
    Program,
    Rect,
    Slot,
)

PIXELS = HEIGHT * WIDTH


@dataclasses.dataclass(frozen=True)
class Case:
    """What an attention is like: channels, whose mask and bias, where keys stand, and when all of it runs."""

    heads: int = 3
    size: int = 5
    value: int = 7
    masks: int = 1
    biases: int = 0
    shift: tuple[int, int] = (0, 0)
    phase: str = "pixel"
    prefix: bool = False
    rect: Rect = IMAGE

    def seen(self, rng: np.random.Generator) -> np.ndarray:
        """bool (masks * elements, pixels): any of what stands there in time, nothing for some."""
        rect = self.rect
        rows, cols = np.mgrid[rect.row0 : rect.row1, rect.col0 : rect.col1].reshape(2, -1, 1)
        pixel = np.arange(PIXELS)
        row, col = pixel // WIDTH + self.shift[0], pixel % WIDTH + self.shift[1]
        there = (row < rows) | ((row == rows) & (col <= cols if self.phase == "pixel" else True))
        there = np.tile(there, (self.masks, 1))
        if self.prefix:
            return there & (pixel < pixel[: len(rows)].repeat(self.masks).reshape(-1, self.masks).T.reshape(-1, 1))
        return there & (rng.random(there.shape) < 0.6) & (rng.random((len(there), 1)) < 0.9)


def program_of(case: Case, rng: np.random.Generator) -> Program:
    """Queries and keys with values come as fields; the attention is what the values are drawn from."""
    height, width = HEIGHT, WIDTH
    stand = IMAGE.shifted(*case.shift)
    asked, kept, made = case.heads * case.size, case.heads * (case.size + case.value), case.heads * case.value
    buffers = (
        Buffer("out", made, 1, (0, width), IMAGE),
        Buffer("query", asked + 2, 1, (0, width), IMAGE),
        Buffer("cache", kept + 3, height - min(stand.row0, 0), (stand.col0 - 1, stand.col1 + 1), stand),
    )
    fields = (
        Field(asked + 2, 0, 0, height, width, None),
        Field(kept + 3, stand.row0, stand.col0, height, width, None),
    )
    seen = PixelRuns.of(case.seen(rng))
    bias = normal(rng, case.biases, int(seen.counts().sum())) if case.biases else None
    keys = Cache(2, 1, asked, *case.shift)
    values = Cache(2, 2 + asked, made, *case.shift)
    zeros = Instruction(Slot(0, 0, made), Map((0.25,), ()), IMAGE)
    body = Attention(Slot(1, 2, asked), keys, values, case.heads, case.masks, 0.7, seen, bias)
    attention = Instruction(Slot(0, 0, made), body, case.rect, "attention")
    copies = (Instruction(Slot(1, 0, asked + 2), Map((FieldSlot(0, 0, asked + 2),), ()), IMAGE),
              Instruction(Slot(2, 0, kept + 3), Map((FieldSlot(1, 0, kept + 3),), ()), stand))  # fmt: skip
    listed = (*copies, zeros, attention)
    row, step = (listed, ()) if case.phase == "row" else ((), listed)
    return Program(
        (1, height, width), made, made, "categorical", buffers, fields, row, (step,), (Draw(0, Slot(0, 0, made)),), ((),)
    )


CASES = {
    "some of the pixels before": Case(),
    "everything before": Case(prefix=True),
    "wide": Case(heads=2, size=17, value=70, prefix=True),
    "whole vectors": Case(heads=1, size=32, value=64),
    "one channel": Case(heads=2, size=1, value=1),
    "a mask for each head": Case(masks=3),
    "a mask and a bias for each head": Case(masks=3, biases=1),
    "a bias": Case(biases=1),
    "a bias for each head": Case(biases=3),
    "keys a pixel late": Case(shift=(0, 1)),
    "keys a row late": Case(shift=(1, 0)),
    "keys a row early": Case(shift=(-1, 2)),
    "once per row": Case(phase="row", biases=3),
    "a part of the image": Case(rect=Rect(1, 6, 2, 5), masks=3),
}


def fields_of(program: Program, rng: np.random.Generator, images: int) -> tuple[np.ndarray, ...]:
    return tuple(normal(rng, images, f.rows, f.cols, f.features, scale=2.0) for f in program.fields)
