"""The rule for layout operations, which move elements and compute nothing: they run on the numbers of the elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ..context import Context, name_of, rule
from ..index import reshaped
from ..values import Value, constant_part, constants, mixed, replace_values, shape_of, values_in

RESHAPES = {"view", "_unsafe_view", "reshape"}
COPIES = {"clone", "alias", "detach", "lift_fresh_copy"}
VIEWS = {"permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select", "split_with_sizes", "split",
         "unbind", "diagonal", "unfold"}  # fmt: skip
"""Layout operations that are views of one tensor, which stepped numbers follow without being written out."""

INDICES = {"index": 1, "_unsafe_index": 1, "index_put": 1, "index_select": 2, "gather": 2}
"""Layout operations that take places from a tensor, and the argument that holds it."""

LAYOUT = {
    *RESHAPES, *COPIES, *VIEWS, *INDICES, "cat", "stack", "flip", "roll", "repeat", "slice_scatter", "select_scatter", "copy",
    "constant_pad_nd", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample_nearest2d",
}  # fmt: skip
"""All of them."""

SHAPE_ONLY = {"full_like", "zeros_like", "ones_like", "empty_like", "new_full", "new_zeros", "new_ones", "new_empty", "fill",
              "zero"}  # fmt: skip
"""Operations that look at the shape of their first argument, not at its values."""


@rule(*LAYOUT)
def layout(c: Context, target: Any, *args: Any, **kwargs: Any) -> Any:
    """Move element numbers, and constants beside them, as the operation moves numbers."""
    name = name_of(target)
    place = INDICES.get(name)
    indices = [] if place is None else values_in(args[place])
    moving = [value for value in values_in((args, kwargs)) if not any(value is index for index in indices)]
    if any(value.numbers is not None or value.dynamic is not None for value in indices):
        source = "the image" if any(value.numbers is not None for value in indices) else "conditions"
        raise UnsupportedModel(f"{c.at} indexes values of the image with numbers that depend on {source}: not supported")
    if name == "index_put" and (kwargs.get("accumulate") or args[3:] not in ((), (False,))):
        raise UnsupportedModel(f"{c.at}: index_put that accumulates is not supported; add two tensors instead")

    def numbers(value: Value) -> Tensor:
        if any(value is index for index in indices):
            return constants(value)
        if value.numbers is None:
            return torch.zeros(shape_of(value), dtype=torch.int64)
        return value.numbers if name in VIEWS | RESHAPES | COPIES else value.ids

    def moved(part: Callable[[Value], Tensor], args: Any) -> Any:
        if name in RESHAPES:
            return reshaped(part(args[0]), args[1])
        if name in COPIES:
            return part(args[0])
        return target(*replace_values(args, part), **replace_values(kwargs, part))

    # Padding an array of element numbers with any value but 0 would name an element: pad with 0, the constant.
    fill = args[2] if name == "constant_pad_nd" and len(args) > 2 else 0
    ids = moved(numbers, (*args[:2], 0) if name == "constant_pad_nd" else args)
    const, dynamic = None, None
    if fill != 0 or any(value.const is not None for value in moving):
        const = moved(constants, args)
        if any(value.dynamic is not None for value in moving):
            dynamic = c.record(target, *replace_values((args, kwargs), constant_part))
    kind = moving[0].dtype  # what has no constants would pass for float32 otherwise, within a rule
    if isinstance(ids, (tuple, list)):
        parts = const if const is not None else [None] * len(ids)
        return [replace(mixed(part, parts[i], c.item(dynamic, i)), kind=kind) for i, part in enumerate(ids)]
    return replace(mixed(ids, const, dynamic), kind=kind)


@rule(*SHAPE_ONLY)
def shape_only(c: Context, target: Any, x: Value, *args: Any, **kwargs: Any) -> Any:
    if any(value.numbers is not None for value in values_in((args, kwargs))):
        raise c.unsupported(target)
    return c.fold(target, (Value(None, torch.zeros(x.shape, dtype=x.dtype)), *args), kwargs)


@rule("as_strided")
def as_strided(c: Context, target: Any, x: Value, *_: Any, **__: Any) -> Any:
    raise UnsupportedModel(
        f"{c.at}: as_strided reads values of the image by their places in memory, which a trace does not keep: use "
        'view, permute or unfold; engine="naive" samples such a model, slowly'
    )
