"""What nodes are evaluated from on finished images: their sources in float64, fields, and the images themselves.

Letters: N images, H rows, W columns, C channels, F features of a node.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ir.geometry import Rect
from ..ir.graph import Edge, FieldEdge, FieldSpec


class Evaluation:
    """The nodes that have been evaluated so far: `found[i]` is float64 (N, rows, cols, F) over the rectangle `domains[i]`."""

    def __init__(self, specs: Sequence[FieldSpec], fields: Sequence[Tensor], images: Tensor) -> None:
        self.specs, self.fields, self.images = specs, fields, images
        self.domains: list[Rect] = []
        self.found: list[Tensor] = []

    def read(self, edge: Edge, domain: Rect) -> Tensor:
        """(N, rows, cols, channels) at the elements of a reader over `domain`: 0 outside the edge's rectangle."""
        source = self.domains[edge.source]
        here = domain.shifted(edge.row, edge.col)
        rows = max(here.row0, edge.rect.row0), min(here.row1, edge.rect.row1)
        cols = max(here.col0, edge.rect.col0), min(here.col1, edge.rect.col1)
        result = torch.zeros(len(self.images), *domain.size, len(edge.channels), dtype=torch.float64)
        if rows[0] < rows[1] and cols[0] < cols[1]:
            part = self.found[edge.source][
                :, rows[0] - source.row0 : rows[1] - source.row0, cols[0] - source.col0 : cols[1] - source.col0
            ]
            result[:, rows[0] - here.row0 : rows[1] - here.row0, cols[0] - here.col0 : cols[1] - here.col0] = part[
                ..., torch.from_numpy(edge.channels)
            ]
        return result

    def read_all(self, edges: Sequence[Edge], domain: Rect) -> Tensor:
        return torch.cat([self.read(edge, domain) for edge in edges], -1)

    def read_field(self, edge: FieldEdge, domain: Rect) -> Tensor:
        """(N or 1, rows or 1, cols or 1, channels)"""
        spec, field = self.specs[edge.field], self.fields[edge.field]
        for axis, (start, first, last) in enumerate(
            ((spec.row0, domain.row0, domain.row1), (spec.col0, domain.col0, domain.col1)), 1
        ):
            if field.shape[axis] > 1:
                field = field.narrow(axis, first - start, last - first)
        return field[..., torch.from_numpy(edge.channels)]
