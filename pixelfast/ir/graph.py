"""The graph: what a traced model computes, as a few kinds of node over the image grid.

Every node gives F features at the elements (row, col) of a rectangle in pixels of the image that lie on its lattice: a map
of half the resolution has elements at every second row and column. So the taps of a strided convolution have constant
offsets, and those of a transposed one too, since off the lattice of what they read they add nothing. Layout operations
(view, permute, split, cat, pad, crop, shift, roll) leave no node: they become channel lists and offsets on the edges. What
does not depend on the image is a field: numbers known before sampling starts, or once per call where conditions enter.

Letters: N images, C channels, H rows, W columns, K levels, F features, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


Leaf = Edge | FieldEdge | np.ndarray | float


@dataclass(frozen=True)
class Node:
    """What all nodes have: `name` in the traced graph, `layer` in the user's model, features, rectangle and lattice."""

    name: str
    layer: str
    features: int
    domain: Rect
    lattice: Lattice = field(default=EVERYWHERE, kw_only=True)


@dataclass(frozen=True)
class Input(Node):
    """Image values as features: feature f is table[f, value of channel channels[f]]; tables are (F, K), float64."""

    channels: np.ndarray
    table: np.ndarray


@dataclass(frozen=True)
class Tap:
    """weights (len(edge.channels), F): what an edge adds to each feature."""

    edge: Edge
    weights: np.ndarray


@dataclass(frozen=True)
class TapConv(Node):
    """bias (F,) plus a matrix for each tap: convolutions, 1x1, linear layers."""

    taps: tuple[Tap, ...]
    bias: np.ndarray


@dataclass(frozen=True)
class Pointwise(Node):
    """An expression over aligned channels; each edge has F channels, or one channel that is broadcast."""

    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class ChannelReduce(Node):
    """One feature: a reduction over all channels of the edges."""

    edges: tuple[Edge, ...]
    kind: str
    correction: float


@dataclass(frozen=True)
class ChannelNorm(Node):
    """Layer normalisation over channels, with scale and shift (F,)."""

    edges: tuple[Edge, ...]
    scale: np.ndarray
    shift: np.ndarray
    eps: float


@dataclass(frozen=True)
class Gather(Node):
    """The channels of all edges side by side, in order, computed together when the last of them is there."""

    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class CausalAttention(Node):
    """Each pixel's mean of values at the pixels that it may look at, weighted by the softmax of scores, head by head.

    The score of a key is scale * (query . key) + bias. Queries have heads * E channels, E of them each head's; the cache
    holds heads * E channels of keys and then heads * D channels of values; the result has heads * D.

    Attributes:
        query: the asking pixel's own channels.
        cache: keys and values; its offset is the latest, in raster order, at which any pixel looks at another.
        seen: for each mask (one, or one for each head) and asking pixel, the pixels that it looks at; numbers are raster
            order over the whole image. Where there are none the result is 0.
        bias: (1 or heads, keys in the order of `seen`), or None.
        refusal: why no engine can compute it, if none can; what it depends on is known all the same.
    """

    query: Edge
    cache: Edge
    heads: int
    scale: float
    seen: Keys
    bias: np.ndarray | None
    refusal: str = ""

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

    edges: tuple[Edge, ...]
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
            for edge in edges_of(node):
                source = self.nodes[edge.source]
                assert edge.source < index, f"{node.name} reads {source.name}, which comes later"
                assert edge.channels.size > 0
                assert 0 <= edge.channels.min() <= edge.channels.max() < source.features
                assert source.domain.contains(edge.rect), f"{node.name} reads {source.name} outside its rectangle"
            match node:
                case TapConv():
                    for tap in node.taps:
                        assert tap.weights.shape == (len(tap.edge.channels), node.features)
                case Pointwise():
                    for leaf in node.leaves:
                        if isinstance(leaf, (Edge, FieldEdge)):
                            assert len(leaf.channels) in (1, node.features), f"{node.name}: unaligned leaf"
                        elif isinstance(leaf, np.ndarray):
                            assert leaf.shape == (node.features,)
                case Gather():
                    assert sum(len(edge.channels) for edge in node.edges) == node.features
                case CausalAttention():
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
            reads = ", ".join(f"%{e.source}[{len(e.channels)}]@({e.row:+d},{e.col:+d})" for e in edges_of(node)[:6])
            more = "" if len(edges_of(node)) <= 6 else f", ... {len(edges_of(node))} edges"
            where = f"  # {node.layer}" if node.layer else ""
            steps = "" if node.lattice.everywhere else f" in steps of {node.lattice.row_step} x {node.lattice.col_step}"
            lines.append(f"  %{index} = {type(node).__name__}({reads}{more}) -> {node.features} features{steps}{where}")
        return "\n".join(lines)


def edges_of(node: Node) -> list[Edge]:
    """The edges that a node reads, in order; what a recurrence reads of itself is none."""
    match node:
        case TapConv():
            return [tap.edge for tap in node.taps]
        case Pointwise():
            return [leaf for leaf in node.leaves if isinstance(leaf, Edge)]
        case ChannelReduce() | ChannelNorm() | Gather() | Scan():
            return list(node.edges)
        case CausalAttention():
            return [node.query, node.cache]
        case _:
            return []
