"""Recurrences: what a scan's states depend on through each other, and the order in which they are known.

A state depends on the states at its taps, on the cell before, and through them on theirs. Everything here is a map over the
scan's rectangle that is spread along the taps until nothing changes: times, marks of what is needed. A cell counts as if it
saw all that its state sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.graph import Edge, Scan

if TYPE_CHECKING:
    from .availability import Step, Times


def scan_times(node: Scan, gates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (classes, rows, cols) of the states, and the class of each, from those of the gates (4F, rows, cols)."""
    own = gates.reshape(4, node.features, *gates.shape[1:]).max(0)
    live = _live(node)
    first, classes = _classes(own.reshape(node.features, -1), live)
    count = len(first)
    reach = [np.stack([matrix[classes == number].any(0)[first] for number in range(count)]) for matrix in live]
    maps = own[first]
    while True:
        found = np.maximum(maps, _moved(maps, *node.cell, blank=-1))
        for tap, sees in zip(node.taps, reach, strict=True):
            before = _moved(maps, tap.row, tap.col, blank=-1)
            for number in np.flatnonzero(sees.any(0)):
                found[number] = np.maximum(found[number], before[sees[:, number]].max(0))
        if np.array_equal(found, maps):
            return maps, classes
        maps = found


def _live(node: Scan) -> list[np.ndarray]:
    """For each tap, which states (rows) reach which states (columns) through any gate: bool (F, F)."""
    return [(tap.weights != 0).reshape(node.features, 4, node.features).any(1) for tap in node.taps]


def _classes(own: np.ndarray, live: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first feature of each class, and the class of each feature: those that see the same, at all distances."""
    _, first, classes = np.unique(own, axis=0, return_index=True, return_inverse=True)
    while True:
        count, classes = len(first), classes.reshape(-1)
        sees = [matrix[classes == number].any(0) for matrix in live for number in range(count)]
        _, first, classes = np.unique(np.stack([classes, *sees], 1), axis=0, return_index=True, return_inverse=True)
        if len(first) == count:
            return first, classes.reshape(-1)


def _moved(maps: np.ndarray, row: int, col: int, blank: Any) -> np.ndarray:
    """Maps (features, rows, cols) read at an offset; `blank` outside."""
    _, rows, cols = maps.shape
    found = np.full_like(maps, blank)
    r0, r1, c0, c1 = max(0, -row), min(rows, rows - row), max(0, -col), min(cols, cols - col)
    if r0 < r1 and c0 < c1:
        found[:, r0:r1, c0:c1] = maps[:, r0 + row : r1 + row, c0 + col : c1 + col]
    return found


def scan_marks(node: Scan, marks: np.ndarray) -> np.ndarray:
    """All states that the marked ones depend on, themselves included: bool (F, rows, cols)."""
    live = [matrix.astype(np.float32) for matrix in _live(node)]
    while True:
        found = marks | _moved(marks, -node.cell[0], -node.cell[1], blank=False)
        flat = marks.reshape(len(marks), -1).astype(np.float32)
        for tap, matrix in zip(node.taps, live, strict=True):
            found |= _moved((matrix @ flat > 0).reshape(marks.shape), -tap.row, -tap.col, blank=False)
        if np.array_equal(found, marks):
            return marks
        marks = found


def gate_channels(node: Scan) -> list[tuple[Edge, np.ndarray]]:
    """For each edge of the gates, the state that each of its channels belongs to."""
    states = np.arange(4 * node.features) % node.features
    ends = np.cumsum([len(edge.channels) for edge in node.edges])
    return list(zip(node.edges, np.split(states, ends[:-1]), strict=True))


def scan_cause(index: int, node: Scan, times: list[Times], feature: int, row: int, col: int, limit: int) -> Step:
    """What a state reads that has a time of at least `limit`: something of its gates if there is any, else a state before."""
    found: list[tuple[int, Step]] = []
    for edge, states in gate_channels(node):
        r, c = row + edge.row, col + edge.col
        if edge.rect.row0 <= r < edge.rect.row1 and edge.rect.col0 <= c < edge.rect.col1:
            for channel in edge.channels[states == feature]:
                found.append((times[edge.source].at(int(channel), r, c), (edge.source, int(channel), r, c)))
    if max((time for time, _ in found), default=-1) < limit:
        reads = [(tap.row, tap.col, np.flatnonzero(live[:, feature])) for tap, live in zip(node.taps, _live(node), strict=True)]
        for up, beside, states in [*reads, (*node.cell, np.array([feature]))]:
            for state in states:
                at = (int(state), row + up, col + beside)
                found.append((times[index].at(*at), (index, *at)))
    return max(found, key=lambda item: item[0])[1]


def without_tap(node: Scan, row: int, col: int) -> Scan:
    """The scan that reads nothing at an offset; a cell before that stood there is taken from the row above."""
    taps = tuple(tap for tap in node.taps if (tap.row, tap.col) != (row, col))
    return replace(node, taps=taps, cell=(-1, 0) if node.cell == (row, col) else node.cell)
