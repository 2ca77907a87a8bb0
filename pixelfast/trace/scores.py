"""Attention scores: products of queries and keys, which belong to no pixel until they meet the values (rules/attention.py).

Stepped numbers (index.py) say which product each number of such a tensor is: number (b * rows + i) * cols + j is
left[b, i] . right[b, j]. Letters: B batch entries (images times heads, in either order), E channels of a head's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from .values import Value, shape_of


@dataclass(frozen=True)
class Weights:
    """The products after a softmax, and what was done to that: factor * softmax, and 0 where `zeroed`."""

    over_cols: bool
    factor: Tensor
    zeroed: Tensor


@dataclass(frozen=True)
class Products:
    """A traced tensor of products between vectors of two others, or of the weights that a softmax made of them.

    `numbers` (stepped) says which product stands where. `left` is (B, rows, E), `right` (B, cols, E). A score is
    factor * product + bias. All known tensors are (B or 1, rows or 1, cols or 1).
    """

    numbers: Tensor
    left: Value
    right: Value
    factor: Tensor
    bias: Tensor
    weights: Weights | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        batch, rows, _ = shape_of(self.left)
        return batch, rows, shape_of(self.right)[1]

    def name(self) -> str:
        return "attention scores" if self.weights is None else "attention weights"


def products_in(tree: Any) -> list[Products]:
    """All products in nested arguments."""
    result: list[Products] = []

    def note(item: Any) -> Any:
        if isinstance(item, Products):
            result.append(item)
        return item

    fx.node.map_aggregate(tree, note)
    return result
