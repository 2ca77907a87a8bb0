"""Channels of several nodes side by side, in order: what attention asks with and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..ir.graph import Edge, Graph
from ..ir.program import Map
from .base import Marks
from .evaluation import Evaluation
from .lowering_context import LoweringContext
from .shared import Together
from .times import Reach, Step, Times, latest, through


@dataclass(frozen=True)
class Gather(Together):
    """The channels of all edges side by side, in order, computed together when the last of them is there."""

    keeps_order = True
    looks_up = False

    def check(self) -> None:
        assert sum(len(edge.channels) for edge in self.edges) == self.features

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        return evaluation.read_all(self.edges, self.domain)

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        reaches = []
        for edge, first in zip(self.edges, self._first(), strict=True):
            classes = np.full(self.features, -1)
            classes[first : first + len(edge.channels)] = own = times[edge.source].classes[edge.channels]
            reaches += [Reach(edge, int(number), classes == number) for number in np.unique(own)]
        return through(self, reaches, times)

    def _first(self) -> list[int]:
        """The first feature of each edge."""
        return [0, *np.cumsum([len(edge.channels) for edge in self.edges])[:-1].tolist()]

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        _, feature, row, col = element
        channels = [
            edge.channels[feature - first :][:1] if feature >= first else edge.channels[:0]
            for edge, first in zip(self.edges, self._first(), strict=True)
        ]
        return latest(self.edges, channels, times, row, col, limit)

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        return [
            Marks(edge, marks[first : first + len(edge.channels)], self.domain.row0, self.domain.col0)
            for edge, first in zip(self.edges, self._first(), strict=True)
        ]

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()

    def lower(self, at: LoweringContext) -> None:
        """Copies, in the order of the edges, which is that of the buffer."""
        (part,) = at.parts()
        first = 0
        for edge in self.edges:
            for slot in at.ordered_runs(edge):
                out = replace(part.out, channel=first, count=slot.count)
                part.instructions.append(at.instruction(out, Map((slot,), ())))
                first += slot.count
