"""Availability: for every element of every node, the last sub-pixel that it depends on, and the proof of causality.

Sub-pixel (row, col, channel) has the number (row * W + col) * C + channel. A node's elements have as time the largest
number among the sub-pixels that reach them over nonzero weights, -1 for none. Channels fall into few classes that share
one map of times, so the maps stay small. A model is autoregressive if the parameters of sub-pixel s have times below s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from ..errors import NotAutoregressive
from ..ir.graph import (
    CausalAttention,
    ChannelNorm,
    ChannelReduce,
    Edge,
    Gather,
    Graph,
    Input,
    Node,
    Pointwise,
    Scan,
    TapConv,
)
from ..ir.program import Rect
from ..ir.scan_order import RASTER, Order
from .attention import latest_seen, strongest_cause, without_later_pixels
from .recurrences import scan_cause, scan_times, without_tap


@dataclass(frozen=True)
class Times:
    """Times of one node: `maps` (classes, rows, cols) over its rectangle, -1 off its lattice, and the class of each feature."""

    domain: Rect
    maps: np.ndarray
    classes: np.ndarray

    def at(self, feature: int, row: int, col: int) -> int:
        """The time of one element; -1 outside the rectangle."""
        d = self.domain
        if not (d.row0 <= row < d.row1 and d.col0 <= col < d.col1):
            return -1
        return int(self.maps[self.classes[feature], row - d.row0, col - d.col0])


def availability(graph: Graph) -> list[Times]:
    """Times of all nodes, in the graph's order."""
    times: list[Times] = []
    for node in graph.nodes:
        times.append(_node_times(node, graph, times))
    return times


def _node_times(node: Node, graph: Graph, times: list[Times]) -> Times:
    domain = node.domain
    rows, cols = domain.row1 - domain.row0, domain.col1 - domain.col0
    match node:
        case Input():
            channels, width = graph.shape[0], graph.shape[2]
            row = np.arange(domain.row0, domain.row1)[:, None]
            col = np.arange(domain.col0, domain.col1)[None, :]
            present, classes = np.unique(node.channels, return_inverse=True)
            maps = (row * width + col) * channels + present[:, None, None]
            return Times(domain, maps.astype(np.int32), classes.reshape(-1))
        case TapConv():
            # Which (tap, class of its source) reach each feature.
            reach, sources = [], []
            for edge, weights in node.taps:
                live = weights != 0
                classes = times[edge.source].classes[edge.channels]
                for number in np.unique(classes):
                    reach.append(live[classes == number].any(0))
                    sources.append((edge, int(number)))
        case Pointwise():
            reach, sources = [], []
            for edge in node.edges:
                classes = np.broadcast_to(times[edge.source].classes[edge.channels], (node.features,))
                for number in np.unique(classes):
                    reach.append(classes == number)
                    sources.append((edge, int(number)))
        case Gather():
            reach, sources, first = [], [], 0
            for edge in node.edges:
                here = np.arange(node.features) - first
                inside = (here >= 0) & (here < len(edge.channels))
                classes = np.where(inside, times[edge.source].classes[edge.channels[np.where(inside, here, 0)]], -1)
                for number in np.unique(classes[inside]):
                    reach.append(classes == number)
                    sources.append((edge, int(number)))
                first += len(edge.channels)
        case CausalAttention():
            maps, classes = latest_seen(node, graph.image, times[node.query.source], times[node.cache.source])
            return Times(domain, maps, classes)
        case ChannelReduce() | ChannelNorm():
            sources = [(e, int(number)) for e in node.edges for number in np.unique(times[e.source].classes[e.channels])]
            reach = [np.ones(node.features, dtype=bool) for _ in sources]
        case Scan():
            gates = np.concatenate([_seen(edge, times[edge.source], domain) for edge in node.edges])
            return Times(domain, *scan_times(node, gates))
        case _:
            raise AssertionError(f"unknown node {type(node).__name__}")
    signatures = np.stack(reach, 1) if reach else np.zeros((node.features, 0), dtype=bool)
    patterns, classes = np.unique(signatures, axis=0, return_inverse=True)
    maps = np.full((len(patterns), rows, cols), -1, dtype=np.int32)
    for i, (edge, number) in enumerate(sources):
        users = np.flatnonzero(patterns[:, i])
        if len(users):
            seen = _window(times[edge.source], number, edge, domain)
            maps[users] = np.maximum(maps[users], seen)
    if not node.lattice.everywhere:
        maps[:, ~elements(node)] = -1
    return Times(domain, maps, classes.reshape(-1))


def _seen(edge: Edge, source: Times, domain: Rect) -> np.ndarray:
    """Times that a reader over `domain` sees through an edge: (channels, rows, cols)."""
    classes = source.classes[edge.channels]
    windows = {int(number): _window(source, int(number), edge, domain) for number in np.unique(classes)}
    return np.stack([windows[int(number)] for number in classes])


def elements(node: Node) -> np.ndarray:
    """Which pixels of a node's rectangle lie on its lattice: bool (rows, cols)."""
    d = node.domain
    here = np.zeros((d.row1 - d.row0, d.col1 - d.col0), dtype=bool)
    rows, cols = node.lattice.rows(d.row0, d.row1), node.lattice.columns(d.col0, d.col1)
    here[np.ix_(np.array(rows, dtype=np.int64) - d.row0, np.array(cols, dtype=np.int64) - d.col0)] = True
    return here


def _window(source: Times, number: int, edge: Edge, domain: Rect) -> np.ndarray:
    """Times that a reader over `domain` sees through an edge: (rows, cols), -1 outside the edge's rectangle."""
    seen = np.full((domain.row1 - domain.row0, domain.col1 - domain.col0), -1, dtype=np.int32)
    reads = domain.shifted(edge.row, edge.col)
    row0, row1 = max(reads.row0, edge.rect.row0), min(reads.row1, edge.rect.row1)
    col0, col1 = max(reads.col0, edge.rect.col0), min(reads.col1, edge.rect.col1)
    if row0 < row1 and col0 < col1:
        rows = slice(row0 - source.domain.row0, row1 - source.domain.row0)
        cols = slice(col0 - source.domain.col0, col1 - source.domain.col0)
        part = source.maps[number, rows, cols]
        seen[row0 - reads.row0 : row1 - reads.row0, col0 - reads.col0 : col1 - reads.col0] = part
    return seen


def leaks(graph: Graph, times: list[Times]) -> int:
    """How many parameters depend on their own or a later sub-pixel."""
    return sum(int(mask.sum()) for _, _, _, mask in _leaking(graph, times))


def _leaking(graph: Graph, times: list[Times]) -> list[tuple[int, Edge, int, np.ndarray]]:
    """For each output edge and class of its source: (channel, edge, class, mask (H, W) of leaking pixels)."""
    channels, height, width = graph.shape
    number = np.arange(height * width).reshape(height, width) * channels
    found = []
    for channel, edges in enumerate(graph.outputs):
        for edge in edges:
            source = times[edge.source]
            for k in np.unique(source.classes[edge.channels]):
                mask = _window(source, int(k), edge, graph.image) >= number + channel
                if mask.any():
                    found.append((channel, edge, int(k), mask))
    return found


def find_leak(graph: Graph, times: list[Times], order: Order = RASTER) -> NotAutoregressive | None:
    """The error that names layer, node and offset of a leak; None if every parameter depends on earlier sub-pixels only.

    The error speaks of the user's image, from which the order made the graph's.
    """
    found = _leaking(graph, times)
    if not found:
        return None
    channels, height, width = graph.shape
    channel, edge, number, mask = found[0]
    rows, cols = np.nonzero(mask)
    middle = np.argmin(abs(rows - height // 2) + abs(cols - width // 2))
    row, col = int(rows[middle]), int(cols[middle])
    limit = (row * width + col) * channels + channel
    members = edge.channels[times[edge.source].classes[edge.channels] == number]
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


Step = tuple[int, int, int, int]  # node, feature, row, col


def _path(graph: Graph, times: list[Times], node: int, feature: int, row: int, col: int, limit: int) -> list[Step]:
    """Elements from an output back to the image, each with a time that must not be."""
    path = [(node, feature, row, col)]
    while not isinstance(graph.nodes[node], Input):
        reader = graph.nodes[node]
        if isinstance(reader, Scan):
            node, feature, row, col = scan_cause(node, reader, times, feature, row, col, limit)
        else:
            node, feature, row, col = _cause(reader, times, feature, row, col, limit)
        path.append((node, feature, row, col))
    return path


def _cause(node: Node, times: list[Times], feature: int, row: int, col: int, limit: int) -> Step:
    """An element that `node` reads there and whose time is at least `limit`."""
    if isinstance(node, CausalAttention):
        return strongest_cause(node, times[node.query.source], times[node.cache.source], feature, row, col)
    best: Step | None = None
    best_time = limit - 1
    for index, edge in enumerate(node.edges):
        r, c = row + edge.row, col + edge.col
        if not (edge.rect.row0 <= r < edge.rect.row1 and edge.rect.col0 <= c < edge.rect.col1):
            continue
        match node:
            case TapConv():
                channels = edge.channels[node.weights[index][:, feature] != 0]
            case Pointwise() if len(edge.channels) > 1:
                channels = edge.channels[feature : feature + 1]
            case Gather():
                before = sum(len(other.channels) for other in node.edges[:index])
                channels = edge.channels[max(feature - before, 0) :][:1] if feature >= before else edge.channels[:0]
            case _:
                channels = edge.channels
        for channel in channels:
            time = times[edge.source].at(int(channel), r, c)
            if time > best_time:
                best, best_time = (edge.source, int(channel), r, c), time
    assert best is not None, "an element's time must come from something that it reads"
    return best


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
    """Whether the model is autoregressive without the one weight that leads from `source` to `reader`."""
    index, feature, row, col = reader
    node = graph.nodes[index]
    if isinstance(node, CausalAttention) and source[0] == node.cache.source:
        stricter = (False, True) if source[2:] > (row, col) else (True,)
        return any(_heals_as(graph, index, without_later_pixels(node, graph.image, strictly)) for strictly in stricter)
    if isinstance(node, Scan) and source[0] == index:
        return _heals_as(graph, index, without_tap(node, source[2] - row, source[3] - col))
    if not isinstance(node, TapConv):
        return False
    weights = list(node.weights)
    for number, edge in enumerate(node.edges):
        if (edge.source, row + edge.row, col + edge.col) == (source[0], source[2], source[3]):
            weights[number] = weights[number].copy()
            weights[number][edge.channels == source[1], feature] = 0
    return _heals_as(graph, index, replace(node, weights=tuple(weights)))


def _heals_as(graph: Graph, index: int, node: Node) -> bool:
    """Whether the model is autoregressive with another node in the place of one."""
    nodes = list(graph.nodes)
    nodes[index] = node
    healed = replace(graph, nodes=tuple(nodes))
    return leaks(healed, availability(healed)) == 0


def _title(node: Node) -> str:
    return f"layer {node.layer!r} ({node.name})" if node.layer else node.name
