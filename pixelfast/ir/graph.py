"""The graph: what a traced model computes, as nodes over the image grid, of the kinds in `pixelfast.ops`.

Every node gives F features at the elements (row, col) of a rectangle in pixels of the image that lie on its lattice: a map
of half the resolution has elements at every second row and column. So the taps of a strided convolution have constant
offsets, and those of a transposed one too, since off the lattice of what they read they add nothing. Layout operations
(view, permute, split, cat, pad, crop, shift, roll) leave no node: they become channel lists and offsets on the edges. What
does not depend on the image is a field: numbers known before sampling starts, or once per call where conditions enter.

Letters: N images, C channels, H rows, W columns, K levels, F features, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from .geometry import EVERYWHERE, Lattice, Rect
from .text import at, counted, listed

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

    def __str__(self) -> str:
        channels, height, width = self.shape
        lines = [f"graph of a model over {channels} x {height} x {width} images with {self.levels} levels"]
        for index, node in enumerate(self.nodes):
            where = f"  # {node.layer}" if node.layer else ""
            steps = "" if node.lattice.everywhere else f" in steps of {node.lattice.row_step} x {node.lattice.col_step}"
            size = counted(node.features, "feature")
            lines.append(f"  %{index} = {type(node).__name__}({_reads(node.edges)}) -> {size}{steps}{where}")
        lines += [f"  parameters of channel {channel} = {_reads(edges)}" for channel, edges in enumerate(self.outputs)]
        return "\n".join(lines)


def _reads(edges: tuple[Edge, ...]) -> str:
    """Each edge as %source[number of channels], with the offset at which it reads unless that is (0, 0)."""
    return listed([f"%{edge.source}[{len(edge.channels)}]{at(edge.row, edge.col)}" for edge in edges])
