"""Receptive field: which sub-pixels a prediction depends on, and its blind spot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.graph import Graph
from ..ir.scan_order import RASTER, Order
from ..ops import Input, operations
from ..ops.base import Marks
from ..ops.times import elements


@dataclass(frozen=True)
class ReceptiveField:
    """What the predictions of one pixel see.

    Attributes:
        row, col: the predicted pixel.
        seen: bool (C, C, H, W): does the prediction of channel [0] see channel [1] at (row, col)?
        order: of generation.
    """

    row: int
    col: int
    seen: np.ndarray
    order: Order = RASTER

    @property
    def pixels(self) -> np.ndarray:
        """Pixels that any channel sees in any channel: bool (H, W)."""
        return np.asarray(self.seen.any((0, 1)))

    @property
    def extent(self) -> tuple[int, int, int]:
        """How far it reaches: rows up, columns to the left, columns to the right."""
        rows, cols = np.nonzero(self.pixels)
        if not len(rows):
            return 0, 0, 0
        return max(0, self.row - int(rows.min())), max(0, self.col - int(cols.min())), max(0, int(cols.max()) - self.col)

    @property
    def down(self) -> int:
        """How many rows it reaches down; 0 where rows come from the top."""
        return max(0, int(np.nonzero(self.pixels)[0].max(initial=0)) - self.row)

    @property
    def blind_spot(self) -> np.ndarray:
        """Earlier pixels within the extent that are not seen: bool (H, W)."""
        height, width = self.pixels.shape
        up, left, right = self.extent
        row, col = np.arange(height)[:, None], np.arange(width)[None, :]
        ranks = self.order.ranks(height, width)
        earlier = ranks < ranks[self.row, self.col]
        within = (row >= self.row - up) & (row <= self.row + self.down) & (col >= self.col - left) & (col <= self.col + right)
        return earlier & within & ~self.pixels

    def picture(self) -> str:
        """The grid as text: `@` the pixel, `#` seen, `o` blind spot, `.` the rest."""
        pixels, blind = self.pixels, self.blind_spot
        lines = []
        for row in range(pixels.shape[0]):
            marks = np.where(pixels[row], "#", np.where(blind[row], "o", "."))
            if row == self.row:
                marks[self.col] = "@"
            lines.append("".join(marks))
        return "\n".join(lines)


def receptive_field(graph: Graph, row: int, col: int, order: Order = RASTER) -> ReceptiveField:
    """The receptive field of the predictions at one pixel of the user's image, over nonzero weights; the graph is reordered."""
    channels, height, width = graph.shape
    line, pixel = divmod(int(order.ranks(*order.shape(graph.shape)[1:])[row, col]), width)
    seen = np.zeros((channels, channels, height, width), dtype=bool)
    for channel, edges in enumerate(graph.outputs):
        needed: list[np.ndarray | None] = [None] * len(graph.nodes)
        for edge in edges:
            start = np.ones((len(edge.channels), 1, 1), dtype=bool)
            _mark(graph, needed, Marks(edge, start, line, pixel))
        _walk_back(graph, needed)
        for index, node in enumerate(graph.nodes):
            marks = needed[index]
            if isinstance(node, Input) and marks is not None:
                d = node.domain
                for feature, source in enumerate(node.channels):
                    seen[channel, source, d.row0 : d.row1, d.col0 : d.col1] |= marks[feature]
    return ReceptiveField(row, col, order.restored(seen, 2), order)


def _walk_back(graph: Graph, needed: list[np.ndarray | None]) -> None:
    for index, node in reversed(list(enumerate(operations(graph)))):
        marks = needed[index]
        if marks is None:
            continue
        if not node.lattice.everywhere:
            marks &= elements(node)
        for reads in node.reach(graph, marks):
            _mark(graph, needed, reads)


def _mark(graph: Graph, needed: list[np.ndarray | None], reads: Marks) -> None:
    """Mark what an edge reads."""
    edge, marks = reads.edge, reads.marks
    domain = graph.nodes[edge.source].domain
    found = needed[edge.source]
    if found is None:
        found = np.zeros((graph.nodes[edge.source].features, *domain.size), dtype=bool)
        needed[edge.source] = found
    top, left = reads.row0 + edge.row, reads.col0 + edge.col
    r0, r1 = max(top, edge.rect.row0), min(top + marks.shape[1], edge.rect.row1)
    c0, c1 = max(left, edge.rect.col0), min(left + marks.shape[2], edge.rect.col1)
    if r0 >= r1 or c0 >= c1:
        return
    part = marks[:, r0 - top : r1 - top, c0 - left : c1 - left]
    window = found[:, r0 - domain.row0 : r1 - domain.row0, c0 - domain.col0 : c1 - domain.col0]
    np.logical_or.at(window, edge.channels, part)
