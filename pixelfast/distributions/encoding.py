"""Encodings: how integer values enter a model, as a table of numbers for each channel and value.

Letters: N images, C channels, H rows, W columns, K levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from ..errors import InvalidInput, described, like

Encode = str | tuple[float, float] | Tensor | Sequence[float] | Callable[[Tensor], Tensor]


class Assumed(str):
    """The name of an encoding that nobody chose: a head's default. Equal to the same name given by hand."""


SYMMETRIC, UNIT = Assumed("symmetric"), Assumed("unit")

ENCODINGS = '"integer", "unit", "symmetric", (scale, offset), a table of K values, or a function of integer images'


def table_of(encode: Encode, levels: int, shape: Sequence[int]) -> Tensor:
    """The model's input for each channel and value of images (C, H, W): (C, K); int64 for ``"integer"``, else float32.

    Raises:
        InvalidInput: the encoding is unknown, has the wrong size, or looks at more than one value at a time.
    """
    channels, values = shape[0], torch.arange(levels)
    if isinstance(encode, str):
        if encode == "integer":
            return values.repeat(channels, 1)
        if encode not in ("unit", "symmetric"):
            meant = like(encode, ("integer", "unit", "symmetric"))
            raise InvalidInput(f"unknown encoding {encode!r}: encode= takes {ENCODINGS}{meant}")
        unit = values.float() / max(levels - 1, 1)
        return (unit if encode == "unit" else 2 * unit - 1).repeat(channels, 1)
    if callable(encode) and not isinstance(encode, Tensor):
        return _tabulate(encode, tuple(shape), levels)
    if is_affine(encode):
        scale, offset = read_numbers(encode)
        return (values * scale + offset).float().repeat(channels, 1)
    table = read_table(encode)
    if table.shape == (levels,):
        return table.repeat(channels, 1)
    if table.shape == (channels, levels):
        return table.clone()
    raise InvalidInput(
        f"the encoding table has shape {tuple(table.shape)}, but {levels} levels and {channels} channels need "
        f"({levels},) or ({channels}, {levels})"
    )


def read_table(encode: Encode) -> Tensor:
    """A list or tensor of numbers as a float32 tensor of its own."""
    try:
        return torch.as_tensor(encode, dtype=torch.float32).detach().cpu().to_dense()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"encode={encode!r} is no encoding: it takes {ENCODINGS}") from error


def read_numbers(encode: tuple[float, float]) -> tuple[float, float]:
    """The scale and the offset of a pair."""
    try:
        return float(encode[0]), float(encode[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"encode={encode!r} is no encoding: it takes {ENCODINGS}") from error


def is_affine(encode: Encode) -> TypeGuard[tuple[float, float]]:
    """Whether an encoding is (scale, offset)."""
    return isinstance(encode, tuple) and len(encode) == 2


def _tabulate(encode: Callable[[Tensor], Tensor], shape: tuple[int, ...], levels: int) -> Tensor:
    """The table (C, K) of a function of integer images, and the proof that it works on each value by itself."""
    channels, height, width = shape
    flat = torch.arange(levels).view(-1, 1, 1, 1).expand(levels, channels, height, width)
    table = torch.stack([_call(encode, image.unsqueeze(0))[0, :, 0, 0] for image in flat], 1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(levels, (3, channels, height, width), generator=generator)
    expected = table[torch.arange(channels).view(1, -1, 1, 1), images]
    if not torch.equal(_call(encode, images), expected):
        raise InvalidInput(
            "the function given as encode= does not work on each value by itself (it gave another result for the same "
            "value elsewhere in an image): an encoding may depend on the value and its channel only"
        )
    return table


def _call(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    try:
        encoded = encode(images.clone())
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # from within the function
        raise InvalidInput(f"the function given as encode= must take images alone: {described(error)}") from error
    if not isinstance(encoded, Tensor) or encoded.shape != images.shape:
        found = tuple(encoded.shape) if isinstance(encoded, Tensor) else type(encoded).__name__
        raise InvalidInput(f"the function given as encode= turned images of shape {tuple(images.shape)} into {found}")
    return encoded.detach() if encoded.dtype == torch.int64 else encoded.detach().float()
