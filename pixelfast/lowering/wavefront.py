"""Wavefront: how closely a row may follow the row above it, derived from what the program's instructions read.

Rows need not wait for each other's end. A step of the wave computes one pixel in each of several rows: pixel (R, c) in step
R * skew + c. What is known when a row starts is then computed in chunks of columns, each a little ahead of the pixels: in
every step s that is a multiple of `chunk`, each row R computes the chunk p = s - R * skew, where an instruction with a `lead`
writes the columns [p + lead, p + lead + chunk). A step may rely on everything of `lag` or more steps before, whoever computes
it, and on what the same thread wrote for the same row in the same step, where the chunk comes before the pixel.

Attention may look at any column of the rows above. It then stays behind the whole row above, whose skew is the width: rows
follow one after another, as without a wave.

A program with sweeps cannot run as a wave: a sweep takes the columns of its row from one side, chunks come from the left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ..ir.contract import columns_behind, limit, steps_of_row
from ..ir.program import Instruction, Program


@dataclass(frozen=True)
class Reach:
    """What rows read of the row `above` rows higher: columns to the right of the running one, at most.

    Attributes:
        pixels: pixel instructions of anything; chunks: row instructions of values drawn above, their lead included;
        rows: row instructions of row instructions, the difference of their leads included. NOTHING: they read none.
    """

    above: int
    pixels: int
    chunks: int
    rows: int


NOTHING = -limit("Reach")
"""A reach that never binds."""


@dataclass(frozen=True)
class Wavefront:
    """The leads of the `row` instructions in columns, and what limits the skew."""

    leads: tuple[int, ...]
    reaches: tuple[Reach, ...]

    @property
    def most_lead(self) -> int:
        return max((0, *self.leads))

    def skew(self, chunk: int = 1, lag: int = 1) -> int:
        """By how many columns a row follows the row above, at least 1."""
        least = 1
        for reach in self.reaches:
            columns = columns_behind(reach.pixels, reach.chunks, reach.rows, chunk, lag)
            least = max(least, -(-columns // reach.above))
        return least


def wavefront(program: Program) -> Wavefront:
    """Leads and reaches of a program.

    Within a row an instruction that reads o columns to the right of what another writes needs that one o columns further
    ahead. Instructions of a chunk run in the program's order, so leads follow from the last instruction to the first.
    """
    leads = _leads(program)
    row_writers: dict[int, list[tuple[Instruction, int]]] = defaultdict(list)
    for instruction, lead in zip(program.row, leads, strict=True):
        row_writers[instruction.out.buffer].append((instruction, lead))
    pixel_written = {instruction.out.buffer for step in program.steps for instruction in step}
    pixel_written |= {encode.out.buffer for encodes in program.encodes for encode in encodes}

    pixels: dict[int, int] = defaultdict(lambda: NOTHING)
    chunks: dict[int, int] = defaultdict(lambda: NOTHING)
    rows: dict[int, int] = defaultdict(lambda: NOTHING)
    for step in program.steps:
        for instruction in step:
            for above, col, _ in _reads_above(instruction, program):
                pixels[above] = max(pixels[above], col)
    for draw in program.draws:
        if draw.source.row < 0:
            pixels[-draw.source.row] = max(pixels[-draw.source.row], draw.source.col)
    for instruction, lead in zip(program.row, leads, strict=True):
        for above, col, buffer in _reads_above(instruction, program):
            if buffer is None or buffer in pixel_written:
                chunks[above] = max(chunks[above], col + lead)
            for _, other in row_writers[buffer] if buffer is not None else ():
                rows[above] = max(rows[above], col + lead - other)
    depths = sorted({*pixels, *chunks, *rows})
    return Wavefront(tuple(leads), tuple(Reach(above, pixels[above], chunks[above], rows[above]) for above in depths))


def _leads(program: Program) -> list[int]:
    leads = [0] * len(program.row)
    writers: dict[int, list[int]] = defaultdict(list)
    for index, instruction in enumerate(program.row):
        writers[instruction.out.buffer].append(index)

    def demand(instruction: Instruction, lead: int, before: int) -> None:
        for slot in instruction.body.slots():
            if slot.row == 0:
                for writer in writers[slot.buffer]:
                    if writer < before:
                        leads[writer] = max(leads[writer], lead + slot.col)
        for cache in instruction.body.caches():
            for writer in writers[cache.buffer]:
                if writer < before:
                    leads[writer] = max(leads[writer], lead + _reach(instruction, program))

    for step in program.steps:
        for instruction in step:
            demand(instruction, 0, len(leads))
    for draw in program.draws:
        for writer in writers[draw.source.buffer]:
            leads[writer] = max(leads[writer], draw.source.col)
    for index in reversed(range(len(leads))):
        instruction = program.row[index]
        demand(instruction, leads[index], index)
        if instruction.body.adds:  # what it adds to was written before
            for writer in writers[instruction.out.buffer]:
                if writer < index:
                    leads[writer] = max(leads[writer], leads[index])
    return leads


def _reads_above(instruction: Instruction, program: Program) -> Iterator[tuple[int, int, int | None]]:
    """(rows up, columns to the right, buffer; None: the image itself) of what an instruction reads on rows above."""
    for slot in instruction.body.slots():
        if slot.row < 0:
            yield -slot.row, slot.col, slot.buffer
    for pixel in instruction.body.pixels():
        if pixel.row < 0:
            yield -pixel.row, pixel.col, None
    for cache in instruction.body.caches():  # what binds on the row above binds more than the same on a higher one
        yield 1, _reach(instruction, program), cache.buffer


def _reach(instruction: Instruction, program: Program) -> int:
    """How many columns to the right of the running one anything stands in its caches, at most, on whatever row."""
    return max(cache.col for cache in instruction.body.caches()) + program.shape[2] - 1 - instruction.rect.col0


@dataclass(frozen=True)
class Work:
    """A part of a step: chunk `col` of a row's `row` instructions, or the pixel at `col` with its draws."""

    step: int
    row: int
    col: int
    pixel: bool
    first: bool = False
    """Whether it is the first of its row."""


@dataclass(frozen=True)
class Wave:
    """One way to run a program as a wave; the head of this file says what chunk and lag mean."""

    program: Program
    front: Wavefront
    chunk: int = 1
    lag: int = 1

    def __post_init__(self) -> None:
        if self.program.sweeps:
            raise ValueError("rows of a program with sweeps cannot overlap: a row's chunks come from the left, sweeps may not")

    @property
    def skew(self) -> int:
        return self.front.skew(self.chunk, self.lag)

    @property
    def rows_in_flight(self) -> int:
        """How many rows are begun and not finished at a time, at most: buffers need as many rows more."""
        first, last = self.program.columns
        return -(-steps_of_row(last - first, self.front.most_lead, self.chunk, self.lag) // self.skew)

    def order(self) -> list[Work]:
        """All the work of an image, by steps; within a step lower rows come first, since none may rely on the others."""
        first, last = self.program.columns
        skew, work = self.skew, []
        for row in self.program.rows:
            start = first - self.front.most_lead - (first - self.front.most_lead + row * skew) % self.chunk
            for col in range(start, last, self.chunk):
                work.append(Work(row * skew + col, row, col, pixel=False, first=col == start))
            for col in range(first, last):
                work.append(Work(row * skew + col, row, col, pixel=True))
        return sorted(work, key=lambda w: (w.step, -w.row, w.pixel))
