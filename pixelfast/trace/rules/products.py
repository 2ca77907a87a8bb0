"""Rules for products with known matrices: convolutions, linear layers, look-ups."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ..constants import alone, known_tensor, sum_of_parts
from ..context import Context, rule
from ..index import all_elements, both_images
from ..layout_types import IndexLayout
from ..layouts import infer_layout
from ..scores import Products
from ..values import Value, mixed, shape_of
from .attention import attention_scores

aten = torch.ops.aten


@rule("convolution")
def convolution(
    c: Context, target: Any, x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Value:  # fmt: skip
    matrix = known_tensor(c, weight, "a weight", "belongs to a convolution")
    if bias is not None and (bias.numbers is not None or bias.dynamic is not None):
        options = (stride, padding, dilation, transposed, output_padding, groups)
        plain = convolution(c, target, x, weight, None, *options)
        return c.call(aten.add.Tensor, (plain, c.call(aten.view.default, (bias, _along_channels(matrix)), {})), {})
    pointwise = not transposed and all(step == 1 for step in stride)
    if matrix.dim() == 3 and matrix.shape[2] == 1 and groups == 1 and pointwise:
        return _per_position(c, x, matrix[:, :, 0], bias)
    if matrix.dim() != 4:
        raise UnsupportedModel(
            f"{c.at}: convolutions over {matrix.dim() - 2} dimensions are not supported. Where rows are computed in a "
            'loop, as in a Row LSTM, pixelfast.lstm_scan is that loop as one operation; engine="naive" samples it, slowly'
        )
    maps, origin = placed(c, x)
    if not c.builder.is_regular(c.at, maps, *origin):
        x = c.regular(x)
        maps, origin = placed(c, x)
    vector = None if bias is None else bias.const
    if not transposed:
        numbers = c.builder.conv(c.at, maps, matrix, vector, padding, dilation, groups, *origin, stride)
    else:
        origin = _fine_enough(c, maps, origin, stride)
        numbers = c.builder.conv_transposed(
            c.at, maps, matrix, vector, stride, padding, output_padding, dilation, groups, *origin
        )  # fmt: skip

    def product(known: Value) -> Value:
        return c.fold(target, (known, weight, None, stride, padding, dilation, transposed, output_padding, groups), {})

    shaped = None if vector is None else Value(None, vector.view(_along_channels(matrix)))
    return sum_of_parts(c, x, both_images(numbers).permute(0, 3, 1, 2), product, shaped)


def _along_channels(weight: Tensor) -> list[int]:
    """The shape in which a convolution's bias meets its result."""
    return [1, -1, *([1] * (weight.dim() - 2))]


Placement = tuple[int, int, tuple[int, int]]
"""Where position (0, 0) of some maps stands, and how many pixels lie from each row and column to the next."""


def placed(c: Context, x: Value) -> tuple[Tensor, Placement]:
    """A tensor (N, I, H, W) as maps (images, rows, cols, I), and where they stand."""
    assert x.numbers is not None
    maps = x.numbers.permute(0, 2, 3, 1)
    origin = c.builder.table.origin(maps, c.builder.shape[1:])
    return c.builder.settled(c.at, maps, *origin), origin


def _fine_enough(c: Context, maps: Tensor, origin: Placement, stride: list[int]) -> Placement:
    """The origin of maps that a transposed convolution spreads out: its outputs must stand at pixels."""
    row0, col0, steps = origin
    # A single row or column does not say how far the next one is.
    rows, cols = (
        step * s if length == 1 and step % s else step for length, step, s in zip(maps.shape[1:3], steps, stride, strict=True)
    )
    if rows % stride[0] or cols % stride[1]:
        raise UnsupportedModel(
            f"{c.at}: a transposed convolution with stride {tuple(stride)} of maps with an element at every {rows} x {cols} "
            'pixels gives maps finer than the image, which is not supported; engine="naive" samples such a model, slowly'
        )
    return row0, col0, (rows, cols)


def _per_position(c: Context, x: Value, matrix: Tensor, bias: Value | None) -> Value:
    """A one-dimensional convolution of kernel 1 over (N, I, L): a linear layer at every position."""
    batch, inputs, length = shape_of(x)
    moved = c.permuted(x, [0, 2, 1])
    product = linear(c, c.reshaped(moved, (batch * length, inputs)), Value(None, matrix.t()), bias)
    return c.permuted(c.reshaped(product, (batch, length, len(matrix))), [0, 2, 1])


@rule("mm")
def mm(c: Context, target: Any, a: Value, b: Value) -> Value:
    return linear(c, a, b, None) if b.numbers is None else linear_transposed(c, a, b)


@rule("addmm")
def addmm(c: Context, target: Any, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Any:
    if beta == 1 and alpha == 1 and bias.numbers is None and b.numbers is None and a.numbers is not None:
        return linear(c, a, b, bias)
    return _scaled_sum(c, bias, c.call(aten.mm.default, (a, b), {}), beta, alpha)


def _scaled_sum(c: Context, x: Value, product: Any, beta: float, alpha: float) -> Any:
    """beta * x + alpha * product; x does not count where beta is 0."""
    product = product if alpha == 1 else c.call(aten.mul.Tensor, (product, float(alpha)), {})
    if beta == 0:
        return product
    return c.call(aten.add.Tensor, (product, x if beta == 1 else c.call(aten.mul.Tensor, (x, float(beta)), {})), {})


@rule("bmm")
def bmm(c: Context, target: Any, a: Value, b: Value) -> Value | Products:
    shared, other = (b, a) if b.numbers is None else (a, b)
    if shared.numbers is not None and other.numbers is not None:
        return attention_scores(c, a, b)
    matrices = known_tensor(c, shared, "a matrix", "multiplies the image")
    if not (matrices == matrices[:1]).all():
        raise UnsupportedModel(f"{c.at}: a batched product with different matrices is not supported")
    matrix = Value(None, matrices[0])
    if other is a:
        batch, rows, inner = shape_of(other)
        flat = c.reshaped(other, (batch * rows, inner))
        return c.reshaped(linear(c, flat, matrix, None), (batch, rows, -1))
    moved = c.permuted(other, [0, 2, 1])
    batch, rows, inner = shape_of(moved)
    product = linear(c, c.reshaped(moved, (batch * rows, inner)), Value(None, matrices[0].t()), None)
    return c.permuted(c.reshaped(product, (batch, rows, -1)), [0, 2, 1])


@rule("baddbmm")
def baddbmm(c: Context, target: Any, x: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Any:
    return _scaled_sum(c, x, c.call(aten.bmm.default, (a, b), {}), beta, alpha)


def linear(c: Context, x: Value, weight: Value, bias: Value | None) -> Value:
    """x (M, I) times weight (I, O): every row of x holds the channels of one pixel, or constants."""
    known = known_tensor(c, weight, "a matrix", "multiplies the image")
    assert x.numbers is not None
    layout = infer_layout(c.builder.table, [x.numbers], str(c.at), (1,), c.builder.shape[1:])
    if layout.channel_dims != (1,):
        raise UnsupportedModel(f"{c.at} multiplies along rows, columns or images (shape {shape_of(x)})")
    origin = layout.row0, layout.col0, layout.steps
    maps = c.builder.settled(c.at, layout.gather(x.numbers), *origin)
    if not c.builder.is_regular(c.at, maps, *origin):
        x = c.regular(x, layout)
        assert x.numbers is not None
        maps = c.builder.settled(c.at, layout.gather(x.numbers), *origin)
    matrix = known.t().reshape(known.shape[1], known.shape[0], 1, 1)
    vector = _of_features(bias, len(matrix))
    numbers = c.builder.conv(c.at, maps, matrix, vector, (0, 0), (1, 1), 1, *origin)
    shape = (shape_of(x)[0], len(matrix))
    first = layout.index[..., :1]
    index = np.where(first >= 0, first // shape_of(x)[1] * shape[1] + np.arange(shape[1]), -1)
    ids = IndexLayout(index, layout.row0, layout.col0, (1,), layout.steps).scatter(both_images(numbers), shape)
    result = sum_of_parts(
        c, x, ids, lambda part: c.fold(aten.mm.default, (part, weight), {}), None if vector is None else Value(None, vector)
    )  # fmt: skip
    return result if vector is not None or bias is None else c.call(aten.add.Tensor, (result, bias), {})


def _of_features(bias: Value | None, features: int) -> Tensor | None:
    """A bias as a vector with a number for each feature, if it is known and the same in every row."""
    if bias is None or bias.const is None or bias.dynamic is not None or (bias.const.dim() > 1 and len(bias.const) > 1):
        return None
    return bias.const.reshape(-1).expand(features)


def linear_transposed(c: Context, weight: Value, x: Value) -> Value:
    """weight (O, I) times x (I, M)."""
    if weight.numbers is not None:
        raise UnsupportedModel(
            f"{c.at}: a product of two tensors that depend on the image (attention) is not supported yet; "
            'engine="naive" samples such a model, slowly'
        )
    matrix = known_tensor(c, weight, "a matrix", "multiplies the image")
    moved = c.permuted(x, [1, 0])
    product = linear(c, moved, Value(None, matrix.t()), None)
    return c.permuted(product, [1, 0])


@rule("embedding")
def embedding(c: Context, target: Any, weight: Value, index: Value, *_: Any, **__: Any) -> Value:
    """A look-up of image values: features that are tables of one value."""
    table = known_tensor(c, weight, "a table", "is looked up by values of the image")
    assert index.numbers is not None
    ids = c.builder.embedding(c.at, index.ids, table)
    if all_elements(ids):
        return Value(ids)
    constant = c.fold(target, (weight, alone(c, index)), {})
    return mixed(ids, constant.const, constant.dynamic)
