"""From weights and values to the node: what each pixel looks at, and queries, keys and values side by side.

Letters: B batch entries (images times heads, in either order), L pixels, E and D channels of a head's keys and values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ...ir.program import PixelRuns
from ..context import Context
from ..index import IMAGES, NEXT_IMAGE, all_elements, both_images, written_out
from ..layout_types import PlainLayout
from ..scores import Products
from ..values import Value, mixed, shape_of
from .pointwise import pointwise

aten = torch.ops.aten

NOTHING = 1e3
"""By how much a key's bias lies below the largest of its row if its weight is exactly 0 in float32, whatever is asked."""


@dataclass(frozen=True)
class _Rows:
    """What each head and asking pixel looks at; tensors (heads or 1, L, L) or (heads or 1, L).

    A row without keys gives NaN where `lost`, and else 0. Scores are scale * product + bias, results are times `factor`.
    """

    seen: Tensor
    lost: Tensor
    scale: Tensor
    bias: Tensor
    factor: Tensor
    refusal: str


def attention_node(c: Context, products: Products, values: Value) -> Value:
    """The node of an attention: (B, L, D)."""
    batch, pixels, _ = shape_of(values)
    if batch % IMAGES:
        raise UnsupportedModel(f"{c.at}: attention over a batch of {batch}, which is no number of heads times {IMAGES} images")
    assert products.weights is not None
    query, key = (products.left, products.right) if products.weights.over_cols else (products.right, products.left)
    heads, heads_first = batch // IMAGES, _heads_first(c, query)
    rows = _rows(c, products, heads_first)
    maps = [_maps(c, value, heads, heads_first) for value in (query, key, values)]
    scales = torch.unique(rows.scale)
    scale = float(scales[0]) if len(scales) == 1 else 1.0
    if len(scales) > 1:
        maps[0] = _scaled(c, maps[0], rows.scale, heads)
    seen = rows.seen if bool((rows.seen != rows.seen[:1]).any()) else rows.seen[:1]
    lists = PixelRuns.of(seen.reshape(-1, pixels).numpy())
    if not len(lists.runs):
        numbers: Tensor = torch.zeros((*c.builder.shape[1:], heads * shape_of(values)[2]), dtype=torch.int64)
    else:
        bias = _listed(rows.bias, seen)
        try:
            parts = [_all_nodes(c, value) for value in maps]
            numbers = c.builder.attention(c.at, parts, heads, scale, lists, bias, rows.refusal)
        except UnsupportedModel as error:
            raise UnsupportedModel(
                f"{c.at}: attention needs queries, keys and values that stand for the pixels of the image, row by row: {error}"
            ) from error
    empty = ~seen.any(2)  # (heads or 1, L)
    ids = written_out(both_images(numbers)).view(IMAGES, pixels, heads, -1).transpose(1, 2)  # (images, heads, L, D)
    ids = torch.where(empty.unsqueeze(-1), 0, ids)
    const = torch.where(rows.lost & empty, math.nan, 0.0).unsqueeze(-1).expand(ids.shape)
    if bool((rows.factor != 1).any()):
        factor = Value(None, rows.factor.unsqueeze(-1).expand(ids.shape[1:]).contiguous())
        result = pointwise(c, aten.mul.Tensor, mixed(ids, const, None), factor)
    else:
        result = mixed(ids, const, None)
    if heads_first:
        result = c.permuted(result, [1, 0, 2, 3])
    return c.reshaped(result, (batch, pixels, shape_of(values)[2]))


def _heads_first(c: Context, query: Value) -> bool:
    """Whether a batch (B, L, E) has for each head all images, instead of for each image all heads."""
    batch = shape_of(query)[0]
    number = query.ids.reshape(batch, -1).amax(1)
    image, entry, known = number // NEXT_IMAGE, torch.arange(batch), number > 0  # a head's queries may all be constant
    if torch.equal(image[known], (entry // (batch // IMAGES))[known]):
        return False
    if torch.equal(image[known], (entry % IMAGES)[known]):
        return True
    raise UnsupportedModel(
        f"{c.at}: attention over a batch of shape {shape_of(query)} whose entries are no images, or images and heads; an "
        'attention along rows or columns alone is not supported. engine="naive" samples such a model, slowly'
    )


# -------------------------------------------------------------------- what is known


def _rows(c: Context, products: Products, heads_first: bool) -> _Rows:
    weights = products.weights
    assert weights is not None

    def by_head(tensor: Tensor) -> Tensor:
        """(B or 1, rows or 1, cols or 1) -> (heads or 1, query, key)."""
        tensor = tensor if weights.over_cols else tensor.transpose(1, 2)
        if len(tensor) == 1:
            return tensor
        split = tensor.unflatten(0, (-1, IMAGES) if heads_first else (IMAGES, -1))
        split = split.transpose(0, 1) if heads_first else split
        if not torch.equal(split[0], split[1]):
            raise UnsupportedModel(f"{c.at} treats the images of a batch differently: each image must be computed by itself")
        return split[0] if len(split[0]) == 1 or (split[0] != split[0][:1]).any() else split[0][:1]

    pixels = products.size[1]
    factor, bias = by_head(products.factor), by_head(products.bias)
    if bool((bias == math.inf).any() or bias.isnan().any()):
        raise UnsupportedModel(f"{c.at}: attention scores are masked with NaN or +infinity (0 times infinity is NaN)")
    after, zeroed = by_head(weights.factor), by_head(weights.zeroed)
    factor, bias, after, zeroed = torch.broadcast_tensors(factor, bias, after, zeroed)
    full = (len(factor), pixels, pixels)
    factor, bias, after, zeroed = (tensor.expand(full) for tensor in (factor, bias, after, zeroed))

    top = bias.amax(2, keepdim=True)
    seen = (bias > top - NOTHING) & (bias > -math.inf)
    lost = ~seen.any(2) & ~zeroed.all(2)
    low, high = _range(torch.where(zeroed, 0.0, after), seen)
    refusal = ""
    if bool((low != high).any()):
        refusal = (
            f"{c.at}: attention weights are multiplied or filled by numbers that differ from key to key after the softmax, "
            "which has looked at all of them: mask the scores before it"
        )
    # A row that is thrown away has no keys, whatever it looked at.
    seen = seen & ~((low == 0) & (high == 0)).unsqueeze(2)
    kept = seen.any(2)
    single = seen.sum(2) == 1
    least, most = _range(factor, seen)
    if bool(((least != most) & ~single).any()):
        refusal = refusal or (
            f"{c.at}: some keys of a pixel have scores that are multiplied by another number than the others' (a mask that "
            "multiplies, and leaves a score of 0, masks nothing): add -1e4 or -infinity where nothing may be seen"
        )
    usual = least[kept & ~single]
    scale = torch.where(kept & ~single, least, usual[0] if len(usual) else 1.0)
    return _Rows(seen, lost, scale, torch.where(seen, bias - top, 0.0), torch.where(kept, low, 1.0), refusal)


def _range(tensor: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest number along the last axis among those chosen; 1 where none is."""
    low = torch.where(chosen, tensor, math.inf).amin(2)
    high = torch.where(chosen, tensor, -math.inf).amax(2)
    some = chosen.any(2)
    return torch.where(some, low, 1.0), torch.where(some, high, 1.0)


def _listed(bias: Tensor, seen: Tensor) -> np.ndarray | None:
    """(heads or 1, L, L) as (heads or 1, keys of all lists); None if it is the same for all keys of a row."""
    low, high = _range(bias, seen)
    if bool((low == high).all()):
        return None
    if len(seen) > 1:
        return bias[seen].reshape(1, -1).numpy().copy()
    return bias.transpose(0, 1).transpose(1, 2)[seen[0]].T.contiguous().numpy().copy()


# -------------------------------------------------------------------- queries, keys, values


def _maps(c: Context, value: Value, heads: int, heads_first: bool) -> Value:
    """(B, L, E) as feature maps (images, H, W, heads * E), if its pixels stand in raster order."""
    _, pixels, size = shape_of(value)
    _, height, width = c.builder.shape
    if heads_first:
        split = c.permuted(c.reshaped(value, (heads, IMAGES, pixels, size)), [1, 2, 0, 3])
    else:
        split = c.permuted(c.reshaped(value, (IMAGES, heads, pixels, size)), [0, 2, 1, 3])
    return c.reshaped(split, (IMAGES, height, width, heads * size))


def _scaled(c: Context, query: Value, scale: Tensor, heads: int) -> Value:
    """Queries times a scale (heads or 1, L) of their own."""
    _, height, width = c.builder.shape
    size = shape_of(query)[3] // heads
    factor = scale.expand(heads, -1).T.reshape(height, width, heads).repeat_interleave(size, 2)
    return pointwise(c, aten.mul.Tensor, query, Value(None, factor.contiguous()))


def _all_nodes(c: Context, value: Value) -> Tensor:
    """Element numbers of feature maps (images, H, W, F), whose constants become fields."""
    if value.numbers is None or not all_elements(value.numbers):
        value = c.regular(value, PlainLayout(value.shape, (0, 1, 2), 0, 0))
    assert value.numbers is not None
    return value.numbers
