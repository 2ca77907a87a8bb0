"""Times: for every element of a node, the last sub-pixel that it depends on, and how an edge sees those of its source.

Sub-pixel (row, col, channel) has the number (row * W + col) * C + channel; -1 is the time of what depends on none. Features
fall into few classes that share one map, so the maps stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..ir.geometry import Rect
from ..ir.graph import Edge, Node

Step = tuple[int, int, int, int]
"""An element: node, feature, row, col."""


@dataclass(frozen=True)
class Times:
    """Times of one node: `maps` (classes, rows, cols) over its rectangle, -1 off its lattice, and the class of each feature."""

    domain: Rect
    maps: np.ndarray
    classes: np.ndarray

    def at(self, feature: int, row: int, col: int) -> int:
        """The time of one element; -1 outside the rectangle."""
        d = self.domain
        if not (d.row0 <= row < d.row1 and d.col0 <= col < d.col1):
            return -1
        return int(self.maps[self.classes[feature], row - d.row0, col - d.col0])


class Reach(NamedTuple):
    """One class of an edge's source, and which features of the reader depend on it, bool (F,), at which of its elements.

    Attributes:
        mask: bool, broadcast to (rows, cols); None: at all of them.
    """

    edge: Edge
    number: int
    features: np.ndarray
    mask: np.ndarray | None = None


def through(node: Node, reaches: Sequence[Reach], times: Sequence[Times]) -> Times:
    """The times of a node each of whose elements depends on what it reads at its own place, from those of its sources."""
    domain = node.domain
    signatures = np.zeros((node.features, 0), dtype=bool)
    if reaches:
        signatures = np.stack([reach.features for reach in reaches], 1)
    patterns, classes = np.unique(signatures, axis=0, return_inverse=True)
    maps = np.full((len(patterns), *domain.size), -1, dtype=np.int32)
    for i, reach in enumerate(reaches):
        users = np.flatnonzero(patterns[:, i])
        if len(users):
            seen = window(times[reach.edge.source], reach.number, reach.edge, domain)
            seen = seen if reach.mask is None else np.where(reach.mask, seen, -1)
            maps[users] = np.maximum(maps[users], seen)
    if not node.lattice.everywhere:
        maps[:, ~elements(node)] = -1
    return Times(domain, maps, classes.reshape(-1))


def window(source: Times, number: int, edge: Edge, domain: Rect) -> np.ndarray:
    """Times of a class that a reader over `domain` sees through an edge: (rows, cols), -1 outside the edge's rectangle."""
    seen = np.full(domain.size, -1, dtype=np.int32)
    reads = domain.shifted(edge.row, edge.col)
    row0, row1 = max(reads.row0, edge.rect.row0), min(reads.row1, edge.rect.row1)
    col0, col1 = max(reads.col0, edge.rect.col0), min(reads.col1, edge.rect.col1)
    if row0 < row1 and col0 < col1:
        rows = slice(row0 - source.domain.row0, row1 - source.domain.row0)
        cols = slice(col0 - source.domain.col0, col1 - source.domain.col0)
        part = source.maps[number, rows, cols]
        seen[row0 - reads.row0 : row1 - reads.row0, col0 - reads.col0 : col1 - reads.col0] = part
    return seen


def windows(edge: Edge, source: Times, domain: Rect) -> np.ndarray:
    """Times that a reader over `domain` sees through an edge: (channels, rows, cols)."""
    classes = source.classes[edge.channels]
    result = {int(number): window(source, int(number), edge, domain) for number in np.unique(classes)}
    return np.stack([result[int(number)] for number in classes])


def elements(node: Node) -> np.ndarray:
    """Which pixels of a node's rectangle lie on its lattice: bool (rows, cols)."""
    d = node.domain
    here = np.zeros(d.size, dtype=bool)
    rows, cols = node.lattice.rows(d.row0, d.row1), node.lattice.columns(d.col0, d.col1)
    here[np.ix_(np.array(rows, dtype=np.int64) - d.row0, np.array(cols, dtype=np.int64) - d.col0)] = True
    return here


def latest(
    edges: Sequence[Edge], channels: Sequence[np.ndarray], times: Sequence[Times], row: int, col: int, limit: int
) -> Step:
    """The latest element among some channels of edges, as seen from (row, col); its time is at least `limit`."""
    best: Step | None = None
    best_time = limit - 1
    for edge, read in zip(edges, channels, strict=True):
        r, c = row + edge.row, col + edge.col
        if not (edge.rect.row0 <= r < edge.rect.row1 and edge.rect.col0 <= c < edge.rect.col1):
            continue
        for channel in read:
            time = times[edge.source].at(int(channel), r, c)
            if time > best_time:
                best, best_time = (edge.source, int(channel), r, c), time
    assert best is not None, "an element's time must come from something that it reads"
    return best
