"""Convolutions: a sum of products with known matrices, each at a constant offset; also 1x1 convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..ir.geometry import Rect
from ..ir.graph import Edge, Node
from .base import Demand, Marks, Needs
from .evaluation import Evaluation
from .lags import NEVER, lags_through
from .shared import Local
from .times import Reach, Step, Times, latest, through


@dataclass(frozen=True)
class TapConv(Local):
    """bias (F,) plus a matrix for each edge, weights[i] (channels of edges[i], F): convolutions, 1x1, linear layers."""

    weights: tuple[np.ndarray, ...]
    bias: np.ndarray

    keeps_order = False

    @property
    def taps(self) -> list[tuple[Edge, np.ndarray]]:
        """Each edge and what it is multiplied by."""
        return list(zip(self.edges, self.weights, strict=True))

    def check(self) -> None:
        assert self.bias.shape == (self.features,)
        for edge, weights in self.taps:
            assert weights.shape == (len(edge.channels), self.features)

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        total = torch.from_numpy(self.bias).double().expand(len(evaluation.images), *self.domain.size, -1)
        for edge, weights in self.taps:
            total = total + evaluation.read(edge, self.domain) @ torch.from_numpy(weights).double()
        return total

    def times(self, shape: tuple[int, int, int], times: Sequence[Times]) -> Times:
        reaches = []
        for edge, weights in self.taps:
            live = weights != 0
            classes = times[edge.source].classes[edge.channels]
            reaches += [Reach(edge, int(number), live[classes == number].any(0)) for number in np.unique(classes)]
        return through(self, reaches, times)

    def cause(self, number: int, times: Sequence[Times], element: tuple[int, int, int], limit: int) -> Step:
        feature, row, col = element
        channels = [edge.channels[weights[:, feature] != 0] for edge, weights in self.taps]
        return latest(self.edges, channels, times, row, col, limit)

    def without(self, image: Rect, reader: Step, source: Step) -> Sequence[Node]:
        _, feature, row, col = reader
        weights = list(self.weights)
        for i, edge in enumerate(self.edges):
            if (edge.source, row + edge.row, col + edge.col) == (source[0], source[2], source[3]):
                weights[i] = weights[i].copy()
                weights[i][edge.channels == source[1], feature] = 0
        return [replace(self, weights=tuple(weights))]

    def reach(self, image: Rect, marks: np.ndarray) -> Sequence[Marks]:
        flat = marks.reshape(len(marks), -1).astype(np.float32)
        found = []
        for edge, weights in self.taps:
            reached = ((weights != 0).astype(np.float32) @ flat > 0).reshape(-1, *marks.shape[1:])
            found.append(Marks(edge, reached, self.domain.row0, self.domain.col0))
        return found

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        live = [edge.channels[weights[:, kept].any(1)] for edge, weights in self.taps]
        return Needs(kept, domain, tuple(Demand(channels, domain, self.lattice) for channels in live))

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        there = [edge for edge in edges if edge is not None]
        found = []
        for edge, weights in zip(edges, self.weights, strict=True):
            if edge is not None:
                weights = weights if kept.all() else weights[:, kept]  # many, in large models: no copy if none
                live = weights.any(1)
                found.append(weights if live.all() else np.ascontiguousarray(weights[live]))
        return replace(
            self, features=int(kept.sum()), domain=domain, edges=tuple(there), weights=tuple(found), bias=self.bias[kept]
        )

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        lag = np.full(self.features, NEVER, dtype=np.int64)
        for edge, weights in self.taps:
            seen = lags_through(edge, lags, channels)
            lag = np.maximum(lag, np.where(weights != 0, seen[:, None], NEVER).max(0))
        return lag

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()
