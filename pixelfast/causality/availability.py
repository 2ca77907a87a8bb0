"""Availability: for every element of every node, the last sub-pixel that it depends on, and the proof of causality.

An element's time is the largest number among the sub-pixels that reach it over nonzero weights (`pixelfast.ops.times`).
A model is autoregressive if the parameters of sub-pixel s have times below s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.graph import Edge, Graph
from ..ops import operations
from ..ops.times import Times, window


def availability(graph: Graph) -> list[Times]:
    """Times of all nodes, in the graph's order."""
    times: list[Times] = []
    for node in operations(graph):
        times.append(node.times(graph, times))
    return times


@dataclass(frozen=True)
class Leak:
    """Pixels, bool (H, W), whose parameters of a channel read a class of an edge's source that is not there yet."""

    channel: int
    edge: Edge
    number: int
    pixels: np.ndarray


def leaks(graph: Graph, times: list[Times]) -> list[Leak]:
    """All parameters that depend on their own or a later sub-pixel; none where the model is autoregressive."""
    channels, height, width = graph.shape
    number = np.arange(height * width).reshape(height, width) * channels
    result = []
    for channel, edges in enumerate(graph.outputs):
        for edge in edges:
            source = times[edge.source]
            for k in np.unique(source.classes[edge.channels]):
                mask = window(source, int(k), edge, graph.image) >= number + channel
                if mask.any():
                    result.append(Leak(channel, edge, int(k), mask))
    return result


def leak_count(graph: Graph, times: list[Times]) -> int:
    """How many pixels of how many classes of parameters depend on their own or a later sub-pixel."""
    return sum(int(leak.pixels.sum()) for leak in leaks(graph, times))
