"""Which launches make up a row or a pixel, in which order: the time of `pixelfast.program`, as lists for the Triton engine.

Where an instruction runs is decided here, not in kernels. Rows of one kind have the same launches: between two neighbouring
borders of rectangles and domains nothing begins or ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from ..kernels.launch import Launch
from ..program import Encode, Instruction, Program, Rect
from .known_rows import known_order
from .triton_launches import Launches
from .triton_stages import Stage, stages

Issue = tuple[Launch, int]
"""A launch and the column at which it starts, counted from the running position's."""
Kind = tuple[int, bool]
"""Between which borders a row lies, and whether its values are known."""


class Rows:
    """The launches of one program.

    Args:
        poison: fill what a row has still to compute with NaN, for tests: a wrong schedule then shows.
    """

    def __init__(self, program: Program, launches: Launches, poison: bool = False) -> None:
        self.program, self.launches, self.poison = program, launches, poison
        self.known_order = known_order(program)
        self._steps = [
            [(_rect(work), launches.pixel(work)) for work in stages(program, instructions)] for instructions in program.steps
        ]
        self._row = [(instruction, launches.whole_row(instruction)) for instruction in program.row]
        self._draws: dict[tuple[int, tuple[int, ...]], Launch] = {}
        self._known: list[tuple[Rect, Launch, int]] | None = None
        self._clears: dict[tuple[int, bool], Issue] = {}
        rects = [*(instruction.rect for instruction in program.instructions()), *(b.domain for b in program.buffers)]
        self._borders = sorted({0, *(row for rect in rects for row in (rect.row0, rect.row1))})

    def kind(self, row: int, known: bool) -> Kind:
        return bisect_right(self._borders, row), known and self.known_order is not None

    def whole(self, row: int, kind: Kind) -> list[Issue]:
        """Everything of a row."""
        if kind[1]:
            return [*self.start(row), *self.known(row)]
        lo, hi = self.program.columns
        return [*self.start(row), *((launch, col) for col in range(lo, hi) for launch in self.pixel(row, col))]

    def start(self, row: int) -> list[Issue]:
        """What a row begins with."""
        return [
            *self._emptied(row),
            *((launch, i.rect.col0) for i, launch in self._row if i.rect.row0 <= row < i.rect.row1 and not i.rect.empty),
        ]

    def pixel(self, row: int, col: int) -> Iterator[Launch]:
        """Everything of a pixel."""
        _, _, width = self.program.shape
        for step, works in enumerate(self._steps):
            yield from (launch for rect, launch in works if _inside(rect, row, col))
            if row >= 0 and 0 <= col < width:
                yield self._draw(step, row, col)

    def known(self, row: int) -> Iterator[Issue]:
        """A row that is known, or above the image: each instruction over all its columns."""
        if self._known is None:
            self._known = list(self._known_launches())
        yield from ((launch, col) for rect, launch, col in self._known if rect.row0 <= row < rect.row1)

    def _known_launches(self) -> Iterator[tuple[Rect, Launch, int]]:
        program, launches = self.program, self.launches
        _, height, width = program.shape
        for encode in (encode for encodes in program.encodes for encode in encodes):
            domain = program.buffers[encode.out.buffer].domain
            lo, hi = max(domain.col0, 0), min(domain.col1, width)
            rect = Rect(max(domain.row0, 0), domain.row1, lo, hi)
            if not rect.empty:
                yield rect, launches.encode(encode, hi - lo), lo
        assert self.known_order is not None
        for step, index in self.known_order:
            if index == len(program.steps[step]):
                launch = launches.record(program.draws[step])
                if launch is not None:
                    yield Rect(0, height, 0, width), launch, 0
            elif not program.steps[step][index].rect.empty:
                instruction = program.steps[step][index]
                yield instruction.rect, launches.whole_row(instruction), instruction.rect.col0

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
                self._clears[index, inside] = self.launches.clear(index, float("nan") if inside else 0.0, hi - lo), lo
            yield self._clears[index, inside]


def _rect(work: Stage | Instruction) -> Rect:
    return work.product.rect if isinstance(work, Stage) else work.rect


def _inside(rect: Rect, row: int, col: int) -> bool:
    return rect.row0 <= row < rect.row1 and rect.col0 <= col < rect.col1
