"""Channel order: how a piece's features are ordered in its buffer, so that what is read together lies side by side."""

from __future__ import annotations

import numpy as np

from ..ir.schedule import Schedule
from ..ops import Operation, operations

UNWANTED = 1 << 40
"""Rank of features that nobody wants in a certain place."""


def channel_orders(schedule: Schedule) -> list[np.ndarray]:
    """For each piece, its features in the order of the buffer: by step, then as their readers or sources want them."""
    graph, nodes = schedule.graph, operations(schedule.graph)
    wanted: dict[int, np.ndarray] = {}
    for channel, edges in enumerate(graph.outputs):
        first = 0
        for edge in edges:
            rank = wanted.setdefault(edge.source, np.full(nodes[edge.source].features, UNWANTED))
            rank[edge.channels] = channel * (1 << 20) + first + np.arange(len(edge.channels))
            first += len(edge.channels)
    for index in reversed(range(len(nodes))):
        for edge in nodes[index].order_for() if index in wanted else ():
            if edge.source not in wanted:
                rank = wanted.setdefault(edge.source, np.full(nodes[edge.source].features, UNWANTED))
                rank[edge.channels] = wanted[index]
    place = [np.arange(node.features) for node in nodes]
    orders: list[np.ndarray] = []
    for piece in schedule.pieces:
        node = nodes[piece.node]
        rank = wanted[piece.node] if piece.node in wanted and not node.keeps_order else _source_rank(node, place)
        order = np.lexsort((np.arange(len(piece.features)), rank[piece.features], piece.steps))
        orders.append(order)
        place[piece.node][piece.features[order]] = np.arange(len(order))
    return orders


def _source_rank(node: Operation, place: list[np.ndarray]) -> np.ndarray:
    """The places of the channels that a node's features come from, so that both stand in the same order."""
    edge = node.order_from()
    return np.arange(node.features) if edge is None else place[edge.source][edge.channels]
