"""Reductions over channels: sums, means, maxima, variances, at each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..ir.graph import Edge
from ..ir.program import Reduce
from .evaluation import Evaluation
from .lowering_context import LoweringContext
from .shared import Mixing


@dataclass(frozen=True)
class ChannelReduce(Mixing):
    """One feature: a reduction over all channels of the edges; `kind` is one of `pixelfast.ir.program.REDUCTIONS`."""

    kind: str
    correction: float

    keeps_order = False
    looks_up = False

    def check(self) -> None:
        assert self.features == 1
        assert self.kind in _REDUCTIONS

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        return _REDUCTIONS[self.kind](evaluation.read_all(self.edges, self.domain), self.correction)

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()

    def lower(self, at: LoweringContext) -> None:
        (part,) = at.parts()
        sources = tuple(run.slot for edge in self.edges for run in at.runs(edge, edge.channels))
        part.instructions.append(at.instruction(part.out, Reduce(self.kind, sources, self.correction)))


_REDUCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": lambda x, _: x.mean(-1, keepdim=True),
    "sum": lambda x, _: x.sum(-1, keepdim=True),
    "var": lambda x, correction: x.var(-1, correction=correction, keepdim=True),
    "amax": lambda x, _: x.amax(-1, keepdim=True),
    "amin": lambda x, _: x.amin(-1, keepdim=True),
    "logsumexp": lambda x, _: x.logsumexp(-1, keepdim=True),
}
"""The definition of each kind; the second argument is the correction of a variance."""
