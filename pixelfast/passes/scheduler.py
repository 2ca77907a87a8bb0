"""Scheduler: who is computed when, derived from the graph.

Each feature has a lag: the earliest running position (row, column, channel step) at which all that it depends on is drawn,
relative to its own place. Lags are compared in raster order and follow from the edges: a reader at offset (dr, dc) of its
source has at least the source's lag plus (dr, dc). Shifting every node by its lag gives one picture of time for all:
the element at (row, col) is computed when the sampler stands at (row, col), and reads only what lies behind.

The states of a recurrence share one lag, that of its gates, since each depends on all before. From the right, a state depends
on all of its row: its lag ends before the next row starts.

A node that nobody needs in the row where its lag ends can wait for that row to be finished: it is computed once per row,
for all columns at once. Everything else is computed pixel by pixel, in the step of the channel that allows it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import UnsupportedModel
from ..ir.graph import Edge, Graph
from ..ir.schedule import Piece, Schedule
from ..ops import Input, operations
from ..ops.lags import NEVER, START, decode, lags_through


def schedule(graph: Graph) -> Schedule:
    """Find lags, split nodes whose features have different shifts, and choose phases.

    Raises:
        UnsupportedModel: the model is causal, but not by shifts that are the same all over the image.
    """
    lags = _settled_lags(graph)
    pieces: list[Piece] = []
    piece_of: list[np.ndarray] = []
    channels = graph.shape[0]
    for index, node in enumerate(graph.nodes):
        numbers = np.zeros(node.features, dtype=np.int64)
        if isinstance(node, Input):
            numbers[:] = len(pieces)
            steps = np.zeros(node.features, dtype=np.int64)
            pieces.append(Piece(index, np.arange(node.features), "encode", steps, 0, 0, node.domain))
        else:
            positions = lags[index] // channels
            for position in np.unique(positions):
                members = np.flatnonzero(positions == position)
                numbers[members] = len(pieces)
                if position < NEVER // channels // 2:
                    pieces.append(Piece(index, members, "always", members * 0, 0, 0, node.domain))
                    continue
                row, col = decode(int(position))
                if col <= START // 2:  # known with the end of the row above, like all that waits for a row
                    row, col = row - 1, 0
                steps = lags[index][members] % channels
                pieces.append(Piece(index, members, "pixel", steps, row, col, node.domain.shifted(row, col)))
        piece_of.append(numbers)
    waiting = Schedule(graph, tuple(pieces), tuple(piece_of))
    phased = Schedule(graph, tuple(_with_phases(waiting)), tuple(piece_of))
    return Schedule(graph, tuple(_with_constants(phased)), tuple(piece_of))


def is_regular(graph: Graph) -> bool:
    """Whether a model that is autoregressive has shifts that are the same all over the image."""
    return _causal(graph, lags_of(graph, frozenset()))


def _settled_lags(graph: Graph) -> list[np.ndarray]:
    """Lags of all features, with as few different shifts within a node as causality allows."""
    free = lags_of(graph, frozenset())
    if not _causal(graph, free):
        raise UnsupportedModel(
            "the model is autoregressive, but not by shifts that are the same all over the image (a wrap-around or a mask "
            'that differs from pixel to pixel): no regular schedule exists. engine="naive" samples it, slowly'
        )
    channels = graph.shape[0]
    mixed = [
        index
        for index, node in enumerate(graph.nodes)
        if not isinstance(node, Input) and len(np.unique(free[index] // channels)) > 1
    ]
    if not mixed:
        return free
    together = lags_of(graph, frozenset(mixed))
    if _causal(graph, together):
        return together
    merged: frozenset[int] = frozenset()
    for index in mixed:
        trial = lags_of(graph, merged | {index})
        if _causal(graph, trial):
            merged |= {index}
    return lags_of(graph, merged)


def lags_of(graph: Graph, merged: frozenset[int]) -> list[np.ndarray]:
    """Lag of each feature of each node; nodes in `merged` wait until all of their features can be computed."""
    channels = graph.shape[0]
    lags: list[np.ndarray] = []
    for index, node in enumerate(operations(graph)):
        lag = node.lags(channels, lags)
        if index in merged:
            position = int(lag.max()) // channels
            lag = np.where(lag // channels < position, position * channels, lag)
        lags.append(lag)
    return lags


def _causal(graph: Graph, lags: list[np.ndarray]) -> bool:
    """Whether the parameters of channel c are there in step c of their pixel."""
    channels = graph.shape[0]
    return all(
        (lags_through(edge, lags, channels) <= channel).all() for channel, edges in enumerate(graph.outputs) for edge in edges
    )


def _with_phases(waiting: Schedule) -> list[Piece]:
    """Decide backwards from the draws which pieces a pixel needs in its own row; the others are computed per row."""
    graph, pieces = waiting.graph, list(waiting.pieces)
    pixel = [False] * len(pieces)

    def demand(edge: Edge, reader: Piece | None) -> None:
        for number in np.unique(waiting.piece_of[edge.source][edge.channels]):
            if waiting.offset(edge, pieces[number], reader)[0] >= 0:
                pixel[number] = True

    for edges in graph.outputs:
        for edge in edges:
            demand(edge, None)
    for number in reversed(range(len(pieces))):
        if pixel[number] and pieces[number].phase == "pixel":
            for edge in graph.nodes[pieces[number].node].edges:
                demand(edge, pieces[number])
    return [_per_row(piece, graph) if piece.phase == "pixel" and not pixel[i] else piece for i, piece in enumerate(pieces)]


def _per_row(piece: Piece, graph: Graph) -> Piece:
    """The piece computed when the row after its last dependence starts, in the columns of the image."""
    domain = graph.nodes[piece.node].domain
    width = domain.col1 - domain.col0
    col = -domain.col0 if width <= graph.shape[2] else 0
    row = piece.row + 1
    return Piece(piece.node, piece.features, "row", piece.steps * 0, row, col, domain.shifted(row, col))


def _with_constants(phased: Schedule) -> list[Piece]:
    """Place pieces that depend on no sub-pixel: computed per row, as early as the earliest of their readers needs them."""
    graph, pieces = phased.graph, list(phased.pieces)
    earliest: dict[int, int] = {}

    def demand(edge: Edge, row: int) -> None:
        for number in np.unique(phased.piece_of[edge.source][edge.channels]):
            earliest[number] = min(earliest.get(number, row - edge.row), row - edge.row)

    for edges in graph.outputs:
        for edge in edges:
            demand(edge, 0)
    for number in reversed(range(len(pieces))):
        piece = pieces[number]
        if piece.phase == "always":
            pieces[number] = piece = _per_row(replace(piece, row=earliest.get(number, 0) - 1), graph)
        for edge in graph.nodes[piece.node].edges:
            demand(edge, piece.row)
    return pieces
