"""Drop unread: attention of pixels that nobody reads looks at nothing.

A first pixel has nothing before it to look at. Many models let it look at something, itself or everything, and multiply what
it finds by 0 afterwards. What is thrown away so must not count as seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Node
from ..ops import operations
from ..ops.base import Marks


def drop_unread(graph: Graph) -> Graph:
    """The graph whose attention has no keys where its result is multiplied by a known 0, or read nowhere."""
    operators = operations(graph)
    if not any(node.chooses_pixels for node in operators):
        return graph
    read = [np.zeros(node.domain.size, dtype=bool) for node in operators]

    def mark(reads: Marks) -> None:
        edge, source = reads.edge, operators[reads.edge.source].domain
        rows, cols = np.nonzero(reads.marks)
        rows, cols = rows + reads.row0 + edge.row, cols + reads.col0 + edge.col
        r = edge.rect
        inside = (rows >= r.row0) & (rows < r.row1) & (cols >= r.col0) & (cols < r.col1)
        read[edge.source][rows[inside] - source.row0, cols[inside] - source.col0] = True

    for edges in graph.outputs:
        for edge in edges:
            mark(Marks(edge, np.ones(graph.image.size, dtype=bool), 0, 0))
    nodes: list[Node] = list(graph.nodes)
    for index in reversed(range(len(nodes))):
        nodes[index] = operators[index].without_unread(graph, read[index])
        for reads in operators[index].reads(graph, read[index]):
            mark(reads)
    return replace(graph, nodes=tuple(nodes))
