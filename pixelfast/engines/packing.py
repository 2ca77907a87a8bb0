"""A `Program` as two flat arrays, which the native engines parse: int64 words and float32 numbers.

Instructions, operations, reductions and heads are numbered by their position in ``pixelfast.ir.program``; an array is
written as (offset, count) into the floats. csrc/program.cpp reads the same order and refuses what does not fit.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from ..distributions.mixture import PARAMETER_LAYOUTS
from ..ir.program import (
    BODIES,
    HEADS,
    OPERATIONS,
    REDUCTIONS,
    Attention,
    Body,
    Cache,
    Encode,
    FieldSlot,
    Instruction,
    Lattice,
    Leaf,
    Lookup,
    Map,
    Norm,
    Pixel,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
    unknown_body,
)
from ..lowering.given_rows import known_order
from ..lowering.wavefront import wavefront

MAGIC = int.from_bytes(b"PIXFAST1", "big")
VERSION = 3
INSTRUCTIONS: tuple[str, ...] = tuple(kind.__name__ for kind in BODIES)


def pack(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """The words (int64) and floats (float32) of a program. Fields' values are not among them: a call brings them."""
    packer = _Packer()
    packer.program(program)
    return packer.arrays()


class _Packer:
    def __init__(self) -> None:
        self.words: list[int] = []
        self.floats: list[np.ndarray] = []
        self.size = 0
        self.offsets: dict[int, int] = {}  # of arrays that are written already, by id

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        floats = np.concatenate(self.floats) if self.floats else np.zeros(0, np.float32)
        return np.array(self.words, np.int64), floats

    def put(self, *words: int) -> None:
        self.words.extend(int(word) for word in words)

    def array(self, array: np.ndarray) -> None:
        if id(array) not in self.offsets:
            self.offsets[id(array)] = self.size
            self.numbers(array)
        self.put(self.offsets[id(array)], array.size)

    def number(self, number: float) -> None:
        self.put(self.size, 1)
        self.numbers(np.array([number]))

    def numbers(self, array: np.ndarray) -> None:
        self.floats.append(np.asarray(array, np.float32).ravel())
        self.size += array.size

    def program(self, program: Program) -> None:
        channels, height, width = program.shape
        self.put(MAGIC, VERSION, channels, height, width, program.levels, program.parameters)
        self.put(HEADS.index(program.head))
        if program.mixture is not None:
            self.put(program.mixture.components, PARAMETER_LAYOUTS.index(program.mixture.parameter_layout))
            self.number(program.mixture.log_scale_min)
        self.put(len(program.buffers))
        for buffer in program.buffers:
            self.put(buffer.features, buffer.rows, *buffer.columns)
            self.rect(buffer.domain)
        self.put(len(program.fields))
        for field in program.fields:
            self.put(field.features, field.row0, field.col0, field.rows, field.cols)
        for instructions in (program.row, *program.steps):
            self.instructions(instructions)
        for draw in program.draws:
            self.put(draw.channel)
            self.slot(draw.source)
        for encodes in program.encodes:
            self.put(len(encodes))
            for encode in encodes:
                self.encode(encode)
        self.known_rows(program)
        self.wavefront(program)

    def known_rows(self, program: Program) -> None:
        """Positions among all steps' instructions, each step's followed by its draw; none: column by column."""
        first = [0, *accumulate(len(step) + 1 for step in program.steps)]
        order = known_order(program) or ()
        self.put(len(order), *(first[step] + index for step, index in order))

    def wavefront(self, program: Program) -> None:
        front = wavefront(program)
        self.put(len(front.leads), *front.leads, len(front.reaches))
        for reach in front.reaches:
            self.put(reach.above, reach.pixels, reach.chunks, reach.rows)

    def rect(self, rect: Rect) -> None:
        self.put(rect.row0, rect.row1, rect.col0, rect.col1)

    def lattice(self, lattice: Lattice) -> None:
        self.put(lattice.row_step, lattice.row_phase, lattice.col_step, lattice.col_phase)

    def slot(self, slot: Slot) -> None:
        self.put(slot.buffer, slot.channel, slot.count, slot.row, slot.col)

    def slots(self, slots: tuple[Slot, ...]) -> None:
        self.put(len(slots))
        for slot in slots:
            self.slot(slot)

    def encode(self, encode: Encode) -> None:
        self.slot(encode.out)
        self.put(encode.channel)
        self.array(encode.table)

    def instructions(self, instructions: tuple[Instruction, ...]) -> None:
        self.put(len(instructions))
        for instruction in instructions:
            if type(instruction.body) not in BODIES:
                raise unknown_body(instruction.body, "the stream of the native engines")
            self.put(BODIES.index(type(instruction.body)))
            self.rect(instruction.rect)
            self.lattice(instruction.lattice)
            self.slot(instruction.out)
            self.put(instruction.sweep)
            self.body(instruction.body)

    def body(self, body: Body) -> None:
        match body:
            case Product():
                self.product(body)
            case Lookup():
                self.lookup(body)
            case Map():
                self.map(body)
            case Reduce():
                self.put(REDUCTIONS.index(body.kind))
                self.slots(body.sources)
                self.number(body.correction)
            case Norm():
                self.norm(body)
            case Attention():
                self.attention(body)
            case _:
                raise unknown_body(body, "the stream of the native engines")

    def product(self, product: Product) -> None:
        self.slots(product.taps)
        self.array(product.weights)
        self.put(product.bias is not None)
        if product.bias is not None:
            self.array(product.bias)

    def lookup(self, lookup: Lookup) -> None:
        self.put(len(lookup.taps))
        for tap in lookup.taps:
            self.pixel(tap)
        self.array(lookup.tables)

    def pixel(self, pixel: Pixel) -> None:
        self.put(pixel.row, pixel.col, pixel.channel)

    def map(self, map: Map) -> None:
        self.put(len(map.leaves))
        for leaf in map.leaves:
            self.leaf(leaf)
        self.put(len(map.ops))
        for op in map.ops:
            self.put(OPERATIONS.index(op.name), *op.args)

    def leaf(self, leaf: Leaf) -> None:
        if isinstance(leaf, Slot):
            self.put(0)
            self.slot(leaf)
        elif isinstance(leaf, FieldSlot):
            self.put(1, leaf.field, leaf.channel, leaf.count)
        elif isinstance(leaf, np.ndarray):
            self.put(2)
            self.array(leaf)
        else:
            self.put(3)
            self.number(leaf)

    def attention(self, attention: Attention) -> None:
        self.slot(attention.query)
        self.cache(attention.keys)
        self.cache(attention.values)
        self.put(attention.heads, attention.masks)
        self.number(attention.scale)
        self.put(len(attention.seen.offsets), *attention.seen.offsets)
        self.put(len(attention.seen.runs), *attention.seen.runs.reshape(-1))
        self.put(attention.bias is not None)
        if attention.bias is not None:
            self.put(len(attention.bias))
            self.array(attention.bias)

    def cache(self, cache: Cache) -> None:
        self.put(cache.buffer, cache.channel, cache.count, cache.row, cache.col)

    def norm(self, norm: Norm) -> None:
        self.slot(norm.source)
        self.array(norm.scale)
        self.array(norm.shift)
        self.number(norm.eps)
