"""Unread: attention of pixels that nobody reads looks at nothing.

A first pixel has nothing before it to look at. Many models let it look at something, itself or everything, and multiply what
it finds by 0 afterwards. What is thrown away so must not count as seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir.graph import CausalAttention, Edge, FieldEdge, Graph, Node, Pointwise, Read
from ..ir.program import Keys, Rect


def forget_unread(graph: Graph) -> Graph:
    """The graph whose attention has no keys where its result is multiplied by a known 0, or read nowhere."""
    if not any(isinstance(node, CausalAttention) for node in graph.nodes):
        return graph
    read = [np.zeros(_size(node.domain), dtype=bool) for node in graph.nodes]

    def mark(edge: Edge, domain: Rect, live: np.ndarray) -> None:
        """Elements of `domain` that are live read an edge."""
        source = graph.nodes[edge.source].domain
        rows, cols = np.nonzero(live)
        rows, cols = rows + domain.row0 + edge.row, cols + domain.col0 + edge.col
        r = edge.rect
        inside = (rows >= r.row0) & (rows < r.row1) & (cols >= r.col0) & (cols < r.col1)
        read[edge.source][rows[inside] - source.row0, cols[inside] - source.col0] = True

    for edges in graph.outputs:
        for edge in edges:
            mark(edge, graph.image, np.ones(_size(graph.image), dtype=bool))
    nodes = list(graph.nodes)
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if isinstance(node, CausalAttention):
            nodes[index] = _of_read_pixels(node, graph.image, read[index])
            mark(node.query, node.domain, read[index])
            mark(replace(node.cache, row=0, col=0), graph.image, np.ones(_size(graph.image), dtype=bool))
            continue
        for edge, live in _live_reads(graph, node):
            mark(edge, node.domain, read[index] & live)
    return replace(graph, nodes=tuple(nodes))


def _live_reads(graph: Graph, node: Node) -> list[tuple[Edge, np.ndarray]]:
    """What a node reads, and at which of its elements that counts: bool, broadcast to (rows, cols)."""
    if not isinstance(node, Pointwise):
        return [(edge, np.ones((1, 1), dtype=bool)) for edge in node.edges]
    reads = [(i, leaf) for i, leaf in enumerate(node.leaves) if isinstance(leaf, Read)]
    return [(node.edges[leaf.edge], _factor(graph, node, i) != 0) for i, leaf in reads]


def _factor(graph: Graph, node: Pointwise, leaf: int) -> np.ndarray:
    """The largest size of the known number that a leaf is multiplied or chosen by, before anything else, at each element."""
    users = [op for op in node.ops if leaf in op.args]
    if len(users) == 1 and (users[0].name == "mul" or (users[0].name == "where" and users[0].args[1] == leaf)):
        known = users[0].args[:1] if users[0].name == "where" else users[0].args
        others = [arg for arg in known if arg != leaf and arg < len(node.leaves)]
        factor = node.leaves[others[0]] if others else None
        spec = graph.fields[factor.field] if isinstance(factor, FieldEdge) else None
        if isinstance(factor, FieldEdge) and spec is not None and spec.value is not None:
            sizes = np.abs(spec.value[0, :, :, factor.channels]).max(0)  # (rows or 1, cols or 1)
            row, col = node.domain.row0 - spec.row0, node.domain.col0 - spec.col0
            rows, cols = _size(node.domain)
            sizes = sizes if len(sizes) == 1 else sizes[row : row + rows]
            return np.asarray(sizes if sizes.shape[1] == 1 else sizes[:, col : col + cols])
    return np.ones((1, 1))


def _of_read_pixels(node: CausalAttention, image: Rect, read: np.ndarray) -> CausalAttention:
    """The attention of the pixels that are read: the lists of others are empty."""
    pixels = image.row1 * image.col1
    full = np.zeros(_size(image), dtype=bool)
    d = node.domain
    full[d.row0 : d.row1, d.col0 : d.col1] = read
    masks = len(node.seen) // pixels
    kept = np.tile(full.reshape(-1), masks)
    counts = node.seen.counts()
    if not counts[~kept].any():
        return node
    bias = None if node.bias is None else np.ascontiguousarray(node.bias[:, np.repeat(kept, counts)])
    seen = Keys.of(node.seen.mask(pixels) & kept[:, None])
    if not len(seen.runs):
        return node
    row, col = seen.latest_offset(image.row1, image.col1)
    return replace(node, edges=(node.query, replace(node.cache, row=row, col=col)), seen=seen, bias=bias)


def _size(domain: Rect) -> tuple[int, int]:
    return domain.row1 - domain.row0, domain.col1 - domain.col0
