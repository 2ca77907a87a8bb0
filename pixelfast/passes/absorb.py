"""Absorb: sums of convolutions become one convolution, and known scales and shifts become part of its weights.

A gated layer adds what the vertical stack sends to what the horizontal stack sees: as one convolution, all of the first
is computed once per row with the other taps on rows above. Batch normalisation in eval mode costs nothing afterwards.
Sums are taken in another order than the module takes them, so results change in the last bits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from ..ir.graph import Edge, Graph, Node
from ..ops import Operand, Pointwise, TapConv


def absorb(graph: Graph) -> Graph:
    """The graph with linear pointwise nodes written into the convolutions that only they read."""
    readers = Counter(edge.source for node in graph.nodes for edge in node.edges)
    readers.update(edge.source for edges in graph.outputs for edge in edges)
    nodes = list(graph.nodes)
    for index, node in enumerate(nodes):
        if isinstance(node, Pointwise):
            absorbed = _sum(node, nodes, readers) or _affine(node, nodes, readers)
            if absorbed is not None:
                nodes[index] = absorbed
    return replace(graph, nodes=tuple(nodes))


def _own_convolution(leaf: Operand, node: Pointwise, nodes: list[Node], readers: Counter[int]) -> TapConv | None:
    """The convolution behind a leaf, if nothing else reads it and the leaf reads each feature once, everywhere."""
    if not isinstance(leaf, Edge) or readers[leaf.source] != 1:
        return None
    source = nodes[leaf.source]
    if not isinstance(source, TapConv) or not leaf.rect.contains(node.domain.shifted(leaf.row, leaf.col)):
        return None
    if not source.lattice.contains(node.lattice.shifted(leaf.row, leaf.col)):
        return None
    return source if len(np.unique(leaf.channels)) == node.features else None


def _columns(
    convolution: TapConv, reader: Edge, scale: np.ndarray
) -> tuple[tuple[Edge, ...], tuple[np.ndarray, ...], np.ndarray]:
    """Edges, weights and bias of the features that an edge picks, seen from its reader, times a scale (F,)."""
    edges = tuple(replace(edge, row=edge.row + reader.row, col=edge.col + reader.col) for edge in convolution.edges)
    weights = tuple((matrix[:, reader.channels] * scale).astype(np.float32) for matrix in convolution.weights)
    return edges, weights, (convolution.bias[reader.channels].astype(np.float64) * scale).astype(np.float32)


def _sum(node: Pointwise, nodes: list[Node], readers: Counter[int]) -> TapConv | None:
    """a + b or a - b of two convolutions as one."""
    if len(node.ops) != 1 or node.ops[0].name not in ("add", "sub") or sorted(node.ops[0].args) != [0, 1]:
        return None
    edges: tuple[Edge, ...] = ()
    weights: tuple[np.ndarray, ...] = ()
    bias = np.zeros(node.features, np.float32)
    operands = node.operands
    for place, sign in zip(node.ops[0].args, (1.0, 1.0 if node.ops[0].name == "add" else -1.0), strict=True):
        edge = operands[place]
        convolution = _own_convolution(edge, node, nodes, readers)
        if convolution is None or not isinstance(edge, Edge):
            return None
        more_edges, more_weights, shift = _columns(convolution, edge, np.full(node.features, sign))
        edges, weights, bias = edges + more_edges, weights + more_weights, bias + shift
    return TapConv(node.name, node.layer, node.features, node.domain, edges, weights, bias, lattice=node.lattice)


def _affine(node: Pointwise, nodes: list[Node], readers: Counter[int]) -> TapConv | None:
    """A convolution times and plus known numbers for each channel, as one convolution."""
    edge, *numbers = node.operands
    if not isinstance(edge, Edge) or not all(isinstance(leaf, (float, np.ndarray)) for leaf in numbers):
        return None
    convolution = _own_convolution(edge, node, nodes, readers)
    if convolution is None:
        return None
    scale, shift = np.ones(node.features), np.zeros(node.features)
    for i, op in enumerate(node.ops):
        running = 0 if i == 0 else len(node.leaves) + i - 1
        other = [arg for arg in op.args if arg != running]
        if op.name not in ("add", "sub", "mul", "div") or len(other) != 1 or not 0 < other[0] < len(node.leaves):
            return None
        number = np.broadcast_to(np.asarray(numbers[other[0] - 1], dtype=np.float64), (node.features,))
        if op.name in ("sub", "div") and op.args[0] != running:
            return None
        match op.name:
            case "add":
                shift = shift + number
            case "sub":
                shift = shift - number
            case "mul":
                scale, shift = scale * number, shift * number
            case _:
                scale, shift = scale / number, shift / number
    if not node.ops or not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return None
    edges, weights, bias = _columns(convolution, edge, scale)
    bias = (bias + shift).astype(np.float32)
    return TapConv(node.name, node.layer, node.features, node.domain, edges, weights, bias, lattice=node.lattice)
