"""Recurrences over pixels as nodes: what a scan's states depend on through each other, and the order in which they are known.

A state depends on the states at its taps, on the cell before, and through them on theirs. Times, and marks of what is needed,
are maps over the scan's rectangle that are spread along the taps until nothing changes. A cell counts as if it saw all that
its state sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NotAutoregressive
from ..ir.geometry import Rect
from ..ir.graph import Edge, Graph, Node
from ..ir.program import Map, Op, Product, Slot
from ..ir.scan_order import Order
from .base import Demand, Marks, Needs, Operation
from .evaluation import Evaluation
from .lags import NEVER, ROW, START, decode, lags_through
from .lowering_context import LoweringContext, Part
from .recurrence import direction, lstm_scan
from .shared import all_there
from .times import Step, Times, windows

CELL = (
    Op("add", (0, 1)), Op("sigmoid", (7,)), Op("add", (2, 3)), Op("sigmoid", (9,)), Op("add", (4, 5)), Op("tanh", (11,)),
    Op("mul", (8, 6)), Op("mul", (10, 12)), Op("add", (13, 14)),
)  # fmt: skip
"""The cell, from the gates f, i and g, each a sum of two leaves, and from the cell before."""
STATE = (Op("add", (0, 1)), Op("sigmoid", (3,)), Op("tanh", (2,)), Op("mul", (4, 5)))
"""The state, from the gate o, a sum of two leaves, and from the cell."""


@dataclass(frozen=True)
class StateTap:
    """weights (F, 4F): what the states at (row, col) from a pixel add to its gates."""

    row: int
    col: int
    weights: np.ndarray


@dataclass(frozen=True)
class Scan(Operation):
    """States of an LSTM over pixels (see `pixelfast.ops.recurrence`); what it reads of itself is zero outside its rectangle.

    The edges hold the input's part of the gates o, f, i, g: 4F channels. `cell` is the (row, col) offset of the cell before.
    Columns of a row come in any order (sweep 0), from the left (1) or from the right (-1).
    """

    taps: tuple[StateTap, ...]
    cell: tuple[int, int]
    sweep: int

    chooses_pixels = False
    keeps_order = False
    looks_up = False

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return [(tap.row, tap.col) for tap in self.taps]

    def check(self) -> None:
        assert sum(len(edge.channels) for edge in self.edges) == 4 * self.features
        for tap in self.taps:
            assert tap.weights.shape == (self.features, 4 * self.features)

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        gates = evaluation.read_all(self.edges, self.domain).permute(0, 3, 1, 2)
        weights = torch.stack([torch.from_numpy(tap.weights).double() for tap in self.taps])
        return lstm_scan(gates, weights, self.offsets, self.cell).permute(0, 2, 3, 1)

    # ---------------------------------------------------------------- causality

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        gates = np.concatenate([windows(edge, times[edge.source], self.domain) for edge in self.edges])  # (4F, rows, cols)
        own = gates.reshape(4, self.features, *gates.shape[1:]).max(0)
        live = self._live()
        first, classes = _classes(own.reshape(self.features, -1), live)
        count = len(first)
        sees = [np.stack([matrix[classes == number].any(0)[first] for number in range(count)]) for matrix in live]
        maps = own[first]
        while True:
            found = np.maximum(maps, _moved(maps, *self.cell, blank=-1))
            for tap, seen in zip(self.taps, sees, strict=True):
                before = _moved(maps, tap.row, tap.col, blank=-1)
                for number in np.flatnonzero(seen.any(0)):
                    found[number] = np.maximum(found[number], before[seen[:, number]].max(0))
            if np.array_equal(found, maps):
                return Times(self.domain, maps, classes)
            maps = found

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        """Something of its gates if there is any, else a state before."""
        number, feature, row, col = element
        result: list[tuple[int, Step]] = []
        for edge, states in self._gate_states():
            r, c = row + edge.row, col + edge.col
            if edge.rect.row0 <= r < edge.rect.row1 and edge.rect.col0 <= c < edge.rect.col1:
                for channel in edge.channels[states == feature]:
                    result.append((times[edge.source].at(int(channel), r, c), (edge.source, int(channel), r, c)))
        if max((time for time, _ in result), default=-1) < limit:
            own = [np.flatnonzero(live[:, feature]) for live in self._live()]
            for (up, beside), states in zip([*self.offsets, self.cell], [*own, np.array([feature])], strict=True):
                for state in states:
                    at = (int(state), row + up, col + beside)
                    result.append((times[number].at(*at), (number, *at)))
        return max(result, key=lambda item: item[0])[1]

    def without(self, graph: Graph, reader: Step, source: Step) -> Sequence[Node]:
        """Without the tap at an offset; a cell before that stood there is taken from the row above."""
        if source[0] != reader[0]:
            return ()
        offset = (source[2] - reader[2], source[3] - reader[3])
        taps = tuple(tap for tap in self.taps if (tap.row, tap.col) != offset)
        return [replace(self, taps=taps, cell=(-1, 0) if self.cell == offset else self.cell)]

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        marks = self._spread(marks, self._live())
        return [Marks(edge, marks[states], self.domain.row0, self.domain.col0) for edge, states in self._gate_states()]

    def _spread(self, marks: np.ndarray, live: Sequence[np.ndarray]) -> np.ndarray:
        """All states (F, rows, cols) that the marked ones depend on, themselves included; `live` as `_live` gives it."""
        matrices = [matrix.astype(np.float32) for matrix in live]
        while True:
            found = marks | _moved(marks, -self.cell[0], -self.cell[1], blank=False)
            flat = marks.reshape(len(marks), -1).astype(np.float32)
            for tap, matrix in zip(self.taps, matrices, strict=True):
                found |= _moved((matrix @ flat > 0).reshape(marks.shape), -tap.row, -tap.col, blank=False)
            if np.array_equal(found, marks):
                return marks
            marks = found

    def _live(self) -> list[np.ndarray]:
        """For each tap, which states (rows) reach which states (columns) through any gate: bool (F, F)."""
        return [(tap.weights != 0).reshape(self.features, 4, self.features).any(1) for tap in self.taps]

    def _gate_states(self) -> list[tuple[Edge, np.ndarray]]:
        """For each edge of the gates, the state that each of its channels belongs to."""
        states = np.arange(4 * self.features) % self.features
        ends = np.cumsum([len(edge.channels) for edge in self.edges])
        return list(zip(self.edges, np.split(states, ends[:-1]), strict=True))

    # ---------------------------------------------------------------- passes

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        """Every state depends on the rows above, and on all of its row where that has a direction."""
        rows = Rect(self.domain.row0, domain.row1, self.domain.col0, self.domain.col1)
        demands = tuple(Demand(edge.channels, rows, self.lattice) for edge in self.edges)
        return Needs(np.ones(self.features, dtype=bool), rows, demands)

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        return replace(self, domain=domain, edges=all_there(self, edges))

    def reads(self, graph: Graph, read: np.ndarray) -> Sequence[Marks]:
        """Where its edges are read: by the states that are read, and by those that these depend on."""
        places = self._spread(read[None], [np.ones((1, 1), dtype=bool) for _ in self.taps])[0]
        return [Marks(edge, places, self.domain.row0, self.domain.col0) for edge in self.edges]

    def without_unread(self, graph: Graph, read: np.ndarray) -> Node:
        return self

    def reordered(self, order: Order, height: int, width: int) -> Node:
        offsets, cell = [order.offset(*offset) for offset in self.offsets], order.offset(*self.cell)
        sweep = direction([*offsets, cell])
        if sweep is None:
            raise NotAutoregressive(
                f"not autoregressive in the order {order.name!r}: the recurrence of layer {self.layer!r} ({self.name}) "
                f"reads its own states at the offsets {self.offsets} and its cell at {self.cell} "
                "(rows, columns), of which some are not there yet. Check order=; a module that runs over its image in another "
                "order flips or transposes it before the recurrence, and the states back after it",
                layer=self.layer,
                node=self.name,
                offset=self.cell,
            )
        taps = tuple(replace(tap, row=row, col=col) for tap, (row, col) in zip(self.taps, offsets, strict=True))
        return replace(self, taps=taps, cell=cell, sweep=sweep)

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        """One place for all states, where the last of their gates is known."""
        seen = np.concatenate([lags_through(edge, lags, channels) for edge in self.edges])
        gates = seen.reshape(4, self.features).max(0)
        position = int(gates.max()) // channels
        if self.sweep < 0 and gates.max() > NEVER // 2:
            row, col = decode(position)
            position = (row if col <= START // 2 else row + 1) * ROW + START
        return np.where(gates // channels < position, position * channels, gates)

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()

    # ---------------------------------------------------------------- lowering

    def lower(self, at: LoweringContext) -> None:
        """No arithmetic of its own, but a product over its states before, and two expressions.

            sums  = product of the states at the taps            (4F: what they add to the gates o, f, i, g)
            cell  = sigmoid(f) . cell before + sigmoid(i) . tanh(g)
            state = sigmoid(o) . tanh(cell)

        Taps on rows above are summed for the whole row when it starts. The rest runs column by column: where pixels are drawn
        that is so anyway; in a row that is computed at once, it is a sweep. The first product is no part of it, so that two
        sweeps never meet.
        """
        count = 4 * self.features
        sums, cells = at.buffer(f"{self.name}_sums", count), at.buffer(f"{self.name}_cells", self.features)
        whole = Slot(sums, 0, count)
        at.row.append(at.instruction(whole, self._product(at, above=True, bias=np.zeros(count, np.float32))))
        parts = at.parts()
        sweep = self.sweep if at.piece.phase == "row" else 0
        if any(tap.row == 0 for tap in self.taps):  # all states before are there in the first step of a pixel
            parts[0].instructions.append(at.instruction(whole, self._product(at, above=False, bias=None), sweep=sweep))
        for part in parts:
            for out, gates in self._gates(at, part):
                added = [Slot(sums, gate * self.features + out.channel, out.count) for gate in range(4)]
                cell, before = replace(out, buffer=cells), Slot(cells, out.channel, out.count, *self.cell)
                paired = [slot for gate in (1, 2, 3) for slot in (gates[gate], added[gate])]
                part.instructions.append(at.instruction(cell, Map((*paired, before), CELL), sweep=sweep))
                part.instructions.append(at.instruction(out, Map((gates[0], added[0], cell), STATE), sweep=sweep))

    def _product(self, at: LoweringContext, above: bool, bias: np.ndarray | None) -> Product:
        """What the states on rows above, or on the own row, add to all gates, in the order of the buffers."""
        gates = (np.arange(4)[:, None] * self.features + at.ordered).reshape(-1)
        taps = [tap for tap in self.taps if (tap.row < 0) == above]
        rows = [np.zeros((0, len(gates)), np.float32), *(tap.weights[at.ordered][:, gates] for tap in taps)]
        slots = tuple(replace(at.out, row=tap.row, col=tap.col) for tap in taps)
        return Product(slots, np.ascontiguousarray(np.concatenate(rows)), bias)

    def _gates(self, at: LoweringContext, part: Part) -> Iterator[tuple[Slot, list[Slot]]]:
        """Runs of states whose four gates each stand side by side in one buffer: where the states are, and their gates."""
        edge_of = np.concatenate([np.full(len(edge.channels), i) for i, edge in enumerate(self.edges)])
        channels = np.concatenate([edge.channels for edge in self.edges])
        places = np.concatenate([at.places(edge, edge.channels) for edge in self.edges])
        keys = np.concatenate([edge_of[:, None], places], 1)  # of each gate: edge, buffer and channel
        gates = [gate * self.features + part.features for gate in range(4)]
        breaks = [np.flatnonzero((np.diff(keys[gate], axis=0) != (0, 0, 1)).any(1)) + 1 for gate in gates]
        bounds = sorted({0, len(part.features), *np.concatenate(breaks).tolist()})
        for first, last in pairwise(bounds):
            slots = [at.slot(self.edges[edge_of[gate[first]]], channels[gate[first:last]]) for gate in gates]
            yield replace(part.out, channel=part.out.channel + first, count=last - first), slots


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
    result = np.full_like(maps, blank)
    r0, r1, c0, c1 = max(0, -row), min(rows, rows - row), max(0, -col), min(cols, cols - col)
    if r0 < r1 and c0 < c1:
        result[:, r0:r1, c0:c1] = maps[:, r0 + row : r1 + row, c0 + col : c1 + col]
    return result
