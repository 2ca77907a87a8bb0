"""Fuse: one expression of pointwise chains.

A pointwise node that only one other reads is written into it, so that what lies between is never stored.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ..ir.graph import Edge, FieldEdge, Graph, Node
from ..ir.program import Op
from ..ops import Operand, Pointwise


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
    if len(leaves) == len(place):
        return node
    shift = len(leaves) - len(node.leaves)
    ops = tuple(Op(op.name, tuple(place[a] if a < len(place) else a + shift for a in op.args)) for op in node.ops)
    # An expression without ops is its only leaf; sharing cannot reorder that.
    return node.with_operands(leaves, ops)
