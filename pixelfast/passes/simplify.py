"""Simplify: from a graph to a smaller graph that computes the same outputs.

`prune` keeps only the elements and channels that reach an output; `fuse` makes one expression of pointwise chains.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ..ir.graph import (
    CausalAttention,
    ChannelNorm,
    ChannelReduce,
    Edge,
    FieldEdge,
    Gather,
    Graph,
    Input,
    Node,
    Operand,
    Pointwise,
    Scan,
    TapConv,
)
from ..ir.program import EVERYWHERE, Lattice, Op, Rect
from .absorb import absorb
from .drop_unread import forget_unread

EMPTY = Rect(0, 0, 0, 0)


def simplify(graph: Graph) -> Graph:
    """Prune, keep crops apart, absorb what is linear, and fuse what is pointwise."""
    graph = prune(graph)
    graph = separate_crops(graph)
    graph = prune(absorb(graph))
    graph = fuse(graph)
    graph.verify()
    return graph


def intersect(a: Rect, b: Rect) -> Rect:
    rect = Rect(max(a.row0, b.row0), min(a.row1, b.row1), max(a.col0, b.col0), min(a.col1, b.col1))
    return EMPTY if rect.empty else rect


def reached(source: Node, edge: Edge, reader: Rect, lattice: Lattice) -> Rect:
    """The elements of `source` that an edge reads, from a rectangle of readers on a lattice: their hull."""
    if not lattice.shifted(edge.row, edge.col).meets(source.lattice):
        return EMPTY
    return source.lattice.within(intersect(reader.shifted(edge.row, edge.col), edge.rect))


# -------------------------------------------------------------------- prune


def prune(graph: Graph) -> Graph:
    """Drop nodes, channels, taps, rows and columns that no output depends on."""
    graph = forget_unread(graph)
    needed = [np.zeros(node.features, dtype=bool) for node in graph.nodes]
    domains = [EMPTY for _ in graph.nodes]

    def need(edge: Edge, reader: Rect, lattice: Lattice, channels: np.ndarray) -> None:
        rect = reached(graph.nodes[edge.source], edge, reader, lattice)
        if rect.empty or not len(channels):
            return
        needed[edge.source][channels] = True
        domains[edge.source] = domains[edge.source].hull(rect)

    for edges in graph.outputs:
        for edge in edges:
            need(edge, graph.image, EVERYWHERE, edge.channels)
    for index in reversed(range(len(graph.nodes))):
        node, kept, domain = graph.nodes[index], needed[index], domains[index]
        lattice = node.lattice
        if not kept.any():
            continue
        match node:
            case TapConv():
                for edge, weights in node.taps:
                    need(edge, domain, lattice, edge.channels[weights[:, kept].any(1)])
            case Pointwise():
                for edge in node.edges:
                    need(edge, domain, lattice, edge.channels[kept] if len(edge.channels) > 1 else edge.channels)
            case CausalAttention():
                need(node.query, domain, lattice, node.query.channels)
                need(node.cache, _everywhere(node.cache), EVERYWHERE, node.cache.channels)
                needed[index][:] = True
            case Scan():
                # Every state depends on the rows above, and on all of its row where that has a direction.
                whole = node.domain
                domains[index] = Rect(whole.row0, domain.row1, whole.col0, whole.col1)
                for edge in node.edges:
                    need(edge, domains[index], lattice, edge.channels)
                needed[index][:] = True
            case _:
                for edge in node.edges:
                    need(edge, domain, lattice, edge.channels)
                needed[index][:] = True

    renumbered: dict[int, int] = {}
    positions = [np.cumsum(kept) - 1 for kept in needed]

    def move(edge: Edge, reader: Rect, lattice: Lattice, channels: np.ndarray) -> Edge | None:
        rect = intersect(edge.rect, domains[edge.source])
        source = graph.nodes[edge.source]
        if not len(channels) or reached(source, replace(edge, rect=rect), reader, lattice).empty:
            return None
        return Edge(renumbered[edge.source], edge.row, edge.col, positions[edge.source][channels], rect)

    nodes: list[Node] = []
    for index, node in enumerate(graph.nodes):
        if needed[index].any():
            renumbered[index] = len(nodes)
            nodes.append(_restrict(node, needed[index], domains[index], move))
    outputs = []
    for edges in graph.outputs:
        moved = [move(edge, graph.image, EVERYWHERE, edge.channels) for edge in edges]
        outputs.append(tuple(edge for edge in moved if edge is not None))
    return replace(graph, nodes=tuple(nodes), outputs=tuple(outputs))


def _everywhere(edge: Edge) -> Rect:
    """Where a reader would stand that sees all of an edge's rectangle."""
    return edge.rect.shifted(-edge.row, -edge.col)


def _restrict(node: Node, kept: np.ndarray, domain: Rect, move) -> Node:  # type: ignore[no-untyped-def]
    """A node with only the kept features, over a smaller rectangle, with its edges moved."""
    features = int(kept.sum())
    match node:
        case Input():
            return replace(node, features=features, domain=domain, channels=node.channels[kept], table=node.table[kept])
        case TapConv():
            moved: list[Edge] = []
            matrices: list[np.ndarray] = []
            for edge, weights in node.taps:
                weights = weights if kept.all() else weights[:, kept]  # many, in large models: no copy if none
                live = weights.any(1)
                seen = move(edge, domain, node.lattice, edge.channels[live])
                if seen is not None:
                    moved.append(seen)
                    matrices.append(weights if live.all() else np.ascontiguousarray(weights[live]))
            return replace(
                node, features=features, domain=domain, edges=tuple(moved), weights=tuple(matrices), bias=node.bias[kept]
            )
        case Pointwise():
            operands: list[Operand] = []
            for leaf in node.operands:
                if isinstance(leaf, Edge):
                    wide = len(leaf.channels) > 1 or node.features == 1
                    edge = move(leaf, domain, node.lattice, leaf.channels[kept] if wide else leaf.channels)
                    operands.append(0.0 if edge is None else edge)
                elif isinstance(leaf, FieldEdge):
                    wide = len(leaf.channels) > 1 or node.features == 1
                    operands.append(FieldEdge(leaf.field, leaf.channels[kept] if wide else leaf.channels))
                else:
                    operands.append(leaf[kept] if isinstance(leaf, np.ndarray) else leaf)
            return replace(node.with_operands(operands, node.ops), features=features, domain=domain)
        case ChannelReduce() | ChannelNorm() | Gather() | Scan():
            edges = tuple(move(edge, domain, node.lattice, edge.channels) for edge in node.edges)
            return replace(node, domain=domain, edges=edges)
        case CausalAttention():
            query, cache = move(node.query, domain, node.lattice, node.query.channels), node.cache
            return replace(node, domain=domain, edges=(query, move(cache, _everywhere(cache), EVERYWHERE, cache.channels)))
        case _:
            raise AssertionError(f"unknown node {type(node).__name__}")


# -------------------------------------------------------------------- crops


def separate_crops(graph: Graph) -> Graph:
    """Give each edge that crops elements which its source computes for others a copy of just the cropped part.

    Afterwards an edge reads its source's whole rectangle, and zero outside of it.
    """
    nodes: list[Node] = []
    renumbered: dict[int, int] = {}
    copies: dict[tuple[int, Rect], int] = {}

    def cropped(edge: Edge, reader: Rect) -> Edge:
        source = graph.nodes[edge.source]
        reads = source.lattice.within(intersect(reader.shifted(edge.row, edge.col), source.domain))
        if edge.rect.contains(reads):
            return replace(edge, source=renumbered[edge.source], rect=source.domain)
        rect, lattice = source.lattice.within(edge.rect), source.lattice
        key = (edge.source, rect)
        if key not in copies:
            whole = Edge(renumbered[edge.source], 0, 0, np.arange(source.features), source.domain)
            copy = Pointwise.of(f"{source.name}_crop", source.layer, source.features, rect, (whole,), (), lattice)
            copies[key] = len(nodes)
            nodes.append(copy)
        return replace(edge, source=copies[key], rect=rect)

    for index, node in enumerate(graph.nodes):
        moved = node.with_edges([cropped(edge, node.domain) for edge in node.edges])
        renumbered[index] = len(nodes)
        nodes.append(moved)
    outputs = tuple(tuple(cropped(edge, graph.image) for edge in edges) for edges in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


# -------------------------------------------------------------------- fuse


def fuse(graph: Graph) -> Graph:
    """Write pointwise nodes into the one pointwise node that reads them."""
    readers: dict[int, set[int]] = defaultdict(set)
    for index, node in enumerate(graph.nodes):
        for edge in node.edges:
            readers[edge.source].add(index)
    for edges in graph.outputs:
        for edge in edges:
            readers[edge.source].add(-1)
    nodes = list(graph.nodes)
    gone: set[int] = set()
    for index, node in enumerate(nodes):
        if not isinstance(node, Pointwise):
            continue
        merged = node
        while (inlined := _inline_one(merged, index, nodes, readers, gone)) is not None:
            merged = inlined
        nodes[index] = _share_leaves(merged)
    renumbered = {}
    kept: list[Node] = []
    for index, node in enumerate(nodes):
        if index not in gone:
            renumbered[index] = len(kept)
            kept.append(node.with_edges(replace(edge, source=renumbered[edge.source]) for edge in node.edges))
    outputs = tuple(tuple(replace(edge, source=renumbered[edge.source]) for edge in edges) for edges in graph.outputs)
    return replace(graph, nodes=tuple(kept), outputs=outputs)


def _inline_one(
    node: Pointwise, index: int, nodes: list[Node], readers: dict[int, set[int]], gone: set[int]
) -> Pointwise | None:
    """`node` with one of the nodes that only it reads written into it; None if there is none."""
    for source_index in {edge.source for edge in node.edges}:
        source = nodes[source_index]
        reads = [edge for edge in node.edges if edge.source == source_index]
        if (
            isinstance(source, Pointwise)
            and readers[source_index] == {index}
            and all(source.domain.contains(node.domain.shifted(edge.row, edge.col)) for edge in reads)
            and all(source.lattice.contains(node.lattice.shifted(edge.row, edge.col)) for edge in reads)
            and all(len(edge.channels) == node.features for edge in reads)
            and (not _has_fields(source) or all((edge.row, edge.col) == (0, 0) for edge in reads))
        ):
            gone.add(source_index)
            for edge in source.edges:
                readers[edge.source].discard(source_index)
                readers[edge.source].add(index)
            return _inline(node, source, source_index)
    return None


def _inline(node: Pointwise, source: Pointwise, source_index: int) -> Pointwise:
    """Replace every leaf that reads `source` by the source's own expression over the same channels."""
    leaves: list[Operand] = []
    place: dict[int, int] = {}  # leaf of node -> its new leaf
    copies: dict[int, list[int]] = {}  # leaf of node that reads source -> new leaves of the source's expression
    for i, leaf in enumerate(node.operands):
        if isinstance(leaf, Edge) and leaf.source == source_index:
            first = len(leaves)
            leaves += [_pick(inner, leaf) for inner in source.operands]
            copies[i] = list(range(first, len(leaves)))
        else:
            place[i] = len(leaves)
            leaves.append(leaf)
    ops: list[Op] = []
    for i, inner in copies.items():
        base = len(leaves) + len(ops)
        resolve = [*inner, *range(base, base + len(source.ops))]
        ops += [Op(op.name, tuple(resolve[a] for a in op.args)) for op in source.ops]
        place[i] = resolve[-1] if source.ops else inner[-1]
    shift = len(leaves) + len(ops) - len(node.leaves)
    ops += [Op(op.name, tuple(place[a] if a < len(node.leaves) else a + shift for a in op.args)) for op in node.ops]
    return node.with_operands(leaves, ops)


def _has_fields(node: Pointwise) -> bool:
    """Whether a node reads fields, which it can do only from its own position."""
    return any(isinstance(leaf, FieldEdge) for leaf in node.leaves)


def _pick(leaf: Operand, edge: Edge) -> Operand:
    """A leaf of the node behind `edge`, as the edge's reader sees it."""
    channels = edge.channels
    if isinstance(leaf, Edge):
        wide = leaf.channels if len(leaf.channels) == 1 else leaf.channels[channels]
        return replace(leaf, row=leaf.row + edge.row, col=leaf.col + edge.col, channels=wide)
    if isinstance(leaf, FieldEdge):
        return leaf if len(leaf.channels) == 1 else FieldEdge(leaf.field, leaf.channels[channels])
    return leaf[channels] if isinstance(leaf, np.ndarray) else leaf


def _share_leaves(node: Pointwise) -> Pointwise:
    """The node with equal leaves read once."""
    keys: dict[object, int] = {}
    leaves: list[Operand] = []
    place: list[int] = []
    for leaf in node.operands:
        key: object
        if isinstance(leaf, Edge):
            key = (leaf.source, leaf.row, leaf.col, leaf.rect, leaf.channels.tobytes())
        elif isinstance(leaf, FieldEdge):
            key = ("field", leaf.field, leaf.channels.tobytes())
        else:
            key = leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf
        if key not in keys:
            keys[key] = len(leaves)
            leaves.append(leaf)
        place.append(keys[key])
    shift = len(leaves) - len(node.leaves)
    ops = tuple(Op(op.name, tuple(place[a] if a < len(place) else a + shift for a in op.args)) for op in node.ops)
    # An expression without ops is its only leaf; sharing cannot reorder that.
    return node.with_operands(leaves, ops)
