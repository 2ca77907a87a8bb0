"""Phases: maps that take the elements of a channel in turn from several places.

Repeated pixels (nearest upsampling, to sizes that are no multiples, too), channels laid out as pixels (pixel shuffle), and maps
put together from every second row and column read at an offset that depends on the position. One node brings them together: a
sum of edges, one for each place, each of which reads zero at the other positions: outside its rectangle, and where its source
has no elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ...ir.graph import Edge
from ...ir.program import Lattice, Op, Rect
from ...ops import Pointwise
from ..index import NEXT_IMAGE, written_out
from .base import NodeBuilder, Provenance

PERIODS = 4
"""A channel may take its elements from twice as many places along each axis, or twice as many as the steps of what it reads."""


def brought_together(
    builder: NodeBuilder, at: Provenance, maps: Tensor, row0: int, col0: int, steps: tuple[int, int]
) -> Tensor | None:
    """Maps (images, rows, cols, F) at (row0, col0) in steps, whose channels each read one channel at one offset.

    None where they do already, or where they read at too many places, or at positions that are no rows by columns.
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
    reads, known = np.where(known, reads, -1)[..., mixed], known[..., mixed]
    most = _most_places(builder, np.unique(reads[0][known]), steps)
    _, group_of = np.unique(reads[:3].reshape(-1, len(mixed)), axis=1, return_inverse=True)
    grid = _Grid(builder, at, row0, col0, steps, known.shape[:2])
    groups = [np.flatnonzero(group_of.reshape(-1) == group) for group in range(int(group_of.max()) + 1)]
    parts = [grid.parts(reads[..., members], known[..., members[0]], most) for members in groups]
    if any(part is None for part in parts):
        return None
    result = written_out(maps).clone()
    for members, part in zip(groups, parts, strict=True):
        here = known[..., members[0]]
        window, found = grid.union(part or [], here)
        numbers_found = torch.zeros((*here.shape, len(members)), dtype=torch.int64)
        numbers_found[window] = written_out(found)
        numbers_found[torch.from_numpy(~here)] = 0
        for image in range(len(result)):
            placed = torch.where(numbers_found > 0, numbers_found + image * NEXT_IMAGE, 0)
            result[image][:, :, torch.from_numpy(mixed[members])] = placed
    return result


@dataclass(frozen=True)
class _Part:
    """The positions `rows` x `cols` at which features read `channels` of a source at an offset."""

    source: int
    offset: tuple[int, int]
    channels: np.ndarray
    rows: np.ndarray
    cols: np.ndarray


class _Grid:
    """Where the positions of some maps stand."""

    def __init__(
        self, builder: NodeBuilder, at: Provenance, row0: int, col0: int, steps: tuple[int, int], size: tuple[int, ...]
    ) -> None:
        self.builder, self.at, self.row0, self.col0, self.steps, self.size = builder, at, row0, col0, steps, size

    def parts(self, reads: np.ndarray, known: np.ndarray, most: int) -> list[_Part] | None:
        """What features read (4, rows, cols, F) where `known` (rows, cols), part by part; None if that is too much."""
        positions = np.argwhere(known)
        keys = np.concatenate([reads[:3, ..., 0][:, known], reads[3][known].T]).T  # (positions, 3 + F)
        _, first, number = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        if len(first) > most:
            return None
        result = []
        for index in np.argsort(first):
            here = positions[number.reshape(-1) == index]
            rows, cols = np.unique(here[:, 0]), np.unique(here[:, 1])
            if len(here) != len(rows) * len(cols):
                return None
            source, row, col, *channels = (int(v) for v in keys[first[index]])
            result.append(_Part(source, (row, col), np.array(channels, dtype=np.int64), rows, cols))
        return result

    def union(self, parts: list[_Part], known: np.ndarray) -> tuple[tuple[slice, slice], Tensor]:
        """One node for features that read these parts where `known` (rows, cols); its window and numbers."""
        rows, cols = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
        domain = self._domain(rows, cols)
        leaves = [edge for part in parts for edge in self._edges(part, known)]
        ops = [Op("add", (0 if i == 0 else len(leaves) + i - 1, i + 1)) for i in range(len(leaves) - 1)]
        lattice = Lattice.through(domain.row0, domain.col0, self.steps)
        features = len(parts[0].channels)
        node = Pointwise.of(self.at.name, self.at.layer, features, domain, leaves, ops, lattice)
        return (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)), self.builder.add(node)

    def _edges(self, part: _Part, known: np.ndarray) -> list[Edge]:
        """Edges that read a part and nothing elsewhere: of the source, of a rectangle of it, or of copies on lattices."""
        source = self.builder.nodes[part.source]
        wanted = np.zeros(self.size, dtype=bool)
        wanted[np.ix_(part.rows, part.cols)] = True
        narrow = self._domain(part.rows, part.cols).shifted(*part.offset)
        for rect in (source.domain, narrow):
            edge = Edge(part.source, *part.offset, part.channels, rect)
            if (self._read(edge) == wanted)[known].all():
                return [edge]
        copies = []
        for rows, cols in product(_runs(part.rows), _runs(part.cols)):
            domain = self._domain(rows, cols)
            steps = _apart(rows) * self.steps[0], _apart(cols) * self.steps[1]
            lattice = Lattice.through(domain.row0, domain.col0, steps)
            whole = Edge(part.source, *part.offset, part.channels, source.domain)
            node = Pointwise.of(self.at.name, self.at.layer, len(part.channels), domain, (whole,), (), lattice)
            self.builder.add(node)
            copies.append(Edge(len(self.builder.nodes) - 1, 0, 0, np.arange(len(part.channels)), domain))
        return copies

    def _read(self, edge: Edge) -> np.ndarray:
        """The positions (rows, cols) at which an edge finds an element."""
        lattice, rect = self.builder.nodes[edge.source].lattice, edge.rect
        rows = np.arange(self.size[0]) * self.steps[0] + self.row0 + edge.row
        cols = np.arange(self.size[1]) * self.steps[1] + self.col0 + edge.col
        down = (rows >= rect.row0) & (rows < rect.row1) & (rows % lattice.row_step == lattice.row_phase)
        right = (cols >= rect.col0) & (cols < rect.col1) & (cols % lattice.col_step == lattice.col_phase)
        return np.asarray(down[:, None] & right[None, :])

    def _domain(self, rows: np.ndarray, cols: np.ndarray) -> Rect:
        """The pixels from the first to the last of some rows and columns of positions."""
        top, left = self.row0 + int(rows[0]) * self.steps[0], self.col0 + int(cols[0]) * self.steps[1]
        bottom, right = self.row0 + int(rows[-1]) * self.steps[0] + 1, self.col0 + int(cols[-1]) * self.steps[1] + 1
        return Rect(top, bottom, left, right)


def _runs(positions: np.ndarray) -> list[np.ndarray]:
    """Positions in as few classes as a period makes of them, with no other position between those of a class."""
    between = np.arange(positions[0], positions[-1] + 1)
    period = 1
    while np.isin(between % period, positions % period).sum() != len(positions):
        period += 1  # the whole length is one
    return [positions[positions % period == phase] for phase in np.unique(positions % period)]


def _apart(positions: np.ndarray) -> int:
    """How far each of some evenly spaced positions is from the next."""
    return int(positions[1] - positions[0]) if len(positions) > 1 else 1


def _constant(reads: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For which features (F,) what is read (4, rows, cols, F) is the same everywhere that is known."""
    low = np.where(known, reads, np.iinfo(np.int64).max).min((1, 2), initial=np.iinfo(np.int64).max)
    high = np.where(known, reads, np.iinfo(np.int64).min).max((1, 2), initial=np.iinfo(np.int64).min)
    return np.asarray((low >= high).all(0))


def _most_places(builder: NodeBuilder, sources: np.ndarray, steps: tuple[int, int]) -> int:
    """From how many places a channel may take its elements."""
    apart = [max([PERIODS, *(builder.table.steps(int(source))[axis] // steps[axis] for source in sources)]) for axis in (0, 1)]
    return 4 * apart[0] * apart[1]
