"""The report of a leak: which layer lets a prediction see what it predicts, or what is drawn later."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np

from ..errors import NotAutoregressive
from ..ir.graph import Graph, Node
from ..ir.scan_order import RASTER, Order
from ..ops import Input, operations
from ..ops.times import Step, Times
from .availability import availability, leaks


def find_leak(graph: Graph, times: list[Times], order: Order = RASTER) -> NotAutoregressive | None:
    """The error that names layer, node and offset of a leak; None if every parameter depends on earlier sub-pixels only.

    The error speaks of the user's image, from which the order made the graph's.
    """
    found = leaks(graph, times)
    if not found:
        return None
    channels, height, width = graph.shape
    channel, edge = found[0].channel, found[0].edge
    rows, cols = np.nonzero(found[0].pixels)
    middle = np.argmin(abs(rows - height // 2) + abs(cols - width // 2))
    row, col = int(rows[middle]), int(cols[middle])
    limit = (row * width + col) * channels + channel
    members = edge.channels[times[edge.source].classes[edge.channels] == found[0].number]
    path = _path(graph, times, edge.source, int(members[0]), row + edge.row, col + edge.col, limit)
    culprit = _culprit(graph, times, path, limit)
    seen, feature, seen_row, seen_col = path[-1]
    source = graph.nodes[seen]
    assert isinstance(source, Input)
    size = order.shape(graph.shape)[1:]  # rows and columns of the user's image
    (row, col), (seen_row, seen_col) = order.place(row, col, *size), order.place(seen_row, seen_col, *size)
    offset = (seen_row - row, seen_col - col)
    seen_channel = int(source.channels[feature])
    names = ["output", *(_title(graph.nodes[number]) for number, _ in groupby(step[0] for step in path))]
    node = graph.nodes[culprit]
    itself = offset == (0, 0) and seen_channel == channel
    return NotAutoregressive(
        f"not autoregressive: the prediction of channel {channel} at pixel ({row}, {col}) depends on "
        + ("that very value" if itself else f"channel {seen_channel} at pixel ({seen_row}, {seen_col})")
        + f" (offset {offset[0]:+d} rows, {offset[1]:+d} columns), which is "
        + ("what it predicts" if itself else "drawn later")
        + f". The leak enters at {_title(node)}; path from the output back to the image: "
        + " <- ".join(names)
        + ". Mask that layer's weights (mask A in the first layer, the colour mask in every layer, a shift after each "
        f"unmasked convolution); pixelfast.check shows what each pixel sees. Or is {order.name} not the model's "
        "order of generation? Then pass order=",
        layer=node.layer,
        node=node.name,
        offset=offset,
    )


def _path(graph: Graph, times: list[Times], node: int, feature: int, row: int, col: int, limit: int) -> list[Step]:
    """Elements from an output back to the image, each with a time that must not be."""
    nodes = operations(graph)
    path = [(node, feature, row, col)]
    while not isinstance(nodes[path[-1][0]], Input):
        path.append(nodes[path[-1][0]].cause(graph, times, path[-1], limit))
    return path


def _culprit(graph: Graph, times: list[Times], path: list[Step], limit: int) -> int:
    """The node at which a leak enters.

    A layer with a single weight too many is found by taking that weight out. Where later pixels are seen, it is the layer
    from which on all see beyond their own place. Otherwise it is where, from the image on, more channels come to depend on
    what they must not see than before; if all channels do all the way, it is the first layer, which looks at the image itself.
    """
    for reader, source in pairwise(path):
        if _heals(graph, reader, source):
            return reader[0]
    farsighted = [node for node, *at in path if _sees_beyond_its_place(graph, times[node], *at)]
    prefix = [step[0] for step in path[: len(farsighted)]]
    _, _, seen_row, seen_col = path[-1]
    later = seen_row * graph.shape[2] + seen_col > limit // graph.shape[0]  # nodes may stand beside the pixel that they serve
    if later and farsighted and farsighted == prefix:
        return farsighted[-1]
    shares = []
    for node, _, row, col in reversed(path):
        late = [times[node].at(feature, row, col) >= limit for feature in range(graph.nodes[node].features)]
        shares.append(sum(late) / len(late))
    order = [step[0] for step in reversed(path)]
    for i in range(2, len(order)):
        if shares[i] > shares[i - 1] + 1e-9:
            return order[i]
    return order[1] if len(order) > 1 else order[0]


def _sees_beyond_its_place(graph: Graph, times: Times, feature: int, row: int, col: int) -> bool:
    channels, _, width = graph.shape
    return times.at(feature, row, col) >= (row * width + col + 1) * channels


def _heals(graph: Graph, reader: Step, source: Step) -> bool:
    """Whether the model is autoregressive without the one thing that leads from `source` to `reader`."""
    return any(_heals_as(graph, reader[0], node) for node in operations(graph)[reader[0]].without(graph, reader, source))


def _heals_as(graph: Graph, index: int, node: Node) -> bool:
    """Whether the model is autoregressive with another node in the place of one."""
    nodes = list(graph.nodes)
    nodes[index] = node
    healed = replace(graph, nodes=tuple(nodes))
    return not leaks(healed, availability(healed))


def _title(node: Node) -> str:
    return f"layer {node.layer!r} ({node.name})" if node.layer else node.name
