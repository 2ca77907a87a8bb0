"""Rules for pooling: averages are convolutions with known weights, maxima are taken over shifted copies."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import UnsupportedModel
from ..context import Context, rule
from ..values import Value, shape_of
from .pointwise import pointwise
from .products import convolution

aten = torch.ops.aten


@rule("avg_pool2d")
def average(
    c: Context, target: Any, x: Value, kernel: list[int], stride: list[int] | None = None, padding: Any = (0, 0),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Value:  # fmt: skip
    """`F.avg_pool2d`: a convolution of each channel by itself, divided by how many pixels a window holds."""
    stride, padding = _pair(stride or kernel), _pair(padding)
    channels = shape_of(x)[1]
    weight = torch.ones(channels, 1, *_pair(kernel), dtype=torch.float32)
    ones = torch.ones(1, *shape_of(x)[1:], dtype=torch.float32)
    counted = torch.nn.functional.conv2d(ones, weight, None, stride, padding, 1, channels)
    mean = target(ones, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if mean.shape != counted.shape:
        raise UnsupportedModel(
            f"{c.at}: average pooling with ceil_mode, whose last windows reach beyond the map, is not supported; pad the map, "
            'or sample with engine="naive"'
        )
    share = mean / counted  # of each pixel in a window's average
    uniform = bool((share == share.flatten()[0]).all())
    factor = share.flatten()[0] if uniform else 1.0
    conv = aten.convolution.default
    total = convolution(
        c, conv, x, Value(None, weight * factor), None, stride, padding, [1, 1], False, [0, 0], channels
    )  # fmt: skip
    if uniform:
        return total
    return pointwise(c, aten.mul.Tensor, total, Value(None, share))


@rule("max_pool2d_with_indices")
def largest(
    c: Context, target: Any, x: Value, kernel: list[int], stride: list[int] | None = None, padding: Any = (0, 0),
    dilation: Any = (1, 1), ceil_mode: bool = False,
) -> list[Value | None]:  # fmt: skip
    """`F.max_pool2d` of windows inside the map: the maximum of strided slices."""
    sizes, stride, dilation = _pair(kernel), _pair(stride or kernel), _pair(dilation)
    if any(_pair(padding)) or ceil_mode:
        raise UnsupportedModel(
            f"{c.at}: max_pool2d with padding or ceil_mode is not supported, since windows at the border hold fewer pixels; "
            'engine="naive" samples such a model, slowly'
        )
    shape = shape_of(x)
    counts = [(shape[2 + d] - dilation[d] * (sizes[d] - 1) - 1) // stride[d] + 1 for d in range(2)]
    result: Value | None = None
    for a in range(sizes[0]):
        for b in range(sizes[1]):
            part = x
            for d, start in enumerate((a * dilation[0], b * dilation[1])):
                last = start + stride[d] * (counts[d] - 1) + 1
                part = c.call(aten.slice.Tensor, (part, 2 + d, start, last, stride[d]), {})
            result = part if result is None else c.call(aten.maximum.default, (result, part), {})
    return [result, None]


def _pair(numbers: Any) -> list[int]:
    """One number or two as two, as PyTorch reads them."""
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return listed * 2 if len(listed) == 1 else listed
