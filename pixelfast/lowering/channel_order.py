"""Channels: in which order a piece's features stand in its buffer, so that what is read together lies side by side."""

from __future__ import annotations

import numpy as np

from ..ir.graph import CausalAttention, ChannelNorm, Gather, Node, Pointwise
from ..passes.scheduler import Schedule

UNWANTED = 1 << 40
"""Rank of features that nobody wants in a certain place."""


def channel_orders(schedule: Schedule) -> list[np.ndarray]:
    """For each piece, its features in the order of the buffer: by step, then as their readers or sources want them."""
    graph = schedule.graph
    wanted: dict[int, np.ndarray] = {}
    for channel, edges in enumerate(graph.outputs):
        first = 0
        for edge in edges:
            rank = wanted.setdefault(edge.source, np.full(graph.nodes[edge.source].features, UNWANTED))
            rank[edge.channels] = channel * (1 << 20) + first + np.arange(len(edge.channels))
            first += len(edge.channels)
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if index in wanted and isinstance(node, Pointwise):
            for edge in node.edges:
                if len(np.unique(edge.channels)) == node.features and edge.source not in wanted:
                    rank = wanted.setdefault(edge.source, np.full(graph.nodes[edge.source].features, UNWANTED))
                    rank[edge.channels] = wanted[index]
    place = [np.arange(node.features) for node in graph.nodes]
    orders: list[np.ndarray] = []
    for piece in schedule.pieces:
        node = graph.nodes[piece.node]
        # The channels of a head stand together.
        ordered = isinstance(node, (Gather, CausalAttention))
        rank = wanted[piece.node] if piece.node in wanted and not ordered else _source_rank(node, place)
        order = np.lexsort((np.arange(len(piece.features)), rank[piece.features], piece.steps))
        orders.append(order)
        place[piece.node][piece.features[order]] = np.arange(len(order))
    return orders


def _source_rank(node: Node, place: list[np.ndarray]) -> np.ndarray:
    """The places of the channels that a node's features come from, so that both stand in the same order."""
    match node:
        case Pointwise():
            wide = [edge for edge in node.edges if len(np.unique(edge.channels)) == node.features]
            return place[wide[0].source][wide[0].channels] if wide else np.arange(node.features)
        case ChannelNorm() if len(node.edges) == 1:
            return place[node.edges[0].source][node.edges[0].channels]
        case _:
            return np.arange(node.features)
