"""What a builder of nodes reads: tensors of element numbers as edges, and a node where no edge can say it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...errors import UnsupportedModel
from ...ir.graph import Edge
from ...ir.program import Rect
from ..index import NEXT_IMAGE, Rectangle, live_channels, written_out
from .base import NodeBuilder, Provenance
from .phases import brought_together

Window = tuple[int, int, int, int]
"""Rows [0], [1] and columns [2], [3] of an array."""


@dataclass(frozen=True)
class Reads:
    """What one operand reads at each pixel of a layout: arrays (rows, cols, F), and per feature the edge it lies on."""

    known: np.ndarray
    edge: np.ndarray  # (F, 3): source node, row offset, column offset; -1 for features that read no node
    feature: np.ndarray  # (F,)


class ReadingBuilder(NodeBuilder):
    """Finds out what tensors of element numbers read."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self._last_reads: tuple[object, Tensor, Reads | None] | None = None  # the tensor is held, so that its address stays

    def settled(self, at: Provenance, maps: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        """Maps (images, rows, cols, F) whose channels each read one channel at one offset, by a new node if need be."""
        live = live_channels(maps)
        if self._rectangle(maps if live is None else maps[..., live], steps) is not None:
            return maps
        if self._written_reads(at, maps, row0, col0, steps) is not None:
            return maps
        result = brought_together(self, at, maps, row0, col0, steps)
        return maps if result is None else result

    def _rectangle(self, ids: Tensor, steps: tuple[int, int]) -> Rectangle | None:
        """The rectangle that maps in these steps hold, if it is one (`ElementTable.rectangle`)."""
        plain = self.table.rectangle(ids)
        if plain is None:
            return None
        rows = plain.row1 - plain.row0 == 1 or plain.row_step == steps[0]
        cols = plain.col1 - plain.col0 == 1 or plain.col_step == steps[1]
        return plain if rows and cols else None

    def _reads(self, at: Provenance, ids: Tensor, row0: int, col0: int, steps: tuple[int, int] = (1, 1)) -> Reads:
        """What element numbers (images, rows, cols, F) read, relative to pixel (row0 + i * steps[0], col0 + j * steps[1])."""
        live = live_channels(ids)
        plain = self._rectangle(ids if live is None else ids[..., live], steps)
        if plain is not None:
            known = np.zeros(tuple(ids.shape[1:]), dtype=bool)
            here = slice(None) if live is None else live.numpy()
            known[plain.row0 : plain.row1, plain.col0 : plain.col1, here] = True
            corner = plain.corner
            offsets = [corner.node, corner.row - plain.row0 * steps[0] - row0, corner.col - plain.col0 * steps[1] - col0]
            edge, feature = np.full((known.shape[2], 3), -1, dtype=np.int64), np.full(known.shape[2], -1, dtype=np.int64)
            edge[here], feature[here] = np.stack(offsets, 1), corner.feature
            return Reads(known, edge, feature)
        reads = self._written_reads(at, ids, row0, col0, steps)
        if reads is None:
            raise UnsupportedModel(
                f"{at} reads, along one channel, elements of several channels or at several offsets: rows or columns are "
                "mixed with channels, which cannot be computed pixel by pixel, or the module flips or transposes its image, "
                "which order= allows for"
            )
        return reads

    def _written_reads(self, at: Provenance, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Reads | None:
        """See `_reads`; None if some channel reads elements of several channels or at several offsets."""
        # An operation asks several times what the same tensor reads.
        key = (ids.data_ptr(), ids.storage_offset(), ids.shape, ids.stride(), row0, col0, steps)
        if self._last_reads is None or self._last_reads[0] != key or self._last_reads[1].is_meta != ids.is_meta:
            self._last_reads = key, ids, self._find_reads(at, ids, row0, col0, steps)
        return self._last_reads[2]

    def _find_reads(self, at: Provenance, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Reads | None:
        """See `_written_reads`."""
        numbers = written_out(ids).numpy()
        if len(numbers) > 1 and not np.array_equal(
            np.where(numbers[1] > 0, numbers[1] - NEXT_IMAGE, 0), np.where(numbers[0] > 0, numbers[0], 0)
        ):
            raise UnsupportedModel(f"{at} mixes images of the batch: each image must be computed by itself")
        place = self.table.places(numbers[0])
        rows = np.arange(numbers.shape[1])[:, None, None] * steps[0] + row0
        cols = np.arange(numbers.shape[2])[None, :, None] * steps[1] + col0
        columns = np.stack([place.node, place.row - rows, place.col - cols, place.feature])  # (4, rows, cols, F)
        flat = columns.reshape(4, -1, numbers.shape[3])
        known = place.known.reshape(-1, numbers.shape[3])
        low = np.where(known, flat, np.iinfo(np.int64).max).min(1)
        high = np.where(known, flat, np.iinfo(np.int64).min).max(1)
        reads_any = known.any(0)
        if (low[:, reads_any] != high[:, reads_any]).any():
            return None
        low = np.where(reads_any, low, -1)
        return Reads(place.known, low[:3].T, low[3])

    def is_regular(self, at: Provenance, ids: Tensor, row0: int = 0, col0: int = 0, steps: tuple[int, int] = (1, 1)) -> bool:
        """Whether each channel of (images, rows, cols, F) is a full rectangle of one node's feature, or constant."""
        reads = self._reads(at, ids, row0, col0, steps)
        for group in equal_rows(reads.edge):
            known = of_group(reads.known, group)
            if reads.edge[group[0], 0] >= 0 and not is_full(known):
                return False
        return True

    def _full_rect(self, at: Provenance, reads: Reads, group: np.ndarray) -> Window:
        known = of_group(reads.known, group)
        if not is_full(known):
            raise UnsupportedModel(
                f"{at} reads elements whose places in the image form no rectangle (a sequence of pixels that is shifted by one "
                "wraps around at the end of each row): these cannot be computed pixel by pixel"
            )
        return hull_of(known)

    def _edges(
        self, at: Provenance, ids: Tensor, row0: int, col0: int, steps: tuple[int, int] = (1, 1)
    ) -> tuple[tuple[Edge, ...], Rect]:
        """Edges that together hold all features in order; every element must be one of a node."""
        reads = self._reads(at, self.settled(at, ids, row0, col0, steps), row0, col0, steps)
        domain = placed((0, ids.shape[1], 0, ids.shape[2]), row0, col0, steps)
        edges = []
        for run in runs_of(reads.edge):
            source, row, col = (int(v) for v in reads.edge[run[0]])
            edges.append(Edge(source, row, col, reads.feature[run], domain.shifted(row, col)))
        return tuple(edges), domain

    def edge_runs(self, at: Provenance, ids: Tensor, row0: int, col0: int) -> tuple[Edge, ...]:
        """The edges that hold the features of (images, rows, cols, F) in order, for the graph's outputs."""
        return self._edges(at, ids, row0, col0)[0]


def equal_rows(signatures: np.ndarray) -> list[np.ndarray]:
    """Indices of equal rows, in the order of their first appearance."""
    _, first, inverse = np.unique(signatures, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    return [np.flatnonzero(inverse == group) for group in np.argsort(first)]


def runs_of(signatures: np.ndarray) -> list[np.ndarray]:
    """Indices of consecutive equal rows."""
    breaks = np.flatnonzero((signatures[1:] != signatures[:-1]).any(1)) + 1
    return np.split(np.arange(len(signatures)), breaks)


def hull_of(mask: np.ndarray) -> Window:
    """Rows [row0, row1) and columns [col0, col1) that hold all True entries of a mask (rows, cols, F)."""
    rows, cols = np.flatnonzero(mask.any((1, 2))), np.flatnonzero(mask.any((0, 2)))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def is_full(known: np.ndarray) -> bool:
    row0, row1, col0, col1 = hull_of(known)
    return bool(known[row0:row1, col0:col1].all())


def placed(window: Window, row0: int, col0: int, steps: tuple[int, int]) -> Rect:
    """The pixels of positions [window[0], window[1]) x [window[2], window[3]) in steps from (row0, col0)."""
    rows, cols = (row0, window[0], window[1], steps[0]), (col0, window[2], window[3], steps[1])
    (top, bottom), (left, right) = ((start + a * step, start + (b - 1) * step + 1) for start, a, b, step in (rows, cols))
    return Rect(top, bottom, left, right)


def of_group(maps: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The features in `group` (ascending) of maps (..., F); the maps themselves if these are all."""
    return maps if len(group) == maps.shape[-1] else maps[..., group]
