"""Convolutions: a sum of products with known matrices, each at a constant offset; also 1x1 convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..ir.geometry import Lattice, Rect
from ..ir.graph import Edge, Graph, Node
from ..ir.program import Instruction, Lookup, Pixel, Product, Slot
from .base import Demand, Marks, Needs
from .evaluation import Evaluation
from .input import Input
from .lags import NEVER, lags_through
from .lowering_context import LoweringContext
from .shared import Local
from .times import Reach, Step, Times, latest, through


@dataclass(frozen=True)
class TapConv(Local):
    """bias (F,) plus a matrix for each edge, weights[i] (channels of edges[i], F): convolutions, 1x1, linear layers."""

    weights: tuple[np.ndarray, ...]
    bias: np.ndarray

    keeps_order = False
    looks_up = True

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

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        reaches = []
        for edge, weights in self.taps:
            live = weights != 0
            classes = times[edge.source].classes[edge.channels]
            reaches += [Reach(edge, int(number), live[classes == number].any(0)) for number in np.unique(classes)]
        return through(self, reaches, times)

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        _, feature, row, col = element
        channels = [edge.channels[weights[:, feature] != 0] for edge, weights in self.taps]
        return latest(self.edges, channels, times, row, col, limit)

    def without(self, graph: Graph, reader: Step, source: Step) -> Sequence[Node]:
        _, feature, row, col = reader
        weights = list(self.weights)
        for i, edge in enumerate(self.edges):
            if (edge.source, row + edge.row, col + edge.col) == (source[0], source[2], source[3]):
                weights[i] = weights[i].copy()
                weights[i][edge.channels == source[1], feature] = 0
        return [replace(self, weights=tuple(weights))]

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        flat = marks.reshape(len(marks), -1).astype(np.float32)
        result = []
        for edge, weights in self.taps:
            reached = ((weights != 0).astype(np.float32) @ flat > 0).reshape(-1, *marks.shape[1:])
            result.append(Marks(edge, reached, self.domain.row0, self.domain.col0))
        return result

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        live = [edge.channels[weights[:, kept].any(1)] for edge, weights in self.taps]
        return Needs(kept, domain, tuple(Demand(channels, domain, self.lattice) for channels in live))

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        there = [edge for edge in edges if edge is not None]
        result = []
        for edge, weights in zip(edges, self.weights, strict=True):
            if edge is not None:
                weights = weights if kept.all() else weights[:, kept]  # many, in large models: no copy if none
                live = weights.any(1)
                result.append(weights if live.all() else np.ascontiguousarray(weights[live]))
        return replace(
            self, features=int(kept.sum()), domain=domain, edges=tuple(there), weights=tuple(result), bias=self.bias[kept]
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

    # ---------------------------------------------------------------- lowering

    def lower(self, at: LoweringContext) -> None:
        """One product for a row; for pixels, one of what is known when their row starts, and one of the rest in each step."""
        above, beside = self._sources(at)
        bias = self.bias[at.ordered]
        if at.piece.phase == "row":
            _add_products(at, at.row, at.out, above + beside, bias)
            return
        parts = at.parts()
        split = bool(above) or any(not _live(beside, part.out) for part in parts)
        if split:
            _add_products(at, at.row, at.out, above, bias)
        for part in parts:
            sources = _live(beside, part.out)
            if sources or not split:
                _add_products(at, part.instructions, part.out, sources, None if split else self.bias[part.features])

    def _sources(self, at: LoweringContext) -> tuple[list[Weighted], list[Weighted]]:
        """Sources with weights in buffer order: those known when a row starts, and those on the pixel's own row."""
        above: list[Weighted] = []
        beside: list[Weighted] = []
        for edge, matrix in self.taps:
            weights = matrix[:, at.ordered]
            table = at.looked_up(edge)
            if table is not None:
                row, col = edge.row - at.piece.row, edge.col - at.piece.col
                (above if row < 0 else beside).extend(_looked_up(table, edge, weights, row, col))
                continue
            live = np.flatnonzero(weights.any(1))
            for run in at.runs(edge, edge.channels[live]):
                known = at.known_with_row(run.slot)
                (above if known else beside).append(Weighted(run.slot, weights[live[run.members]]))
        return above, beside


class Weighted(NamedTuple):
    """A source and what it is multiplied by: weights (count, out) for a slot, a table (K, out) for a pixel."""

    source: Slot | Pixel
    weights: np.ndarray


def _looked_up(source: Node, edge: Edge, weights: np.ndarray, row: int, col: int) -> Iterator[Weighted]:
    """What the channels of an input add, as tables of the values of each channel of the image at (row, col)."""
    assert isinstance(source, Input)
    channels = source.channels[edge.channels]
    for channel in np.unique(channels):
        mine = channels == channel
        table = source.table[edge.channels[mine]].T @ weights[mine].astype(np.float64)
        yield Weighted(Pixel(row, col, int(channel)), table.astype(np.float32))


def _live(sources: Sequence[Weighted], out: Slot) -> list[Weighted]:
    """The sources that add something to some columns of the output, without the channels that add nothing."""
    result = []
    for source in sources:
        weights = source.weights[:, out.channel : out.channel + out.count]
        if isinstance(source.source, Pixel):
            if weights.any():
                result.append(Weighted(source.source, weights))
            continue
        used = np.flatnonzero(weights.any(1))
        if not len(used):
            continue
        for part in np.split(used, np.flatnonzero(np.diff(used) != 1) + 1):
            slot = replace(source.source, channel=source.source.channel + int(part[0]), count=len(part))
            result.append(Weighted(slot, weights[part]))
    return result


def _add_products(
    at: LoweringContext, to: list[Instruction], out: Slot, sources: Sequence[Weighted], bias: np.ndarray | None
) -> None:
    """A product over what there is everywhere, to which are added products over what there is on lattices only."""
    lasting = [source for source in sources if isinstance(source.source, Pixel) or at.everywhere(source.source)]
    passing = [source for source in sources if not any(source is other for other in lasting)]
    if lasting or not passing:
        _add_product(at, to, at.lattice, out, lasting, bias)
        bias = None
    for lattice, reads in at.lattices([source.source for source in passing if isinstance(source.source, Slot)]):
        live = [source for source, read in zip(passing, reads, strict=True) if read]
        if live or bias is not None:
            _add_product(at, to, lattice, out, live, bias)


def _add_product(
    at: LoweringContext, to: list[Instruction], lattice: Lattice, out: Slot, sources: Sequence[Weighted],
    bias: np.ndarray | None,
) -> None:  # fmt: skip
    """A product over buffers and a sum of looked-up rows."""
    slots = [(each.source, each.weights) for each in sources if isinstance(each.source, Slot)]
    pixels = [(each.source, each.weights) for each in sources if isinstance(each.source, Pixel)]
    if slots or bias is not None:
        weights = np.concatenate([weights for _, weights in slots]) if slots else np.zeros((0, out.count), np.float32)
        vector = None if bias is None else np.ascontiguousarray(bias, dtype=np.float32)
        body = Product(tuple(slot for slot, _ in slots), np.ascontiguousarray(weights), vector)
        to.append(at.instruction(out, body, lattice))
    if pixels:
        lookup = Lookup(tuple(pixel for pixel, _ in pixels), np.stack([weights for _, weights in pixels]))
        to.append(at.instruction(out, lookup, lattice))
