"""The graph: what a traced model computes, as a few kinds of node over the image grid.

Every node gives F features at the elements (row, col) of a rectangle in pixels of the image that lie on its lattice: a map
of half the resolution has elements at every second row and column. So the taps of a strided convolution have constant
offsets, and those of a transposed one too, since off the lattice of what they read they add nothing. Layout operations
(view, permute, split, cat, pad, crop, shift, roll) leave no node: they become channel lists and offsets on the edges. What
does not depend on the image is a field: numbers known before sampling starts, or once per call where conditions enter.

Letters: N images, C channels, H rows, W columns, K levels, F features, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .program import EVERYWHERE, Keys, Lattice, Op, Rect

NodeId = int


@dataclass(frozen=True)
class Edge:
    """Channels of another node, read at (row, col) from the reader's position.

    Zero outside `rect` (in source pixels), and off the source's lattice.
    """

    source: NodeId
    row: int
    col: int
    channels: np.ndarray
    rect: Rect


@dataclass(frozen=True)
class FieldEdge:
    """Channels of a field, read at the reader's own position."""

    field: int
    channels: np.ndarray


@dataclass(frozen=True)
class Node:
    """What all nodes have: `name` in the traced graph, `layer` in the user's model, features, rectangle, edges and lattice.

    The edges are all that a node reads of other nodes, in order.
    """

    name: str
    layer: str
    features: int
    domain: Rect
    edges: tuple[Edge, ...]
    lattice: Lattice = field(default=EVERYWHERE, kw_only=True)

    def with_edges(self, edges: Iterable[Edge]) -> Node:
        """The node with other edges, as many as before."""
        return replace(self, edges=tuple(edges))


@dataclass(frozen=True)
class Input(Node):
    """Image values as features: feature f is table[f, value of channel channels[f]]; tables are (F, K), float64."""

    channels: np.ndarray
    table: np.ndarray


@dataclass(frozen=True)
class TapConv(Node):
    """bias (F,) plus a matrix for each edge, weights[i] (channels of edges[i], F): convolutions, 1x1, linear layers."""

    weights: tuple[np.ndarray, ...]
    bias: np.ndarray

    @property
    def taps(self) -> list[tuple[Edge, np.ndarray]]:
        """Each edge and what it is multiplied by."""
        return list(zip(self.edges, self.weights, strict=True))


@dataclass(frozen=True)
class Read:
    """A leaf that is what the node's edge of this number reads."""

    edge: int


Leaf = Read | FieldEdge | np.ndarray | float
Operand = Edge | FieldEdge | np.ndarray | float
"""A leaf with the edge itself in the place of its number."""


@dataclass(frozen=True)
class Pointwise(Node):
    """An expression over aligned channels; each edge has F channels, or one channel that is broadcast, and is one leaf."""

    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]

    @staticmethod
    def of(
        name: str, layer: str, features: int, domain: Rect, operands: Sequence[Operand], ops: Sequence[Op],
        lattice: Lattice = EVERYWHERE,
    ) -> Pointwise:  # fmt: skip
        """The expression over operands, of which edges become the node's."""
        return Pointwise(name, layer, features, domain, (), (), (), lattice=lattice).with_operands(operands, ops)

    @property
    def operands(self) -> tuple[Operand, ...]:
        return tuple(self.edges[leaf.edge] if isinstance(leaf, Read) else leaf for leaf in self.leaves)

    def with_operands(self, operands: Sequence[Operand], ops: Sequence[Op]) -> Pointwise:
        """The node with another expression."""
        edges: list[Edge] = []
        leaves: list[Leaf] = []
        for operand in operands:
            if isinstance(operand, Edge):
                leaves.append(Read(len(edges)))
                edges.append(operand)
            else:
                leaves.append(operand)
        return replace(self, edges=tuple(edges), leaves=tuple(leaves), ops=tuple(ops))


@dataclass(frozen=True)
class ChannelReduce(Node):
    """One feature: a reduction over all channels of the edges."""

    kind: str
    correction: float


@dataclass(frozen=True)
class ChannelNorm(Node):
    """Layer normalisation over channels, with scale and shift (F,)."""

    scale: np.ndarray
    shift: np.ndarray
    eps: float


@dataclass(frozen=True)
class Gather(Node):
    """The channels of all edges side by side, in order, computed together when the last of them is there."""


@dataclass(frozen=True)
class CausalAttention(Node):
    """Each pixel's mean of values at the pixels that it may look at, weighted by the softmax of scores, head by head.

    Its two edges are the query, the asking pixel's own channels, and the cache, keys and values, whose offset is the latest,
    in raster order, at which any pixel looks at another.

    The score of a key is scale * (query . key) + bias. Queries have heads * E channels, E of them each head's; the cache
    holds heads * E channels of keys and then heads * D channels of values; the result has heads * D.

    Attributes:
        seen: for each mask (one, or one for each head) and asking pixel, the pixels that it looks at; numbers are raster
            order over the whole image. Where there are none the result is 0.
        bias: (1 or heads, keys in the order of `seen`), or None.
        refusal: why no engine can compute it, if none can; what it depends on is known all the same.
    """

    heads: int
    scale: float
    seen: Keys
    bias: np.ndarray | None
    refusal: str = ""

    @property
    def query(self) -> Edge:
        return self.edges[0]

    @property
    def cache(self) -> Edge:
        return self.edges[1]

    @property
    def size(self) -> int:
        """E, channels of a head's queries and keys."""
        return len(self.query.channels) // self.heads


@dataclass(frozen=True)
class StateTap:
    """weights (F, 4F): what the states at (row, col) from a pixel add to its gates."""

    row: int
    col: int
    weights: np.ndarray


@dataclass(frozen=True)
class Scan(Node):
    """States of an LSTM over pixels (see `pixelfast.ops.recurrence`); what it reads of itself is zero outside its rectangle.

    The edges hold the input's part of the gates o, f, i, g: 4F channels. `cell` is the (row, col) offset of the cell before.
    Columns of a row come in any order (sweep 0), from the left (1) or from the right (-1).
    """

    taps: tuple[StateTap, ...]
    cell: tuple[int, int]
    sweep: int


@dataclass(frozen=True)
class FieldSpec:
    """Numbers without the image: float32 (1 or 2, rows or 1, cols or 1, F), at rows from row0 and columns from col0.

    `value` holds them, or `output` and `index` say which output of the condition graph to gather them from, for two images
    at a time (index into the flattened output).
    """

    row0: int
    col0: int
    value: np.ndarray | None
    output: int = -1
    index: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        array = self.value if self.value is not None else self.index
        assert array is not None
        return array.shape


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of computation, and for each image channel the edges whose channels are its P parameters."""

    shape: tuple[int, int, int]
    levels: int
    nodes: tuple[Node, ...]
    fields: tuple[FieldSpec, ...]
    outputs: tuple[tuple[Edge, ...], ...]
    dense_macs: int

    @property
    def image(self) -> Rect:
        return Rect(0, self.shape[1], 0, self.shape[2])

    def verify(self) -> None:
        """Check the invariants that later stages rely on; an AssertionError here is a bug of pixelfast's."""
        for index, node in enumerate(self.nodes):
            assert node.lattice.within(node.domain) == node.domain, f"{node.name}: no element at its rectangle's border"
            for edge in node.edges:
                source = self.nodes[edge.source]
                assert edge.source < index, f"{node.name} reads {source.name}, which comes later"
                assert edge.channels.size > 0
                assert 0 <= edge.channels.min() <= edge.channels.max() < source.features
                assert source.domain.contains(edge.rect), f"{node.name} reads {source.name} outside its rectangle"
            match node:
                case TapConv():
                    for edge, weights in node.taps:
                        assert weights.shape == (len(edge.channels), node.features)
                case Pointwise():
                    assert [leaf.edge for leaf in node.leaves if isinstance(leaf, Read)] == list(range(len(node.edges)))
                    for leaf in node.operands:
                        if isinstance(leaf, (Edge, FieldEdge)):
                            assert len(leaf.channels) in (1, node.features), f"{node.name}: unaligned leaf"
                        elif isinstance(leaf, np.ndarray):
                            assert leaf.shape == (node.features,)
                case Gather():
                    assert sum(len(edge.channels) for edge in node.edges) == node.features
                case CausalAttention():
                    assert len(node.edges) == 2
                    assert len(node.cache.channels) == len(node.query.channels) + node.features
                case Scan():
                    assert sum(len(edge.channels) for edge in node.edges) == 4 * node.features
                    for state in node.taps:
                        assert state.weights.shape == (node.features, 4 * node.features)
                case _:
                    pass

    def __str__(self) -> str:
        channels, height, width = self.shape
        lines = [f"graph of a model over {channels} x {height} x {width} images with {self.levels} levels"]
        for index, node in enumerate(self.nodes):
            reads = ", ".join(f"%{e.source}[{len(e.channels)}]@({e.row:+d},{e.col:+d})" for e in node.edges[:6])
            more = "" if len(node.edges) <= 6 else f", ... {len(node.edges)} edges"
            where = f"  # {node.layer}" if node.layer else ""
            steps = "" if node.lattice.everywhere else f" in steps of {node.lattice.row_step} x {node.lattice.col_step}"
            lines.append(f"  %{index} = {type(node).__name__}({reads}{more}) -> {node.features} features{steps}{where}")
        return "\n".join(lines)
