"""Answers that several kinds of node share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir.geometry import Rect
from ..ir.graph import Edge, Graph, Node
from ..ir.scan_order import Order
from .base import Demand, Marks, Needs, Operation
from .lags import latest_lag
from .times import Reach, Step, Times, latest, through


@dataclass(frozen=True)
class Local(Operation, abstract=True):
    """Nodes whose elements read at constant offsets from their own place, each for itself."""

    chooses_pixels = False

    def without(self, graph: Graph, reader: Step, source: Step) -> Sequence[Node]:
        return ()

    def reads(self, graph: Graph, read: np.ndarray) -> Sequence[Marks]:
        return [Marks(edge, read, self.domain.row0, self.domain.col0) for edge in self.edges]

    def without_unread(self, graph: Graph, read: np.ndarray) -> Node:
        return self

    def reordered(self, order: Order, height: int, width: int) -> Node:
        return self


@dataclass(frozen=True)
class Together(Local, abstract=True):
    """Nodes whose features are all computed at once, when all channels of all edges are there."""

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        demands = tuple(Demand(edge.channels, domain, self.lattice) for edge in self.edges)
        return Needs(np.ones(self.features, dtype=bool), domain, demands)

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        return replace(self, domain=domain, edges=all_there(self, edges))

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        return np.full(self.features, latest_lag(self.edges, lags, channels), dtype=np.int64)


@dataclass(frozen=True)
class Mixing(Together, abstract=True):
    """Nodes whose every feature depends on all channels of all edges."""

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        everything = np.ones(self.features, dtype=bool)
        reaches = [
            Reach(edge, int(number), everything)
            for edge in self.edges
            for number in np.unique(times[edge.source].classes[edge.channels])
        ]
        return through(self, reaches, times)

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        _, _, row, col = element
        return latest(self.edges, [edge.channels for edge in self.edges], times, row, col, limit)

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        some = marks.any(0)
        return [
            Marks(edge, np.broadcast_to(some, (len(edge.channels), *some.shape)), self.domain.row0, self.domain.col0)
            for edge in self.edges
        ]


def all_there(node: Node, edges: Sequence[Edge | None]) -> tuple[Edge, ...]:
    """The edges of a node that computes nothing without each of them."""
    result = tuple(edge for edge in edges if edge is not None)
    assert len(result) == len(edges), f"{node.name}: an edge reads no element of its source"
    return result
