"""The schedule: which features of a graph are computed when, and where, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import Rect
from .graph import Edge, Graph
from .text import at, counted


@dataclass(frozen=True)
class Piece:
    """Features of one node that share a shift: element (r, c) of the node is computed at (r + row, c + col).

    Attributes:
        phase: "encode" (written when a value is drawn), "row" or "pixel"; "always" while a piece that depends on no
            sub-pixel has not found its place.
        steps: for each feature, the channel step in which a pixel's element is computed.
        domain: the rectangle at which it is computed.
    """

    node: int
    features: np.ndarray
    phase: str
    steps: np.ndarray
    row: int
    col: int
    domain: Rect


@dataclass(frozen=True)
class Schedule:
    """Pieces in the order of computation; `piece_of[node]` gives the piece of each of a node's features."""

    graph: Graph
    pieces: tuple[Piece, ...]
    piece_of: tuple[np.ndarray, ...]

    def offset(self, edge: Edge, source: Piece, reader: Piece | None) -> tuple[int, int]:
        """Where `reader` (None: a draw) reads `source`, relative to the running position."""
        row, col = (reader.row, reader.col) if reader is not None else (0, 0)
        return edge.row + source.row - row, edge.col + source.col - col

    def __str__(self) -> str:
        """A line for each piece; @(row,col) is its shift, where it has one."""
        lines = []
        for piece in self.pieces:
            node = self.graph.nodes[piece.node]
            steps = ",".join(str(int(s)) for s in np.unique(piece.steps))
            when = {"encode": "on each draw", "row": "once per row", "pixel": f"per pixel, step {steps}"}[piece.phase]
            words = [counted(len(piece.features), "feature"), when, at(piece.row, piece.col)]
            where = f"  # {node.layer}" if node.layer else ""
            lines.append(f"  %{piece.node} {node.name}: {' '.join(filter(None, words))}{where}")
        return "\n".join(lines)
