"""Pointwise nodes: an expression over aligned channels of nodes, fields and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..ir.expression import evaluate, without_zeros
from ..ir.geometry import EVERYWHERE, Lattice, Rect
from ..ir.graph import Edge, FieldEdge, Graph, Node
from ..ir.program import Leaf as ProgramLeaf
from ..ir.program import Map, Op, Slot
from .base import Demand, Marks, Needs
from .evaluation import Evaluation
from .lags import NEVER, lags_through
from .live_leaves import known, live_leaves
from .lowering_context import LoweringContext, continues, looked_at
from .shared import Local
from .times import Reach, Step, Times, latest, through


@dataclass(frozen=True)
class Read:
    """A leaf that is what the node's edge of this number reads."""

    edge: int


Leaf = Read | FieldEdge | np.ndarray | float
Operand = Edge | FieldEdge | np.ndarray | float
"""A leaf with the edge itself in the place of its number."""


@dataclass(frozen=True)
class Pointwise(Local):
    """An expression over aligned channels; each edge has F channels, or one channel that is broadcast, and is one leaf."""

    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]

    keeps_order = False
    looks_up = False

    @staticmethod
    def of(
        name: str, layer: str, features: int, domain: Rect, operands: Sequence[Operand], ops: Sequence[Op],
        lattice: Lattice = EVERYWHERE,
    ) -> Pointwise:  # fmt: skip
        """The expression over operands, of which edges become the node's."""
        return Pointwise(name, layer, features, domain, *_apart(operands), tuple(ops), lattice=lattice)

    @property
    def operands(self) -> tuple[Operand, ...]:
        return tuple(self.edges[leaf.edge] if isinstance(leaf, Read) else leaf for leaf in self.leaves)

    def with_operands(self, operands: Sequence[Operand], ops: Sequence[Op]) -> Pointwise:
        """The node with another expression."""
        edges, leaves = _apart(operands)
        return replace(self, edges=edges, leaves=leaves, ops=tuple(ops))

    def check(self) -> None:
        assert [leaf.edge for leaf in self.leaves if isinstance(leaf, Read)] == list(range(len(self.edges)))
        for leaf in self.operands:
            if isinstance(leaf, (Edge, FieldEdge)):
                assert len(leaf.channels) in (1, self.features), f"{self.name}: unaligned leaf"
            elif isinstance(leaf, np.ndarray):
                assert leaf.shape == (self.features,)

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        values = []
        for leaf in self.operands:
            if isinstance(leaf, Edge):
                values.append(evaluation.read(leaf, self.domain))
            elif isinstance(leaf, FieldEdge):
                values.append(evaluation.read_field(leaf, self.domain))
            else:
                values.append(torch.as_tensor(leaf, dtype=torch.float64))
        return evaluate(self.ops, values).expand(len(evaluation.images), *self.domain.size, self.features)

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        reaches = []
        for edge, live in self._live(graph):
            classes = np.broadcast_to(times[edge.source].classes[edge.channels], (self.features,))
            for mask, members in _by_mask(live, self.features):
                numbers = np.unique(classes[members])
                reaches += [Reach(edge, int(number), (classes == number) & members, mask) for number in numbers]
        return through(self, reaches, times)

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        _, feature, row, col = element
        at = (feature, row - self.domain.row0, col - self.domain.col0)
        edges = [edge for edge, live in self._live(graph) if _at(live, at)]
        channels = [edge.channels[feature : feature + 1] if len(edge.channels) > 1 else edge.channels for edge in edges]
        return latest(edges, channels, times, row, col, limit)

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        result = []
        for edge, live in self._live(graph):
            read = marks & live
            some = read if len(edge.channels) == len(read) else np.asarray(read.any(0, keepdims=True))
            result.append(Marks(edge, some, self.domain.row0, self.domain.col0))
        return result

    def _live(self, graph: Graph) -> list[tuple[Edge, np.ndarray]]:
        """Each edge, and where it counts: bool, broadcast to (F, rows, cols)."""
        live = live_leaves(self.leaves, self.ops, graph.fields, self.domain)
        return [(self.edges[leaf.edge], live[i]) for i, leaf in enumerate(self.leaves) if isinstance(leaf, Read)]

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        channels = [edge.channels[kept] if len(edge.channels) > 1 else edge.channels for edge in self.edges]
        return Needs(kept, domain, tuple(Demand(read, domain, self.lattice) for read in channels))

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        operands: list[Operand] = []
        for leaf in self.leaves:
            if isinstance(leaf, Read):
                edge = edges[leaf.edge]
                operands.append(0.0 if edge is None else edge)
            elif isinstance(leaf, FieldEdge):
                operands.append(leaf if len(leaf.channels) == 1 else FieldEdge(leaf.field, leaf.channels[kept]))
            else:
                operands.append(leaf[kept] if isinstance(leaf, np.ndarray) else leaf)
        there, leaves = _apart(operands)
        return replace(self, features=int(kept.sum()), domain=domain, edges=there, leaves=leaves)

    def reads(self, graph: Graph, read: np.ndarray) -> Sequence[Marks]:
        numbers = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Read)]
        return [
            Marks(edge, read & (live & self._multiplied(graph, i)).any(0), self.domain.row0, self.domain.col0)
            for i, (edge, live) in zip(numbers, self._live(graph), strict=True)
        ]

    def _multiplied(self, graph: Graph, leaf: int) -> np.ndarray:
        """Where the known number that a leaf is first multiplied by is not 0, broadcast to (F, rows, cols)."""
        users = [op for op in self.ops if leaf in op.args]
        if len(users) == 1 and users[0].name == "mul":
            others = [self.leaves[arg] for arg in users[0].args if arg != leaf and arg < len(self.leaves)]
            factor = known(others[0], graph.fields, self.domain) if others else None
            if factor is not None:
                return np.asarray(factor != 0)
        return np.ones((1, 1, 1), dtype=bool)

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        lag = np.full(self.features, NEVER, dtype=np.int64)
        for edge in self.edges:
            lag = np.maximum(lag, lags_through(edge, lags, channels))
        return lag

    def order_from(self) -> Edge | None:
        return next(iter(self.order_for()), None)

    def order_for(self) -> Sequence[Edge]:
        return [edge for edge in self.edges if len(np.unique(edge.channels)) == self.features]

    def lower(self, at: LoweringContext) -> None:
        """The expression over runs of features for which every leaf is one run of channels, or broadcast."""
        operands = self.operands
        for part in at.parts():
            cuts = {0, len(part.features)}
            for places in (_places(at, operand, part.features) for operand in operands):
                cuts |= set() if places is None else set((np.flatnonzero(~continues(places)) + 1).tolist())
            for first, last in pairwise(sorted(cuts)):
                leaves = [_leaf(at, operand, part.features[first:last]) for operand in operands]
                out = replace(part.out, channel=part.out.channel + first, count=last - first)
                for lattice, reads in at.lattices([leaf for leaf in leaves if isinstance(leaf, Slot)]):
                    there = iter(reads)
                    live = [0.0 if isinstance(leaf, Slot) and not next(there) else leaf for leaf in leaves]
                    expression = (tuple(live), self.ops) if all(reads) else without_zeros(live, self.ops)
                    part.instructions.append(at.instruction(out, Map(*expression), lattice))


def _apart(operands: Sequence[Operand]) -> tuple[tuple[Edge, ...], tuple[Leaf, ...]]:
    """The edges among some operands, and leaves that name them by number."""
    edges: list[Edge] = []
    leaves: list[Leaf] = []
    for operand in operands:
        if isinstance(operand, Edge):
            leaves.append(Read(len(edges)))
            edges.append(operand)
        else:
            leaves.append(operand)
    return tuple(edges), tuple(leaves)


def _by_mask(live: np.ndarray, features: int) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """The different masks (rows, cols) of `live` (F or 1, rows, cols), and the features (F,) that each belongs to.

    None: the features count everywhere, as nearly all do.
    """
    if live.all():
        return [(None, np.ones(features, dtype=bool))]
    numbers: dict[bytes, int] = {}
    pattern = np.array([numbers.setdefault(mask.tobytes(), len(numbers)) for mask in live])
    members = np.broadcast_to(pattern, (features,))
    return [(live[np.argmax(pattern == number)], members == number) for number in numbers.values()]


def _at(live: np.ndarray, element: tuple[int, int, int]) -> bool:
    """One element of an array that is broadcast to (F, rows, cols)."""
    return bool(live[tuple(min(i, size - 1) for i, size in zip(element, live.shape, strict=True))])


def _places(at: LoweringContext, operand: Operand, features: np.ndarray) -> np.ndarray | None:
    """(buffer or field, channel) that an operand reads for each feature: (features, 2); None if it is the same for all."""
    if isinstance(operand, Edge):
        return at.places(operand, looked_at(operand.channels, features))
    if isinstance(operand, FieldEdge):
        channels = looked_at(operand.channels, features)
        return np.stack([np.zeros_like(channels), channels], 1)
    return None


def _leaf(at: LoweringContext, operand: Operand, features: np.ndarray) -> ProgramLeaf:
    if isinstance(operand, Edge):
        return at.slot(operand, looked_at(operand.channels, features))
    if isinstance(operand, FieldEdge):
        return at.field(operand, looked_at(operand.channels, features))
    return np.ascontiguousarray(operand[features], dtype=np.float32) if isinstance(operand, np.ndarray) else float(operand)
