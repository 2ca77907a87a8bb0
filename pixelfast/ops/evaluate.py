"""What a graph computes on finished images, node by node, in float64: the definition of every kind of node.

Letters: N images, H rows, W columns, C channels, F features of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.expression import evaluate as evaluate_expression
from ..ir.geometry import Rect
from ..ir.graph import (
    CausalAttention,
    ChannelNorm,
    ChannelReduce,
    Edge,
    FieldEdge,
    FieldSpec,
    Gather,
    Input,
    Node,
    Operand,
    Pointwise,
    Scan,
    TapConv,
)
from .recurrence import lstm_scan


def evaluate_nodes(
    nodes: Sequence[Node], specs: Sequence[FieldSpec], fields: Sequence[np.ndarray], images: Tensor
) -> list[Tensor]:
    """The features of every node: float64 (N, rows, cols, F) over its rectangle, 0 off its lattice.

    Args:
        nodes, specs: of a graph (`pixelfast.ir.graph.Graph`).
        fields: the numbers of every field, (N or 1, rows or 1, cols or 1, F).
        images: integers (N, H, W, C).

    Raises:
        NotImplementedError: a kind of node that is not known here.
    """
    evaluation = _Evaluation(specs, [torch.from_numpy(field).double() for field in fields], images.long())
    with torch.no_grad():
        for node in nodes:
            evaluation.add(node)
    return evaluation.found


class _Evaluation:
    def __init__(self, specs: Sequence[FieldSpec], fields: list[Tensor], images: Tensor) -> None:
        self.specs, self.fields, self.images = specs, fields, images
        self.nodes: list[Node] = []
        self.found: list[Tensor] = []

    def add(self, node: Node) -> None:
        if type(node) not in _KINDS:
            raise NotImplementedError(f"{node.name}: nodes of kind {type(node).__name__} have no definition in {__name__}")
        value = _KINDS[type(node)](self, node)
        self.nodes.append(node)
        self.found.append(torch.where(_on_lattice(node), value, 0.0))

    def read(self, node: Node, edge: Edge) -> Tensor:
        """(N, rows, cols, channels) at the elements of a node: what stands outside the edge's rectangle is 0."""
        domain, source = node.domain, self.nodes[edge.source].domain
        here = domain.shifted(edge.row, edge.col)
        rows = max(here.row0, edge.rect.row0), min(here.row1, edge.rect.row1)
        cols = max(here.col0, edge.rect.col0), min(here.col1, edge.rect.col1)
        result = torch.zeros(len(self.images), *_size(domain), len(edge.channels), dtype=torch.float64)
        if rows[0] < rows[1] and cols[0] < cols[1]:
            part = self.found[edge.source][
                :, rows[0] - source.row0 : rows[1] - source.row0, cols[0] - source.col0 : cols[1] - source.col0
            ]
            result[:, rows[0] - here.row0 : rows[1] - here.row0, cols[0] - here.col0 : cols[1] - here.col0] = part[
                ..., torch.from_numpy(edge.channels)
            ]
        return result

    def read_all(self, node: Node, edges: Sequence[Edge]) -> Tensor:
        return torch.cat([self.read(node, edge) for edge in edges], -1)

    def read_leaf(self, node: Node, leaf: Operand) -> Tensor:
        if isinstance(leaf, Edge):
            return self.read(node, leaf)
        if isinstance(leaf, FieldEdge):
            spec, field = self.specs[leaf.field], self.fields[leaf.field]
            for axis, (start, first, last) in enumerate(
                ((spec.row0, node.domain.row0, node.domain.row1), (spec.col0, node.domain.col0, node.domain.col1)), 1
            ):
                if field.shape[axis] > 1:
                    field = field.narrow(axis, first - start, last - first)
            return field[..., torch.from_numpy(leaf.channels)]
        return torch.as_tensor(leaf, dtype=torch.float64)

    def input(self, node: Input) -> Tensor:
        domain = node.domain
        values = self.images[:, domain.row0 : domain.row1, domain.col0 : domain.col1]
        table = torch.from_numpy(node.table).double()
        return torch.stack([table[f][values[..., channel]] for f, channel in enumerate(node.channels.tolist())], -1)

    def conv(self, node: TapConv) -> Tensor:
        start = torch.from_numpy(node.bias).double().expand(len(self.images), *_size(node.domain), -1)
        return sum((self.read(node, edge) @ torch.from_numpy(weights).double() for edge, weights in node.taps), start=start)

    def pointwise(self, node: Pointwise) -> Tensor:
        value = evaluate_expression(node.ops, [self.read_leaf(node, leaf) for leaf in node.operands])
        return value.expand(len(self.images), *_size(node.domain), node.features)

    def reduce(self, node: ChannelReduce) -> Tensor:
        x = self.read_all(node, node.edges)
        if node.kind == "var":
            return x.var(-1, correction=node.correction, keepdim=True)
        return _REDUCTIONS[node.kind](x)

    def norm(self, node: ChannelNorm) -> Tensor:
        x = self.read_all(node, node.edges)
        scale, shift = torch.from_numpy(node.scale).double(), torch.from_numpy(node.shift).double()
        return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, shift, node.eps)

    def gather(self, node: Gather) -> Tensor:
        return self.read_all(node, node.edges)

    def attention(self, node: CausalAttention) -> Tensor:
        _, height, width, _ = self.images.shape
        queries = self.read(node, node.query).unflatten(-1, (node.heads, -1))  # (N, rows, cols, heads, E)
        # The cache holds every pixel of the image that any asks for; its offset says nothing about which.
        source = self.nodes[node.cache.source].domain
        everything = Node("", "", 0, Rect(0, height, 0, width), ())
        shift = Edge(node.cache.source, 0, 0, node.cache.channels, source)
        kept = self.read(everything, shift).flatten(1, 2)  # (N, H * W, channels)
        keys, values = kept.split([node.heads * node.size, kept.shape[-1] - node.heads * node.size], -1)
        keys, values = keys.unflatten(-1, (node.heads, -1)), values.unflatten(-1, (node.heads, -1))
        mask = torch.from_numpy(node.seen.mask(height * width))  # (lists, pixels)
        scores = torch.einsum("nqhe,nkhe->nhqk", queries.flatten(1, 2), keys) * node.scale
        for number, own in enumerate([] if node.bias is None else torch.from_numpy(node.bias).double()):
            heads = slice(None) if len(node.bias) == 1 else slice(number, number + 1)  # type: ignore[arg-type]
            bias = torch.zeros(mask.shape, dtype=torch.float64)
            bias[mask] = own
            scores[:, heads] += _asking(bias, node, height, width)
        weights = scores.masked_fill(~_asking(mask, node, height, width), -torch.inf).softmax(-1).nan_to_num(0.0)
        return torch.einsum("nhqk,nkhd->nqhd", weights, values).flatten(2).unflatten(1, _size(node.domain))

    def scan(self, node: Scan) -> Tensor:
        gates = self.read_all(node, node.edges).permute(0, 3, 1, 2)
        weights = torch.stack([torch.from_numpy(tap.weights).double() for tap in node.taps])
        return lstm_scan(gates, weights, [(tap.row, tap.col) for tap in node.taps], node.cell).permute(0, 2, 3, 1)


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "amax": lambda x: x.amax(-1, keepdim=True),
    "amin": lambda x: x.amin(-1, keepdim=True),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True),
}

_KINDS: dict[type[Node], Callable[[_Evaluation, Any], Tensor]] = {
    Input: _Evaluation.input,
    TapConv: _Evaluation.conv,
    Pointwise: _Evaluation.pointwise,
    ChannelReduce: _Evaluation.reduce,
    ChannelNorm: _Evaluation.norm,
    Gather: _Evaluation.gather,
    CausalAttention: _Evaluation.attention,
    Scan: _Evaluation.scan,
}


def _asking(lists: Tensor, node: Node, height: int, width: int) -> Tensor:
    """Lists (1 or heads times H * W, pixels) of the pixels in a node's rectangle: (1 or heads, rows * cols, pixels)."""
    domain = node.domain
    whole = lists.unflatten(0, (-1, height, width))
    return whole[:, domain.row0 : domain.row1, domain.col0 : domain.col1].flatten(1, 2)


def _size(rect: Rect) -> tuple[int, int]:
    return rect.row1 - rect.row0, rect.col1 - rect.col0


def _on_lattice(node: Node) -> Tensor:
    """Where the elements of a node's rectangle stand: bool (rows, cols, 1)."""
    domain, lattice = node.domain, node.lattice
    rows, cols = (torch.zeros(length, dtype=torch.bool) for length in _size(domain))
    rows[[row - domain.row0 for row in lattice.rows(domain.row0, domain.row1)]] = True
    cols[[col - domain.col0 for col in lattice.columns(domain.col0, domain.col1)]] = True
    return (rows[:, None] & cols)[..., None]
