"""The `Lookup` instruction: out[i, f] += sum over taps of tables[tap, value of the image at the tap, f].

A tap is four int64 numbers: rows and columns from the running position, the channel, and where its table (K, F) starts in the
arena. Pixels outside the image add nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .bodies import alone
from .launch import Launch, power_of_two
from .operand import addresses


@triton.jit
def lookup_body(
    arena, values, places, operands, position, col, image, live, block, features, taps, height, width, channels,
    BLOCK_F: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Values are (N, H, W, C)."""
    f = block * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    out = arena + addresses(operands, col, image, ALIGN)[:, None] + f[None, :]
    total = tl.load(out, mask=mask, other=0.0)
    for tap in range(taps):
        place = places + tap * 4
        # A row for each item: a mask that is combined with a scalar comparison is none in Triton's interpreter.
        r = tl.load(position) + tl.load(place).to(tl.int32) + tl.zeros_like(image)
        c = col + tl.load(place + 1).to(tl.int32) + tl.zeros_like(image)
        inside = live & (r >= 0) & (r < height) & (c >= 0) & (c < width)
        pixel = ((image.to(tl.int64) * height + r) * width + c) * channels + tl.load(place + 2)
        value = tl.load(values + pixel, mask=inside, other=0)
        start = tl.load(place + 3) + value.to(tl.int64) * features
        total += tl.load(arena + start[:, None] + f[None, :], mask=mask & inside[:, None], other=0.0)
    tl.store(out, total, mask=mask)


lookup_kernel = alone(lookup_body, "lookup_kernel")


def lookup(
    arena: torch.Tensor, values: torch.Tensor, places: torch.Tensor, operands: torch.Tensor, position: torch.Tensor,
    *, columns: int, images: int, features: int, align: int, own: int = 0,
) -> Launch:  # fmt: skip
    """`places` is (taps, 4); the only operand is the output."""
    items, block_f = columns * (own or images), min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // block_f))
    _, height, width, channels = values.shape
    return Launch(
        kernel=lookup_kernel,
        grid=(-(-columns * images // block), -(-features // block_f)),
        arguments={
            "arena": arena, "values": values, "places": places, "operands": operands, "position": position,
            "columns": columns, "images": images, "features": features, "taps": places.shape[0], "height": height,
            "width": width, "channels": channels,
        },
        constants={"BLOCK_I": block, "BLOCK_F": block_f, "ALIGN": align},
        body=lookup_body,
    )  # fmt: skip
