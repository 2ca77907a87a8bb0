"""Input: values of the image as features, each looked up in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..ir.geometry import Rect
from ..ir.graph import Edge, Graph, Node
from .base import Marks, Needs
from .evaluation import Evaluation
from .lowering_context import LoweringContext
from .shared import Local
from .times import Step, Times


@dataclass(frozen=True)
class Input(Local):
    """Image values as features: feature f is table[f, value of channel channels[f]]; tables are (F, K), float64."""

    channels: np.ndarray
    table: np.ndarray

    keeps_order = False
    looks_up = False

    def check(self) -> None:
        assert not self.edges
        assert len(self.channels) == len(self.table) == self.features

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        d = self.domain
        values = evaluation.images[:, d.row0 : d.row1, d.col0 : d.col1]
        table = torch.from_numpy(self.table).double()
        return torch.stack([table[f][values[..., channel]] for f, channel in enumerate(self.channels.tolist())], -1)

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        channels, _, width = graph.shape
        row = np.arange(self.domain.row0, self.domain.row1)[:, None]
        col = np.arange(self.domain.col0, self.domain.col1)[None, :]
        present, classes = np.unique(self.channels, return_inverse=True)
        maps = (row * width + col) * channels + present[:, None, None]
        return Times(self.domain, maps.astype(np.int32), classes.reshape(-1))

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        raise AssertionError(f"{self.name}: a value of the image depends on no other element")

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        return ()

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        return Needs(np.ones(self.features, dtype=bool), domain, ())

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        return replace(self, domain=domain)

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        return self.channels.astype(np.int64) + 1

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()

    def lower(self, at: LoweringContext) -> None:
        channels = self.channels[at.ordered]
        for run in np.split(np.arange(len(channels)), np.flatnonzero(np.diff(channels)) + 1):
            table = np.ascontiguousarray(self.table[at.ordered[run]], dtype=np.float32)
            out = replace(at.out, channel=int(run[0]), count=len(run))
            at.encode(int(channels[run[0]]), out, table)
