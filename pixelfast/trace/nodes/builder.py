"""Builds graph nodes from tensors of element numbers: one method for each kind of node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ...ir.graph import Edge
from ...ir.program import Lattice, PixelRuns
from ...ops import CausalAttention, ChannelNorm, ChannelReduce, Gather, Input, Scan, StateTap
from ..index import NEXT_IMAGE, both_images, written_out
from .base import Provenance
from .pointwise import PointwiseBuilder
from .products import ProductBuilder


class GraphBuilder(PointwiseBuilder, ProductBuilder):
    """Collects nodes and fields; every method returns element numbers of the result's shape."""

    def input(self, table: Tensor) -> Tensor:
        """The encoded image from its table (C, K): element numbers (2, C, H, W)."""
        channels = np.arange(self.shape[0])
        node = Input("image", "", len(channels), self.image, (), channels, table.double().numpy())
        return both_images(self.add(node)).permute(0, 3, 1, 2)

    def embedding(self, at: Provenance, ids: Tensor, weight: Tensor) -> Tensor:
        """Rows of `weight` (rows, E) looked up by image values `ids`, written out: element numbers (*ids.shape, E)."""
        place = self.table.places(ids.numpy())
        result = torch.zeros((*ids.shape, weight.shape[1]), dtype=torch.int64)
        for number in np.unique(place.node[place.known]):
            source = self.nodes[number]
            if not isinstance(source, Input):
                raise UnsupportedModel(f"{at} looks up computed features in a table; only image values can be looked up")
            rows = torch.from_numpy(source.table).long()  # (F, K)
            if rows.min() < 0 or rows.max() >= len(weight):
                raise UnsupportedModel(
                    f"{at} looks up values {int(rows.min())} .. {int(rows.max())} in a table of {len(weight)} rows: the "
                    f"head has {self.levels} levels; check its number of levels and encode="
                )
            table = weight.detach().double()[rows].permute(0, 2, 1).reshape(-1, self.levels)  # (F * E, K)
            channels = np.repeat(source.channels, weight.shape[1])
            node = Input(at.name, at.layer, len(channels), self.image, (), channels, table.numpy())
            numbers = written_out(self.add(node))
            numbers = numbers.reshape(*numbers.shape[:2], source.features, weight.shape[1])
            here = place.known & (place.node == number)
            looked_up = numbers[place.row[here], place.col[here], place.feature[here]]  # (found, E)
            result[torch.from_numpy(here)] = looked_up + torch.from_numpy(place.image[here] * NEXT_IMAGE)[:, None]
        return result

    def reduce(
        self, at: Provenance, ids: Tensor, kind: str, correction: float, row0: int, col0: int, steps: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """A reduction over all features of element numbers (images, rows, cols, F); returns (rows, cols, 1)."""
        edges, domain = self._edges(at, ids, row0, col0, steps)
        lattice = Lattice.through(row0, col0, steps)
        return self.add(ChannelReduce(at.name, at.layer, 1, domain, edges, kind, correction, lattice=lattice))

    def norm(
        self,
        at: Provenance,
        ids: Tensor,
        scale: np.ndarray,
        shift: np.ndarray,
        eps: float,
        row0: int,
        col0: int,
        steps: tuple[int, int] = (1, 1),
    ) -> Tensor:
        """Layer normalisation over all features of (images, rows, cols, F); returns (rows, cols, F)."""
        edges, domain = self._edges(at, ids, row0, col0, steps)
        lattice = Lattice.through(row0, col0, steps)
        return self.add(ChannelNorm(at.name, at.layer, len(scale), domain, edges, scale, shift, eps, lattice=lattice))

    def attention(
        self,
        at: Provenance,
        parts: Sequence[Tensor],
        heads: int,
        scale: float,
        seen: PixelRuns,
        bias: np.ndarray | None,
        refusal: str,
    ) -> Tensor:
        """Attention of queries to keys with values, maps (images, H, W, F) each; returns (H, W, heads * D).

        Keys and values are gathered in one node: they are kept for as long.
        """
        query, keys, values = (self._edges(at, part, 0, 0)[0] for part in parts)
        asking, cache = self._gather(at, "query", query), self._gather(at, "cache", (*keys, *values))
        latest = seen.latest_offset(self.shape[1], self.shape[2])
        features = parts[2].shape[3]
        self.dense_macs += (parts[0].shape[3] + features) * (self.image.row1 * self.image.col1) ** 2
        cached = Edge(cache, *latest, np.arange(self.nodes[cache].features), self.image)
        asked = Edge(asking, 0, 0, np.arange(self.nodes[asking].features), self.image)
        return self.add(
            CausalAttention(at.name, at.layer, features, self.image, (asked, cached), heads, scale, seen, bias, refusal)
        )

    def _gather(self, at: Provenance, what: str, edges: tuple[Edge, ...]) -> int:
        """The channels of all edges side by side; the number of their node."""
        features = sum(len(edge.channels) for edge in edges)
        self.add(Gather(f"{at.name}_{what}", at.layer, features, self.image, edges))
        return len(self.nodes) - 1

    def scan(
        self, at: Provenance, ids: Tensor, taps: Sequence[StateTap], cell: tuple[int, int], sweep: int, row0: int, col0: int
    ) -> Tensor:
        """The states of an LSTM over gates (images, rows, cols, 4F); returns (rows, cols, F)."""
        edges, domain = self._edges(at, ids, row0, col0)
        self.dense_macs += ids.shape[1] * ids.shape[2] * sum(tap.weights.size for tap in taps)
        return self.add(Scan(at.name, at.layer, ids.shape[3] // 4, domain, edges, tuple(taps), cell, sweep))
