"""Rules for operations over channels: normalisation, reductions, softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ..context import Context, name_of, rule
from ..index import all_elements, both_images, written_out
from ..layout_types import IndexLayout, Layout, PlainLayout
from ..layouts import infer_layout
from ..values import Value, constant_part, constants, mixed, shape_of

aten = torch.ops.aten

REDUCTIONS = {
    "mean": aten.mean.dim, "sum": aten.sum.dim_IntList, "amax": aten.amax.default, "amin": aten.amin.default,
    "logsumexp": aten.logsumexp.default, "var": aten.var.correction,
}  # fmt: skip
"""How PyTorch computes what a `ChannelReduce` of a kind computes."""


@rule("native_layer_norm")
def layer_norm(
    c: Context, target: Any, x: Value, normalized: list[int], weight: Value | None, bias: Value | None, eps: float
) -> list[Value | None]:
    dims = tuple(range(len(shape_of(x)) - len(normalized), len(shape_of(x))))
    count = int(np.prod(normalized))
    affine = (weight, bias)
    if any(value is not None and (value.numbers is not None or value.dynamic is not None) for value in affine):
        plain = layer_norm(c, target, x, normalized, None, None, eps)[0]
        scaled = plain if weight is None else c.call(aten.mul.Tensor, (plain, weight), {})
        return [scaled if bias is None else c.call(aten.add.Tensor, (scaled, bias), {}), None, None]
    scale, shift = (
        np.full(count, blank, np.float32) if value is None else constants(value).float().reshape(-1).numpy()
        for value, blank in zip(affine, (1, 0), strict=True)
    )

    def node(maps: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        return c.builder.norm(c.at, maps, scale, shift, eps, row0, col0, steps)

    def of_constants(known: Value) -> Value:
        return c.fold(target, (known, normalized, weight, bias, eps), {})[0]  # type: ignore[no-any-return]

    return [over_channels(c, x, dims, node, of_constants, keep=True), None, None]


@rule("mean", "sum", "amax", "amin", "logsumexp")
def reduction(c: Context, target: Any, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    return reduced(c, x, dims, keepdim, name_of(target), 0.0)


@rule("var")
def variance(
    c: Context, target: Any, x: Value, dims: Any = None, unbiased: bool = True, *, correction: float | None = None,
    keepdim: bool = False,
) -> Value:  # fmt: skip
    amount = float(unbiased) if correction is None else float(correction)
    return reduced(c, x, dims, keepdim, "var", amount)


@rule("var_mean")
def variance_and_mean(
    c: Context, target: Any, x: Value, dims: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> list[Value]:
    return [
        variance(c, target, x, dims, correction=correction, keepdim=keepdim),
        reduced(c, x, dims, keepdim, "mean", 0.0),
    ]


@rule("linalg_vector_norm")
def vector_norm(
    c: Context, target: Any, x: Value, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any
) -> Value:
    if order != 2:
        raise UnsupportedModel(f"{c.at}: of the vector norms only the Euclidean is supported, not order {order}")
    total = reduced(c, c.call(aten.square.default, (x,), {}), dims, keepdim, "sum", 0.0)
    return c.call(aten.sqrt.default, (total,), {})  # type: ignore[no-any-return]


def reduced(c: Context, x: Value, dims: Any, keepdim: bool, kind: str, correction: float) -> Value:
    rank = len(shape_of(x))
    listed = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    chosen = tuple(sorted(d % rank for d in listed))

    def node(maps: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        return c.builder.reduce(c.at, maps, kind, correction, row0, col0, steps)

    def of_constants(known: Value) -> Value:
        options = {"correction": correction} if kind == "var" else {}
        return c.fold(REDUCTIONS[kind], (known, list(chosen)), {"keepdim": True, **options})  # type: ignore[no-any-return]

    result = over_channels(c, x, chosen, node, of_constants, keep=False)
    if keepdim:
        return result
    shape = [size for d, size in enumerate(shape_of(result)) if d not in chosen]
    return c.reshaped(result, tuple(shape))


@rule("_log_softmax")
def log_softmax(c: Context, target: Any, x: Value, dim: int, half: bool) -> Value:
    total = reduced(c, x, dim, True, "logsumexp", 0.0)
    return c.expression_value(
        ("sub", ("leaf", 0), ("leaf", 1)), [x, total], lambda: c.constants_of(target, (x, dim, half), {})
    )


@rule("_softmax")
def softmax(c: Context, target: Any, x: Value, dim: int, half: bool) -> Value:
    total = reduced(c, x, dim, True, "logsumexp", 0.0)
    return c.expression_value(
        ("exp", ("sub", ("leaf", 0), ("leaf", 1))), [x, total], lambda: c.constants_of(target, (x, dim, half), {})
    )


@rule("native_group_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional")
def statistics(c: Context, target: Any, *_: Any, **__: Any) -> Any:
    raise c.statistics(name_of(target))


def over_channels(
    c: Context, x: Value, dims: tuple[int, ...], node: Callable[[Tensor, int, int, tuple[int, int]], Tensor],
    of_constants: Callable[[Value], Value], keep: bool,
) -> Value:  # fmt: skip
    """Apply `node` to the channels in `dims`, for each channel of the other dimensions by itself.

    `of_constants` is the operation over constants, which keeps `dims`, with size 1 unless `keep`.
    """
    assert x.numbers is not None
    layout = infer_layout(c.builder.table, [x.numbers], str(c.at), size=c.builder.shape[1:])
    if not set(dims) <= set(layout.channel_dims):
        raise c.statistics("a reduction")
    full = x if all_elements(x.numbers) else c.regular(x, layout)
    assert full.numbers is not None
    ids = _over_channels(c, full.numbers, layout, dims, node, keep)
    if all_elements(ids):
        return Value(ids)
    constant = of_constants(constant_part(x))
    return mixed(ids, constant.const, constant.dynamic)


def _over_channels(
    c: Context, numbers: Tensor, layout: Layout, dims: tuple[int, ...],
    node: Callable[[Tensor, int, int, tuple[int, int]], Tensor], keep: bool,
) -> Tensor:  # fmt: skip
    """Element numbers of the result; 0 where the layout has no place."""
    shape = tuple(numbers.shape)
    out_shape = shape if keep else tuple(1 if d in dims else size for d, size in enumerate(shape))
    if isinstance(layout, PlainLayout) and set(dims) == set(layout.channel_dims):
        result = both_images(node(layout.gather(numbers), layout.row0, layout.col0, layout.steps))
        return layout.scatter(result, out_shape)
    sizes = [shape[d] for d in layout.channel_dims]
    inner = [layout.channel_dims.index(d) for d in dims]
    outer = [i for i in range(len(sizes)) if i not in inner]
    count = int(np.prod([sizes[i] for i in inner], dtype=np.int64))
    grid = layout.index.reshape(*layout.index.shape[:3], *sizes)
    grid = grid.transpose(0, 1, 2, *(3 + i for i in outer), *(3 + i for i in inner))
    grid = grid.reshape(*layout.index.shape[:3], -1, count)  # (images, rows, cols, outer, inner)
    positions = np.arange(int(np.prod(out_shape))).reshape(out_shape)
    targets = np.broadcast_to(positions, shape).reshape(-1)
    ids = torch.zeros(int(np.prod(out_shape)), dtype=torch.int64)
    for channel in range(grid.shape[3]):
        index = grid[:, :, :, channel]
        part = IndexLayout(index, layout.row0, layout.col0, (), layout.steps)
        result = both_images(written_out(node(part.gather(numbers), layout.row0, layout.col0, layout.steps)))
        written = index if keep else index[..., :1]
        inside = written >= 0
        ids[torch.from_numpy(targets[written[inside]])] = result[torch.from_numpy(inside)]
    return ids.view(out_shape)
