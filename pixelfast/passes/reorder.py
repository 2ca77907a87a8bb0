"""Reorder: a graph over the user's image becomes one that is drawn in raster order.

Rectangles, offsets, lattices, fields and the lists of attention are flipped, and transposed where lines are columns; weights
and channels stay as they are. What the graph computes is the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir.geometry import Lattice, Rect
from ..ir.graph import Edge, FieldSpec, Graph, Node
from ..ir.scan_order import RASTER, Order
from ..ops import Operation, operations


def reordered(graph: Graph, order: Order) -> Graph:
    """The graph in the order of drawing.

    Raises:
        NotAutoregressive: a recurrence runs against the order.
    """
    if order == RASTER:
        return graph
    turn = _Reordering(order, *graph.shape[1:])
    return replace(
        graph,
        shape=order.shape(graph.shape),
        nodes=tuple(map(turn.node, operations(graph))),
        fields=tuple(map(turn.field, graph.fields)),
        outputs=tuple(tuple(map(turn.edge, edges)) for edges in graph.outputs),
    )


class _Reordering:
    """Takes the parts of a graph over H x W pixels to lines and their pixels."""

    def __init__(self, order: Order, height: int, width: int) -> None:
        self.order, self.height, self.width = order, height, width

    def rect(self, rect: Rect) -> Rect:
        rows, cols = (rect.row0, rect.row1), (rect.col0, rect.col1)
        rows = (self.height - rows[1], self.height - rows[0]) if self.order.up else rows
        cols = (self.width - cols[1], self.width - cols[0]) if self.order.left else cols
        return Rect(*cols, *rows) if self.order.columns else Rect(*rows, *cols)

    def lattice(self, lattice: Lattice) -> Lattice:
        row, col = lattice.row_phase, lattice.col_phase
        corner = self.rect(Rect(row, row + 1, col, col + 1))
        rows, cols = lattice.steps
        return Lattice.through(corner.row0, corner.col0, (cols, rows) if self.order.columns else (rows, cols))

    def edge(self, edge: Edge) -> Edge:
        row, col = self.order.offset(edge.row, edge.col)
        return replace(edge, row=row, col=col, rect=self.rect(edge.rect))

    def field(self, spec: FieldSpec) -> FieldSpec:
        _, rows, cols, _ = spec.shape
        where = self.rect(Rect(spec.row0, spec.row0 + rows, spec.col0, spec.col0 + cols))
        value, index = (
            None if array is None else np.ascontiguousarray(self.order.reordered(array, 1))
            for array in (spec.value, spec.index)
        )
        return replace(spec, row0=where.row0, col0=where.col0, value=value, index=index)

    def node(self, node: Operation) -> Node:
        moved = replace(
            node,
            domain=self.rect(node.domain),
            edges=tuple(map(self.edge, node.edges)),
            lattice=self.lattice(node.lattice),
        )
        return moved.reordered(self.order, self.height, self.width)
