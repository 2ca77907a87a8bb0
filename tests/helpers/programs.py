"""Small programs made by hand, to compare engines instruction by instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from pixelfast.distributions.components import MixtureHead
from pixelfast.engines.base import Request
from pixelfast.ir.program import (
    Buffer,
    Draw,
    Encode,
    Field,
    FieldSlot,
    Instruction,
    Lattice,
    Lookup,
    Map,
    Norm,
    Op,
    Pixel,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)

Generator = np.random.Generator


def normal(rng: Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def with_body(instruction: Instruction, **change: object) -> Instruction:
    """The instruction with another body: some fields changed."""
    return replace(instruction, body=replace(instruction.body, **change))  # type: ignore[type-var]


def request(
    program: Program,
    rng: Generator,
    images: int,
    *,
    known: float | np.ndarray = 0.0,
    fields: Sequence[np.ndarray] = (),
    **options,
) -> Request:
    """Random noise, and given values: a fraction of the rows of all images, or a mask (N, H, W, C)."""
    channels, height, width = program.shape
    shape = (images, height, width, channels)
    noise = rng.random(shape, dtype=np.float32)
    values = rng.integers(program.levels, size=shape).astype(np.int32)
    mask = known if isinstance(known, np.ndarray) else np.broadcast_to(rng.random((height, 1, 1)) < known, shape)
    options.setdefault("want_log_prob", True)
    options.setdefault("want_parameters", True)
    given = np.where(mask, values, -1).astype(np.int32) if np.any(mask) else None
    return Request(noise, given, tuple(fields), **options)


def probe(
    inputs: Sequence[np.ndarray], instructions: Sequence[Instruction], outputs: int, *, padding: int = 2
) -> tuple[Program, tuple[np.ndarray, ...]]:
    """A program of one channel whose parameters are buffer 0 after `instructions`, and the fields to run it with.

    Input i, (N, H, W, features), comes as field i and is copied into buffer i + 1, with `padding` columns of zeros.
    """
    height, width = inputs[0].shape[1:3]
    image = Rect(0, height, 0, width)
    columns = (-padding, width + padding)
    buffers = [Buffer("out", outputs, 1, (0, width), image)]
    fields, copies = [], []
    for i, array in enumerate(inputs):
        features = array.shape[3]
        buffers.append(Buffer(f"in{i}", features, 3, columns, image))
        fields.append(Field(features, 0, 0, height, width, None))
        copies.append(Instruction(Slot(i + 1, 0, features), Map((FieldSlot(i, 0, features),), ()), image))
    program = Program(
        shape=(1, height, width),
        levels=outputs,
        parameters=outputs,
        head="categorical",
        buffers=tuple(buffers),
        fields=tuple(fields),
        row=(),
        steps=((*copies, *instructions),),
        draws=(Draw(0, Slot(0, 0, outputs)),),
        encodes=((),),
    )
    return program, tuple(np.ascontiguousarray(array, np.float32) for array in inputs)


@dataclass
class Builder:
    """Makes a random program of two layers, like a masked convolutional network with a row phase.

    Layer 0 of step k sees encoded pixels; layer 1 sees layer 0 of all steps, at the pixel before and above, and of steps
    0 .. k at its own. Both reach beyond the image, and steps share the buffers of layer 1.
    """

    rng: Generator
    shape: tuple[int, int, int] = (2, 7, 5)
    levels: int = 6
    features: int = 17
    head: str = "categorical"
    mixture: MixtureHead | None = None
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[list[Instruction]] = field(default_factory=list)

    def build(self) -> Program:
        channels, height, width = self.shape
        self.image = Rect(0, height, 0, width)
        self.around = Rect(-1, height, -2, width + 1)
        self.parameters = self.levels if self.head == "categorical" else self.mixture.parameters if self.mixture else 1
        self.x = self.buffer("x", channels, 3, self.image)
        self.above = self.buffer("above", self.features, 1, self.around)
        self.first = self.buffer("first", self.features * channels, 2, self.around)
        self.second = self.buffer("second", 3 * self.features, 2, self.around)
        self.out = self.buffer("out", self.parameters, 1, self.image)
        return Program(
            shape=self.shape,
            levels=self.levels,
            parameters=self.parameters,
            head=self.head,
            row=(self.row_product(),),
            steps=tuple(tuple(self.step(k)) for k in range(channels)),
            buffers=tuple(self.buffers),
            fields=self.fields(),
            draws=tuple(Draw(k, Slot(self.out, 0, self.parameters)) for k in range(channels)),
            encodes=tuple((self.encode(k),) for k in range(channels)),
            mixture=self.mixture.mixture if self.mixture else None,
        )

    def buffer(self, name: str, features: int, rows: int, domain: Rect) -> int:
        columns = (domain.col0 - 4, domain.col1 + 4)
        self.buffers.append(Buffer(name, features, rows, columns, domain))
        return len(self.buffers) - 1

    def fields(self) -> tuple[Field, ...]:
        _, height, width = self.shape
        around = self.around
        static = normal(self.rng, 1, height + 1, width + 3, self.features)
        return (
            Field(self.features, 0, 0, 1, 1, None),
            Field(self.features, around.row0, around.col0, height + 1, width + 3, static),
            Field(1, around.row0, around.col0, height + 1, 1, None),
        )

    def field_values(self, images: int) -> tuple[np.ndarray, ...]:
        height, width = self.shape[1:]
        static = normal(np.random.default_rng(5), 1, height + 1, width + 3, self.features)
        return (
            normal(self.rng, images, 1, 1, self.features),
            static,
            normal(self.rng, images, height + 1, 1, 1),
        )

    def encode(self, channel: int) -> Encode:
        return Encode(Slot(self.x, channel, 1), channel, normal(self.rng, 1, self.levels))

    def product(self, out: Slot, taps: Sequence[Slot], rect: Rect, *, bias: bool = True) -> Instruction:
        rows = sum(tap.count for tap in taps)
        weights = normal(self.rng, rows, out.count, scale=rows**-0.5)
        return Instruction(out, Product(tuple(taps), weights, normal(self.rng, out.count) if bias else None), rect)

    def row_product(self) -> Instruction:
        channels = self.shape[0]
        taps = [Slot(self.x, 0, channels, row, col) for row in (-2, -1) for col in (-2, -1, 0, 1, 2)]
        return self.product(Slot(self.above, 0, self.features), taps, self.around)

    def step(self, k: int) -> list[Instruction]:
        f, rng = self.features, self.rng
        channels = self.shape[0]
        hidden, middle = Slot(self.first, k * f, f), Slot(self.second, 0, f)
        gate, scratch = Slot(self.second, f, f), Slot(self.second, 2 * f, f)
        left = [Slot(self.x, 0, channels, 0, -1), Slot(self.x, 0, 1, 0, -2)] + ([Slot(self.x, 0, k)] if k else [])
        lower = [Slot(self.first, j * f, f, *at) for j in range(channels) for at in ((0, -1), (-1, 1))]
        lower += [Slot(self.first, j * f, f) for j in range(k + 1)]
        tables = normal(rng, 3, self.levels, f)
        seen = (Pixel(-1, 1, channels - 1), Pixel(0, -1, 0), Pixel(-2, 0, 0) if k == 0 else Pixel(0, 0, k - 1))
        return [
            Instruction(hidden, Map((Slot(self.above, 0, f), FieldSlot(0, 0, f)), (Op("add", (0, 1)),)), self.around),
            self.product(hidden, left, self.around, bias=False),
            Instruction(hidden, Lookup(seen, tables), self.around),
            Instruction(hidden, Map((hidden, FieldSlot(1, 0, f), 0.5), (Op("add", (0, 1)), Op("tanh", (3,)))), self.around),
            self.product(middle, lower, self.around),
            self.product(gate, lower[:3], self.around),
            Instruction(
                gate,
                Map(
                    (middle, gate, FieldSlot(2, 0, 1)),
                    (Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (3, 4)), Op("mul", (5, 2)), Op("add", (6, 0))),
                ),
                self.around,
            ),
            Instruction(Slot(self.second, 2 * f, 1), Reduce("var", (middle, gate), 1.0), self.around),
            Instruction(gate, Map((gate, Slot(self.second, 2 * f, 1)), (Op("div", (0, 1)),)), self.around),
            Instruction(scratch, Norm(gate, normal(rng, f), normal(rng, f), 1e-5), self.around),
            self.product(Slot(self.out, 0, self.parameters), [scratch, hidden], self.image),
            *self.to_probability(),
        ]

    def to_probability(self) -> list[Instruction]:
        if self.head != "bernoulli_probability":
            return []
        out = Slot(self.out, 0, 1)
        return [Instruction(out, Map((out,), (Op("sigmoid", (0,)),)), self.image)]


def by_phases(program: Program, row_step: int, col_step: int) -> Program:
    """The same program with every instruction cut into one for each phase of rows and columns, which together do the same."""

    def cut(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
        lattices = [Lattice(row_step, row, col_step, col) for row, col in product(range(row_step), range(col_step))]
        return tuple(replace(instruction, lattice=lattice) for instruction in instructions for lattice in lattices)

    return replace(program, row=cut(program.row), steps=tuple(map(cut, program.steps)))


def recurrent(rng: Generator, height: int, width: int) -> Program:
    """A state that goes from column to column: known rows have no order but that of the columns."""
    image, around, levels = Rect(0, height, 0, width), Rect(-1, height, 0, width), 5
    buffers = (Buffer("x", 1, 2, (-1, width), image), Buffer("state", 9, 2, (-1, width), around))
    buffers += (Buffer("next", 9, 1, (0, width), around), Buffer("out", levels, 1, (0, width), image))
    before = (Slot(1, 0, 9, 0, -1), Slot(0, 0, 1, 0, -1), Slot(1, 0, 9, -1, 0))
    step = (
        # Small enough that rounding does not grow from column to column.
        Instruction(Slot(2, 0, 9), Product(before, normal(rng, 19, 9, scale=19**-0.5), normal(rng, 9)), around),
        Instruction(Slot(1, 0, 9), Map((Slot(2, 0, 9),), (Op("tanh", (0,)),)), around),
        Instruction(Slot(3, 0, levels), Product((Slot(1, 0, 9),), normal(rng, 9, levels), normal(rng, levels)), image),
    )
    encodes = ((Encode(Slot(0, 0, 1), 0, normal(rng, 1, levels)),),)
    draws = (Draw(0, Slot(3, 0, levels)),)
    return Program((1, height, width), levels, levels, "categorical", buffers, (), (), (step,), draws, encodes)


UPDATE = (Op("mul", (0, 1)), Op("add", (0, 2)), Op("tanh", (3,)))
LAST = (Op("add", (0, 1)), Op("sub", (3, 2)))


def swept(rng: Generator, height: int, width: int, sweep: int, images: int = 3) -> tuple[Program, Request]:
    """Every kind of instruction in a sweep from one side, and another sweep behind it; a request to run it with.

    A state of 9 numbers goes from column to column of the row above the running one; pixels see it on both sides.
    """
    image, below, levels = Rect(0, height, 0, width), Rect(1, height, 0, width), 5
    columns = (-2, width + 2)
    buffers = (
        Buffer("x", 1, 2, columns, image), Buffer("sums", 9, 1, (0, width), below), Buffer("state", 9, 2, columns, below),
        Buffer("normed", 9, 1, columns, below), Buffer("total", 2, 1, columns, below), Buffer("again", 9, 1, columns, below),
        Buffer("out", levels, 1, (0, width), image),
    )  # fmt: skip
    x, sums, state, normed, total, again, out = (Slot(i, 0, buffer.features) for i, buffer in enumerate(buffers))
    beside, far = -sweep, -2 * sweep

    def at(slot: Slot, row: int, col: int) -> Slot:
        return Slot(slot.buffer, slot.channel, slot.count, row, col)

    def product(out: Slot, taps: Sequence[Slot], rect: Rect, bias: bool, sweep: int = 0) -> Instruction:
        rows = sum(tap.count for tap in taps)
        weights = normal(rng, rows, out.count, scale=rows**-0.5)
        return Instruction(out, Product(tuple(taps), weights, normal(rng, out.count) if bias else None), rect, sweep=sweep)

    row = (
        product(sums, [at(x, -1, col) for col in (-1, 0, 1)] + [at(state, -1, sweep)], below, True),
        product(sums, [at(state, 0, beside), at(normed, 0, far), at(total, 0, beside)], below, False, sweep),
        Instruction(sums, Lookup((Pixel(-1, 1, 0), Pixel(-1, -2, 0)), normal(rng, 2, levels, 9)), below, sweep=sweep),
        # Its own output in the column before, and below, in place.
        Instruction(state, Map((sums, at(state, 0, beside)), UPDATE), below, sweep=sweep),
        Instruction(normed, Norm(state, normal(rng, 9), normal(rng, 9), 1e-5), below, sweep=sweep),
        Instruction(normed, Map((normed,), (Op("relu", (0,)),)), below, sweep=sweep),
        Instruction(Slot(4, 0, 1), Reduce("mean", (state, at(normed, 0, beside)), 0.0), below, sweep=sweep),
        Instruction(Slot(4, 1, 1), Reduce("amax", (sums, at(state, 0, far)), 0.0), below, sweep=sweep),
        # A sweep of its own, which reads all of what the first one wrote.
        Instruction(again, Map((at(state, 0, -1), at(normed, 0, 1), at(again, 0, -beside)), LAST), below, sweep=-sweep),
    )  # fmt: skip
    seen = [at(x, 0, -1), state, at(state, 0, 1), normed, at(normed, 0, -1), total, again, at(again, 0, 2)]
    program = Program(
        (1, height, width), levels, levels, "categorical", buffers, (), row, ((product(out, seen, image, True),),),
        (Draw(0, out),), ((Encode(Slot(0, 0, 1), 0, normal(rng, 1, levels)),),),
    )  # fmt: skip
    return program, request(program, rng, images)


def wide_rows(rng: np.random.Generator, features: int = 50) -> Program:
    """Two products over whole rows, the second of them wide enough to be computed with fewer multiplications."""
    image, around, columns = Rect(0, 6, 0, 11), Rect(-1, 6, -3, 14), (-7, 18)
    buffers = (Buffer("x", 1, 2, columns, image), Buffer("a", features, 3, columns, around))
    buffers += (Buffer("b", features, 1, columns, around), Buffer("out", 5, 1, columns, image))
    taps = tuple(Slot(1, 0, features, row, col) for row in (-2, -1, 0) for col in range(-3, 4))
    above = tuple(Slot(0, 0, 1, -1, col) for col in range(-2, 3))
    row = (
        Instruction(Slot(1, 0, features), Product(above, normal(rng, 5, features), normal(rng, features)), around),
        Instruction(
            Slot(2, 0, features), Product(taps, normal(rng, 21 * features, features, scale=0.03), normal(rng, features)), around
        ),
    )
    seen = (Slot(2, 0, features), Slot(0, 0, 1, 0, -1))
    step = (Instruction(Slot(3, 0, 5), Product(seen, normal(rng, features + 1, 5, scale=0.1), normal(rng, 5)), image),)
    encodes = ((Encode(Slot(0, 0, 1), 0, normal(rng, 1, 5)),),)
    return Program((1, 6, 11), 5, 5, "categorical", buffers, (), row, (step,), (Draw(0, Slot(3, 0, 5)),), encodes)
