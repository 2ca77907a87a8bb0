"""Builds convolutions: matrices at constant offsets, of strided and transposed ones too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ir.graph import Edge
from ...ir.program import Lattice, Rect
from ...ops import Pointwise, TapConv
from ..index import both_images, written_out
from .base import Provenance
from .reads import ReadingBuilder, Reads, equal_rows, placed


class ProductBuilder(ReadingBuilder):
    """Nodes for products with known matrices."""

    def conv(
        self,
        at: Provenance,
        ids: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        row0: int = 0,
        col0: int = 0,
        steps: tuple[int, int] = (1, 1),
        stride: Sequence[int] = (1, 1),
    ) -> Tensor:
        """A convolution over element numbers (images, rows, cols, I) in steps; weight (O, I / groups, kh, kw).

        Elements 0 count as zeros. Returns element numbers (rows', cols', O) of the first image.
        """
        matrix = _dense_weight(weight, groups)  # (O, I, kh, kw)
        reach = [dilation[d] * (matrix.shape[2 + d] - 1) for d in range(2)]
        rows, cols = ((ids.shape[1 + d] + 2 * padding[d] - reach[d] - 1) // stride[d] + 1 for d in range(2))
        self.dense_macs += rows * cols * weight.numel()
        # Centre the kernel: an output stands where its middle tap reads.
        middle = (reach[0] // 2, reach[1] // 2)
        offsets = [[(a * dilation[d] - middle[d]) * steps[d] for a in range(matrix.shape[2 + d])] for d in range(2)]
        top, left = row0 + (middle[0] - padding[0]) * steps[0], col0 + (middle[1] - padding[1]) * steps[1]
        wide = (steps[0] * stride[0], steps[1] * stride[1])
        domain = placed((0, rows, 0, cols), top, left, wide)
        reads = self._reads(at, ids, row0, col0, steps)
        return self._tap_conv(at, reads, matrix, bias, offsets, (row0, col0, steps), domain, wide)

    def conv_transposed(
        self,
        at: Provenance,
        ids: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        row0: int,
        col0: int,
        steps: tuple[int, int],
    ) -> Tensor:
        """A transposed convolution over (images, rows, cols, I); the stride divides the steps; weight (I, O / groups, kh, kw).

        Input i stands where output i * stride does. An output reads, at constant offsets, the taps whose inputs exist: the
        others lie between the elements of what it reads.
        """
        matrix = _dense_weight_transposed(weight, groups)  # (O, I, kh, kw)
        fine = (steps[0] // stride[0], steps[1] // stride[1])
        reach = [dilation[d] * (matrix.shape[2 + d] - 1) for d in range(2)]
        rows, cols = (
            (ids.shape[1 + d] - 1) * stride[d] - 2 * padding[d] + reach[d] + output_padding[d] + 1 for d in range(2)
        )
        self.dense_macs += ids.shape[1] * ids.shape[2] * weight.numel()
        offsets = [[(padding[d] - a * dilation[d]) * fine[d] for a in range(matrix.shape[2 + d])] for d in range(2)]
        reads = self._reads(at, self._own_copy(at, ids, row0, col0, steps), row0, col0, steps)
        domain = placed((0, rows, 0, cols), row0, col0, fine)
        return self._tap_conv(at, reads, matrix, bias, offsets, (row0, col0, steps), domain, fine)

    def _tap_conv(
        self,
        at: Provenance,
        reads: Reads,
        matrix: np.ndarray,
        bias: Tensor | None,
        offsets: list[list[int]],
        origin: tuple[int, int, tuple[int, int]],
        domain: Rect,
        steps: tuple[int, int],
    ) -> Tensor:
        """One node over a domain in steps, for a matrix (O, I, kh, kw) whose taps lie at row and column offsets in pixels."""
        edges: list[Edge] = []
        weights: list[np.ndarray] = []
        for group in equal_rows(reads.edge):
            source, row, col = (int(v) for v in reads.edge[group[0]])
            if source < 0:
                continue
            rect = placed(self._full_rect(at, reads, group), *origin).shifted(row, col)
            for a, down in enumerate(offsets[0]):
                for b, right in enumerate(offsets[1]):
                    block = np.ascontiguousarray(matrix[:, group, a, b].T)  # (I', O)
                    if block.any():
                        edges.append(Edge(source, down + row, right + col, reads.feature[group], rect))
                        weights.append(block)
        vector = np.zeros(len(matrix), np.float32) if bias is None else bias.detach().float().numpy().copy()
        lattice = Lattice.through(domain.row0, domain.col0, steps)
        node = TapConv(at.name, at.layer, len(matrix), domain, tuple(edges), tuple(weights), vector, lattice=lattice)
        return self.add(node)

    def _own_copy(self, at: Provenance, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        """Maps (images, rows, cols, F) from nodes that have no elements between those of the maps, copied if need be."""
        reads = self._reads(at, ids, row0, col0, steps)
        result = written_out(ids).clone()
        copied = False
        for group in equal_rows(reads.edge):
            source, row, col = (int(v) for v in reads.edge[group[0]])
            if source < 0:
                continue
            window = self._full_rect(at, reads, group)
            domain = placed(window, row0, col0, steps)
            lattice = Lattice.through(domain.row0, domain.col0, steps)
            if lattice.shifted(row, col).contains(self.nodes[source].lattice):
                continue
            edge = Edge(source, row, col, reads.feature[group], domain.shifted(row, col))
            numbers = both_images(self.add(Pointwise.of(at.name, at.layer, len(group), domain, (edge,), (), lattice)))
            result[:, window[0] : window[1], window[2] : window[3], torch.from_numpy(group)] = written_out(numbers)
            copied = True
        return result if copied else ids


def _dense_weight_transposed(weight: Tensor, groups: int) -> np.ndarray:
    """(I, O / groups, kh, kw) as (O, I, kh, kw), with zeros between groups."""
    outputs = weight.shape[1]
    parts = weight.detach().reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)  # (groups, O / groups, I / groups, kh, kw)
    return _dense_weight(parts.reshape(groups * outputs, -1, *weight.shape[2:]), groups)


def _dense_weight(weight: Tensor, groups: int) -> np.ndarray:
    """(O, I / groups, kh, kw) as (O, I, kh, kw), with zeros between groups."""
    array = weight.detach().float().numpy()
    if groups == 1:
        return array
    outputs, inputs = array.shape[0] // groups, array.shape[1]
    dense = np.zeros((array.shape[0], inputs * groups, *array.shape[2:]), np.float32)
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * inputs : (g + 1) * inputs] = array[rows]
    return dense
