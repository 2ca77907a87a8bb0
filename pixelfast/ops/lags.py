"""Lags: the earliest running position (row, column, channel step) at which all that a feature depends on is drawn.

A lag is relative to the feature's own place and is written as one number, (row * ROW + column) * C + step, so that lags compare
in raster order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.graph import Edge

ROW = 1 << 24
"""Weight of a row in a lag: far wider than any image."""
START = -(ROW // 4)
"""Column of a lag that ends before its row starts: of what depends on all of the row above, as from the right it does."""
NEVER = np.iinfo(np.int64).min // 4
"""Lag of what depends on no sub-pixel."""


def decode(position: int) -> tuple[int, int]:
    """Row and column of a lag without its step."""
    row = (position + ROW // 2) // ROW
    return row, position - row * ROW


def lags_through(edge: Edge, lags: Sequence[np.ndarray], channels: int) -> np.ndarray:
    """The lags of an edge's channels at its reader's place; `channels` of the image, `lags` of all nodes."""
    lag = lags[edge.source][edge.channels]
    return np.where(lag > NEVER // 2, lag + (edge.row * ROW + edge.col) * channels, NEVER)


def latest_lag(edges: Sequence[Edge], lags: Sequence[np.ndarray], channels: int) -> int:
    """The lag of what waits for all channels of some edges."""
    return max((int(lags_through(edge, lags, channels).max()) for edge in edges), default=NEVER)
