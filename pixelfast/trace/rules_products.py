"""Rules for products with known matrices: convolutions, linear layers, look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from ..errors import UnsupportedModel
from . import attention
from .builder_base import both_images
from .elements import Value, all_elements
from .layout_types import IndexLayout
from .layouts import infer_layout
from .values import constant_elements, mixed, shape_of

if TYPE_CHECKING:
    from .convert import Converter

aten = torch.ops.aten


def convolution(
    c: Converter, target: Any, x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Value:  # fmt: skip
    if weight.numbers is not None or weight.dynamic is not None or weight.const is None:
        raise UnsupportedModel(f"{c.at}: a convolution whose weights depend on the image or on conditions")
    assert x.numbers is not None
    plain = not transposed and all(step == 1 for step in stride)
    if weight.const.dim() == 3 and weight.const.shape[2] == 1 and groups == 1 and plain:
        return _per_position(c, x, weight.const[:, :, 0], bias)
    if weight.const.dim() != 4:
        raise UnsupportedModel(
            f"{c.at}: convolutions over {weight.const.dim() - 2} dimensions are not supported. Where rows are computed in a "
            'loop, as in a Row LSTM, pixelfast.lstm_scan is that loop as one operation; engine="naive" samples it, slowly'
        )
    maps, origin = placed(c, x)
    if not c.builder.is_regular(c.at, maps, *origin):
        x = c.regular(x)
        maps, origin = placed(c, x)
    vector = None if bias is None else bias.const
    if not transposed:
        numbers = c.builder.conv(c.at, maps, weight.const, vector, padding, dilation, groups, *origin, stride)
    else:
        origin = _fine_enough(c, maps, origin, stride)
        numbers = c.builder.conv_transposed(
            c.at, maps, weight.const, vector, stride, padding, output_padding, dilation, groups, *origin
        )  # fmt: skip
    result = Value(both_images(numbers).permute(0, 3, 1, 2))
    if x.const is None:
        return result
    known = Value(None, constant_elements(x), c.masked_dynamic(x))
    return c.add_constant(
        result, c.fold(target, (known, weight, None, stride, padding, dilation, transposed, output_padding, groups), {})
    )


Origin = tuple[int, int, tuple[int, int]]
"""Where position (0, 0) of some maps stands, and how many pixels lie from each row and column to the next."""


def placed(c: Converter, x: Value) -> tuple[Tensor, Origin]:
    """A tensor (N, I, H, W) as maps (images, rows, cols, I), and where they stand."""
    assert x.numbers is not None
    maps = x.numbers.permute(0, 2, 3, 1)
    origin = c.builder.table.origin(maps, c.builder.shape[1:])
    return c.builder.settled(c.at, maps, *origin), origin


def _fine_enough(c: Converter, maps: Tensor, origin: Origin, stride: list[int]) -> Origin:
    """The origin of maps that a transposed convolution spreads out: its outputs must stand at pixels."""
    row0, col0, steps = origin
    # Of a single row or column, nothing says how far the next one is.
    rows, cols = (
        step * s if length == 1 and step % s else step for length, step, s in zip(maps.shape[1:3], steps, stride, strict=True)
    )
    if rows % stride[0] or cols % stride[1]:
        raise UnsupportedModel(
            f"{c.at}: a transposed convolution with stride {tuple(stride)} of maps with an element at every {rows} x {cols} "
            'pixels gives maps finer than the image, which is not supported; engine="naive" samples such a model, slowly'
        )
    return row0, col0, (rows, cols)


def _per_position(c: Converter, x: Value, matrix: Tensor, bias: Value | None) -> Value:
    """A one-dimensional convolution of kernel 1 over (N, I, L): a linear layer at every position."""
    batch, inputs, length = shape_of(x)
    moved = c.layout(aten.permute.default, (x, [0, 2, 1]), {})
    product = linear(c, c.reshaped(moved, (batch * length, inputs)), Value(None, matrix.t()), bias)
    return c.layout(aten.permute.default, (c.reshaped(product, (batch, length, len(matrix))), [0, 2, 1]), {})


def mm(c: Converter, target: Any, a: Value, b: Value) -> Value:
    return linear(c, a, b, None) if b.numbers is None else linear_transposed(c, a, b)


def addmm(c: Converter, target: Any, bias: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    if beta != 1 or alpha != 1 or bias.numbers is not None or b.numbers is not None:
        return c.add(mm(c, None, a, b), bias)
    return linear(c, a, b, bias)


def bmm(c: Converter, target: Any, a: Value, b: Value) -> Value | attention.Products:
    shared, other = (b, a) if b.numbers is None else (a, b)
    if shared.numbers is not None and other.numbers is not None:
        return attention.multiply(c, a, b)
    if shared.dynamic is not None:
        raise UnsupportedModel(f"{c.at}: a matrix that depends on conditions multiplies the image; not supported")
    assert shared.const is not None
    if not (shared.const == shared.const[:1]).all():
        raise UnsupportedModel(f"{c.at}: a batched product with different matrices is not supported")
    matrix = Value(None, shared.const[0])
    if other is a:
        batch, rows, inner = shape_of(other)
        flat = c.reshaped(other, (batch * rows, inner))
        return c.reshaped(linear(c, flat, matrix, None), (batch, rows, -1))
    assert matrix.const is not None
    moved = c.layout(aten.permute.default, (other, [0, 2, 1]), {})
    batch, rows, inner = shape_of(moved)
    product = linear(c, c.reshaped(moved, (batch * rows, inner)), Value(None, matrix.const.t()), None)
    return c.layout(aten.permute.default, (c.reshaped(product, (batch, rows, -1)), [0, 2, 1]), {})


def baddbmm(c: Converter, target: Any, x: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Any:
    found = c.call(aten.bmm.default, (a, b), {})
    found = found if alpha == 1 else c.call(aten.mul.Tensor, (found, float(alpha)), {})
    if beta == 0:
        return found
    return c.call(aten.add.Tensor, (found, x if beta == 1 else c.call(aten.mul.Tensor, (x, float(beta)), {})), {})


def linear(c: Converter, x: Value, weight: Value, bias: Value | None) -> Value:
    """x (M, I) times weight (I, O): every row of x holds the channels of one pixel."""
    if weight.dynamic is not None or weight.const is None:
        raise UnsupportedModel(f"{c.at}: a matrix that depends on conditions multiplies the image; not supported")
    assert x.numbers is not None
    layout = infer_layout(c.builder.table, [x.numbers], str(c.at), (1,), c.builder.shape[1:])
    if layout.channel_dims != (1,):
        raise UnsupportedModel(f"{c.at} multiplies along rows, columns or images (shape {shape_of(x)})")
    origin = layout.row0, layout.col0, layout.steps
    maps = c.builder.settled(c.at, layout.gather(x.numbers), *origin)
    if not c.builder.is_regular(c.at, maps, *origin):
        x = c.regular(x)
        assert x.numbers is not None
        maps = c.builder.settled(c.at, layout.gather(x.numbers), *origin)
    matrix = weight.const.t().reshape(weight.const.shape[1], weight.const.shape[0], 1, 1)
    known_bias = bias.const if bias is not None and bias.dynamic is None and bias.const is not None else None
    if known_bias is not None and known_bias.numel() not in (1, matrix.shape[0]):
        known_bias = None
    vector = None if known_bias is None else known_bias.reshape(-1).expand(matrix.shape[0])
    numbers = c.builder.conv(c.at, maps, matrix, vector, (0, 0), (1, 1), 1, *origin)
    shape = (shape_of(x)[0], matrix.shape[0])
    first = layout.index[..., :1]
    index = np.where(first >= 0, first // shape_of(x)[1] * shape[1] + np.arange(shape[1]), -1)
    result = Value(IndexLayout(index, layout.row0, layout.col0, (1,), layout.steps).scatter(both_images(numbers), shape))
    if x.const is not None:
        known = Value(None, constant_elements(x), c.masked_dynamic(x))
        result = c.add_constant(result, c.fold(aten.mm.default, (known, weight), {}))
    return result if known_bias is not None or bias is None else c.add(result, bias)


def linear_transposed(c: Converter, weight: Value, x: Value) -> Value:
    """weight (O, I) times x (I, M)."""
    if weight.numbers is not None or weight.const is None:
        raise UnsupportedModel(
            f"{c.at}: a product of two tensors that depend on the image (attention) is not supported yet; "
            'engine="naive" samples such a model, slowly'
        )
    moved = c.layout(aten.permute.default, (x, [1, 0]), {})
    product = linear(c, moved, Value(None, weight.const.t(), weight.dynamic), None)
    return c.layout(aten.permute.default, (product, [1, 0]), {})


def embedding(c: Converter, target: Any, weight: Value, index: Value, *_: Any, **__: Any) -> Value:
    """A look-up of image values: features that are tables of one value."""
    assert index.numbers is not None
    assert weight.const is not None
    ids = c.builder.embedding(c.at, index.ids, weight.const)
    if index.const is None and all_elements(ids):
        return Value(ids)
    return mixed(ids, *_embedding_constant(c, target, weight, index))


def _embedding_constant(c: Converter, target: Any, weight: Value, index: Value) -> tuple[Tensor, fx.Node | None]:
    known = Value(None, constant_elements(index).long(), index.dynamic)
    constant = c.fold(target, (weight, known), {})
    return constant.const, constant.dynamic
