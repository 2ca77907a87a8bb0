"""Which launches make up a row or a pixel, in which order: the time of `pixelfast.ir.program`, as lists for the Triton engine.

Where an instruction runs is decided here, not in kernels. Rows of one kind have the same launches: between two neighbouring
borders of rectangles and domains nothing begins or ends, and lattices repeat after so many rows.

What runs on some columns only, or from one side to the other, runs one column at a time: kernels take neighbouring columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from math import lcm

from ...ir.program import Encode, Instruction, Program, Rect
from ...kernels.launch import Launch
from ...kernels.persistent_row import PersistentRow
from ...lowering.given_rows import known_order
from .launches import Launches
from .stages import Stage, stages

Issue = tuple[Launch, int]
"""A launch and the column at which it starts, counted from the running position's."""
Kind = tuple[int, int, bool]
"""Between which borders a row lies, where in the period of all lattices, and whether its values are known."""


class Rows:
    """The launches of one program.

    The pixels of a row are launches one by one, or with `launches.own` all of them together one launch of a persistent kernel.

    Args:
        poison: fill what a row has still to compute with NaN, for tests: a wrong schedule then shows.
    """

    def __init__(self, program: Program, launches: Launches, poison: bool = False) -> None:
        self.program, self.launches, self.poison = program, launches, poison
        self.known_order = known_order(program)
        self._steps = [
            [(_first(work), launches.pixel(work)) for work in stages(program, instructions, launches.memory.halves)]
            for instructions in program.steps
        ]
        self._made: dict[tuple[int, bool], Launch] = {}
        self._draws: dict[tuple[int, tuple[int, ...]], Launch] = {}
        self._encodes: dict[int, Launch] = {}
        self._records: dict[int, Launch | None] = {}
        self._clears: dict[tuple[int, bool], Issue] = {}
        rects = [*(instruction.rect for instruction in program.instructions()), *(b.domain for b in program.buffers)]
        self._borders = sorted({0, *(row for rect in rects for row in (rect.row0, rect.row1))})
        self._period = lcm(*(instruction.lattice.row_step for instruction in program.instructions()))
        self._persistent = self._persistent_rows() if launches.own else {}

    def kind(self, row: int, known: bool) -> Kind:
        return bisect_right(self._borders, row), row % self._period, known and self.known_order is not None

    def whole(self, row: int, kind: Kind) -> list[Issue]:
        """Everything of a row."""
        if kind[2]:
            return [*self.start(row), *self.known(row)]
        lo, hi = self.program.columns
        if kind in self._persistent:
            return [*self.start(row), (self._persistent[kind], lo)]
        return [*self.start(row), *((launch, col) for col in range(lo, hi) for launch in self.pixel(row, col))]

    def start(self, row: int) -> list[Issue]:
        """What a row begins with."""
        issues = [*self._emptied(row)]
        for sweep, group in groupby(self.program.row, lambda instruction: instruction.sweep):
            together = list(group)
            if sweep:
                columns = range(*self.program.columns)[::sweep]
                issues += [(self._one(i), col) for col in columns for i in together if _runs(i, row, col)]
            else:
                issues += [issue for instruction in together for issue in self._over(instruction, row)]
        return issues

    def _persistent_rows(self) -> dict[Kind, Launch]:
        """Each kind of row as one launch."""
        lo, hi = self.program.columns
        first = {self.kind(row, False): row for row in reversed(self.program.rows)}
        pixels = {kind: [list(self.pixel(row, col)) for col in range(lo, hi)] for kind, row in first.items()}
        every = (launch for row in pixels.values() for pixel in row for launch in pixel)
        walked = PersistentRow(every, self.launches.memory.images, self.launches.own)
        self._walked = walked  # works hold addresses of tensors that it refers to
        return {kind: walked.row(self.launches.state.position, row) for kind, row in pixels.items()}

    def _over(self, instruction: Instruction, row: int) -> Iterator[Issue]:
        """An instruction over all its columns of a row."""
        rect, lattice = instruction.rect, instruction.lattice
        if rect.empty or not (rect.row0 <= row < rect.row1 and lattice.has_row(row)):
            return
        if lattice.col_step > 1:
            yield from ((self._one(instruction), col) for col in lattice.columns(rect.col0, rect.col1))
            return
        if (id(instruction), True) not in self._made:
            self._made[id(instruction), True] = self.launches.whole_row(instruction)
        yield self._made[id(instruction), True], rect.col0

    def _one(self, instruction: Instruction) -> Launch:
        """An instruction at one column."""
        if (id(instruction), False) not in self._made:
            self._made[id(instruction), False] = self.launches.pixel(instruction)
        return self._made[id(instruction), False]

    def pixel(self, row: int, col: int) -> Iterator[Launch]:
        """Everything of a pixel."""
        _, _, width = self.program.shape
        for step, works in enumerate(self._steps):
            yield from (launch for instruction, launch in works if _runs(instruction, row, col))
            if row >= 0 and 0 <= col < width:
                yield self._draw(step, row, col)

    def known(self, row: int) -> Iterator[Issue]:
        """A row that is known, or above the image: each instruction over all its columns."""
        program, launches = self.program, self.launches
        _, height, width = program.shape
        for encode in (encode for encodes in program.encodes for encode in encodes):
            domain = program.buffers[encode.out.buffer].domain
            lo, hi = max(domain.col0, 0), min(domain.col1, width)
            if lo < hi and max(domain.row0, 0) <= row < domain.row1:
                if id(encode) not in self._encodes:
                    self._encodes[id(encode)] = launches.encode(encode, hi - lo)
                yield self._encodes[id(encode)], lo
        assert self.known_order is not None
        for step, index in self.known_order:
            if index < len(program.steps[step]):
                yield from self._over(program.steps[step][index], row)
            elif 0 <= row < height:
                if step not in self._records:
                    self._records[step] = launches.record(program.draws[step])
                record = self._records[step]
                if record is not None:
                    yield record, 0

    def _draw(self, step: int, row: int, col: int) -> Launch:
        """The draw of a step, with those encodes whose buffers have this pixel."""
        encodes = self.program.encodes[step]
        live = tuple(i for i, encode in enumerate(encodes) if self._has(encode, row, col))
        if (step, live) not in self._draws:
            self._draws[step, live] = self.launches.draw(self.program.draws[step], [encodes[i] for i in live])
        return self._draws[step, live]

    def _has(self, encode: Encode, row: int, col: int) -> bool:
        return _inside(self.program.buffers[encode.out.buffer].domain, row, col)

    def _emptied(self, row: int) -> Iterator[Issue]:
        """Zeros in the slots of a row outside the domain; before the domain nothing was written yet."""
        for index, buffer in enumerate(self.program.buffers):
            inside = buffer.domain.row0 <= row < buffer.domain.row1
            if (inside and not self.poison) or row < buffer.domain.row0:
                continue
            if (index, inside) not in self._clears:
                lo, hi = (buffer.domain.col0, buffer.domain.col1) if inside else buffer.columns
                self._clears[index, inside] = self.launches.clear(index, inside, hi - lo), lo
            yield self._clears[index, inside]


def _first(work: Stage | Instruction) -> Instruction:
    return work.start if isinstance(work, Stage) else work


def _runs(instruction: Instruction, row: int, col: int) -> bool:
    """Whether an instruction runs at a pixel."""
    lattice = instruction.lattice
    on = lattice.has_row(row) and (col - lattice.col_phase) % lattice.col_step == 0
    return on and _inside(instruction.rect, row, col)


def _inside(rect: Rect, row: int, col: int) -> bool:
    return rect.row0 <= row < rect.row1 and rect.col0 <= col < rect.col1
