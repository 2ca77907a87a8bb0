"""Phases: maps that take the elements of a channel in turn from several places.

Repeated pixels (nearest upsampling), channels laid out as pixels (pixel shuffle), and maps put together from every second row
and column read at offsets that depend on the row and column modulo a few. One node brings them together: a sum of edges, each
of which reads zero at the other phases, because its source has no elements there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..graph import Edge, Pointwise
from ..program import Lattice, Op, Rect
from .elements import NEXT_IMAGE, written_out

if TYPE_CHECKING:
    from .builder_base import Origin, ReadingBuilder

PERIODS = 4
"""Periods up to this one are tried even if no map of that resolution is read."""

Phase = tuple[int, int]
Place = tuple[int, int, int]
"""Source node, row offset, column offset."""


def brought_together(
    builder: ReadingBuilder, at: Origin, maps: Tensor, row0: int, col0: int, steps: tuple[int, int]
) -> Tensor | None:
    """Maps (images, rows, cols, F) at (row0, col0) in steps, whose channels each read one channel at one offset.

    None where they do already, or where no period explains what they read.
    """
    numbers = written_out(maps).numpy()
    place = builder.table.places(numbers[0])
    known = place.known
    later = [np.array_equal(np.where(known, n - i * NEXT_IMAGE, n), numbers[0]) for i, n in enumerate(numbers)]
    rows = np.arange(numbers.shape[1])[:, None, None] * steps[0] + row0
    cols = np.arange(numbers.shape[2])[None, :, None] * steps[1] + col0
    reads = np.stack([place.node, place.row - rows, place.col - cols, place.feature])  # (4, rows, cols, F)
    mixed = np.flatnonzero(~_constant(reads, known))
    if not len(mixed) or not all(later):
        return None
    reads, known = reads[..., mixed], known[..., mixed]
    for period in _periods(builder, np.unique(reads[0][known]), steps, known.shape[:2]):
        phases = list(product(range(period[0]), range(period[1])))
        parts = [(slice(a, None, period[0]), slice(b, None, period[1])) for a, b in phases]
        if all(_constant(reads[:, rows, cols], known[rows, cols]).all() for rows, cols in parts):
            break
    else:
        return None
    result = written_out(maps).clone()
    origin = _Origin(builder, at, row0, col0, steps, period)
    places = np.stack([_first(reads[:, rows, cols], known[rows, cols]) for rows, cols in parts], 1)  # (F, phases, 4)
    _, group_of = np.unique(places[:, :, :3].reshape(len(mixed), -1), axis=0, return_inverse=True)
    for group in range(int(group_of.max()) + 1):
        members = np.flatnonzero(group_of.reshape(-1) == group)
        window, found = origin.union(phases, places[members], known[..., members])
        numbers_found = torch.zeros((*known.shape[:2], len(members)), dtype=torch.int64)
        numbers_found[window] = written_out(found)
        numbers_found[torch.from_numpy(~known[..., members])] = 0
        for image in range(len(result)):
            here = torch.where(numbers_found > 0, numbers_found + image * NEXT_IMAGE, 0)
            result[image][:, :, torch.from_numpy(mixed[members])] = here
    return result


class _Origin:
    """Where the positions of some maps stand, and after how many of them what they read repeats."""

    def __init__(
        self, builder: ReadingBuilder, at: Origin, row0: int, col0: int, steps: tuple[int, int], period: Phase
    ) -> None:
        self.builder, self.at, self.row0, self.col0, self.steps, self.period = builder, at, row0, col0, steps, period

    def union(self, phases: list[Phase], places: np.ndarray, known: np.ndarray) -> tuple[tuple[slice, slice], Tensor]:
        """One node for features that read `places` (F, phases, 4) where `known` (rows, cols, F); its window and numbers."""
        rows, cols = np.flatnonzero(known.any((1, 2))), np.flatnonzero(known.any((0, 2)))
        domain = self._domain(rows[0], rows[-1], cols[0], cols[-1])
        together: dict[tuple[Place, bytes], list[int]] = {}
        for number in range(len(phases)):
            if places[0, number, 0] >= 0:
                source, row, col = (int(v) for v in places[0, number, :3])
                together.setdefault(((source, row, col), places[:, number, 3].tobytes()), []).append(number)
        leaves: list[Edge] = []
        for ((source, row, col), _), numbers in together.items():
            channels = places[:, numbers[0], 3].astype(np.int64)
            edge = Edge(source, row, col, channels, self.builder.nodes[source].domain)
            others = [phase for number, phase in enumerate(phases) if number not in numbers]
            if not any(self._reads(edge, phase) for phase in others):
                leaves.append(edge)
                continue
            for number in numbers:
                a, b = phases[number]
                rows_on, cols_on = rows[rows % self.period[0] == a], cols[cols % self.period[1] == b]
                if len(rows_on) and len(cols_on):
                    leaves.append(self._copy(edge, self._domain(rows_on[0], rows_on[-1], cols_on[0], cols_on[-1]), (a, b)))
        ops = [Op("add", (0 if i == 0 else len(leaves) + i - 1, i + 1)) for i in range(len(leaves) - 1)]
        lattice = Lattice.through(domain.row0, domain.col0, self.steps)
        node = Pointwise(self.at.name, self.at.layer, len(places), domain, tuple(leaves), tuple(ops), lattice=lattice)
        return (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)), self.builder.add(node)

    def _lattice(self, phase: Phase) -> Lattice:
        row, col = self.row0 + phase[0] * self.steps[0], self.col0 + phase[1] * self.steps[1]
        return Lattice.through(row, col, (self.period[0] * self.steps[0], self.period[1] * self.steps[1]))

    def _reads(self, edge: Edge, phase: Phase) -> bool:
        """Whether an edge reads elements at a phase."""
        return self._lattice(phase).shifted(edge.row, edge.col).meets(self.builder.nodes[edge.source].lattice)

    def _copy(self, edge: Edge, domain: Rect, phase: Phase) -> Edge:
        """An edge to a copy that has elements at one phase only."""
        name, features = self.at.name, len(edge.channels)
        node = Pointwise(name, self.at.layer, features, domain, (edge,), (), lattice=self._lattice(phase))
        self.builder.add(node)
        return Edge(len(self.builder.nodes) - 1, 0, 0, np.arange(features), domain)

    def _domain(self, row: int, last_row: int, col: int, last_col: int) -> Rect:
        top, left = self.row0 + int(row) * self.steps[0], self.col0 + int(col) * self.steps[1]
        bottom, right = self.row0 + int(last_row) * self.steps[0] + 1, self.col0 + int(last_col) * self.steps[1] + 1
        return Rect(top, bottom, left, right)


def _constant(reads: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For which features (F,) what is read (4, rows, cols, F) is the same everywhere that is known."""
    low = np.where(known, reads, np.iinfo(np.int64).max).min((1, 2), initial=np.iinfo(np.int64).max)
    high = np.where(known, reads, np.iinfo(np.int64).min).max((1, 2), initial=np.iinfo(np.int64).min)
    return np.asarray((low >= high).all(0))


def _first(reads: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What is read where it is the same everywhere: (F, 4); -1 for features of which nothing is known."""
    high = np.where(known, reads, np.iinfo(np.int64).min).max((1, 2), initial=np.iinfo(np.int64).min)
    return np.asarray(np.where(known.any((0, 1)), high, -1).T)


def _periods(builder: ReadingBuilder, sources: np.ndarray, steps: tuple[int, int], size: tuple[int, ...]) -> Iterator[Phase]:
    """Periods to try, small ones first: short ones, and the steps of what is read."""
    listed: list[list[int]] = []
    for axis in range(2):
        found = set(range(1, PERIODS + 1))
        for source in sources:
            own = builder.table.steps(int(source))[axis]
            found |= {p for p in range(1, own // steps[axis] + 1) if own % (p * steps[axis]) == 0}
        listed.append(sorted(p for p in found if p <= size[axis]))
    return iter(sorted(product(listed[0], listed[1]), key=lambda period: period[0] * period[1]))
