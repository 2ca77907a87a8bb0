"""The `Product` instruction over many columns at once, as when a row starts:

    out[i, f] = (bias[f], or what out holds) + sum over k of x[i, k] * weights[k, f]

for I = columns x images items, k going over the features of all taps. Taps are gathered: a chunk is up to BLOCK_K features of
one tap, with an operand of its own; columns beside the image are stored as zeros, so that no tap needs a mask. Weights are
packed chunk by chunk as (BLOCK_K, width), zeros where a tap has fewer features and where width exceeds F, and read without
masks.

float32 operands are multiplied in IEEE float32, float16 ones on tensor cores with float32 sums. Loads are not made ahead of
time (`num_stages=1`): weights come from L2, and state must not be read before it is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .expressions import SCALARS
from .launch import Launch, power_of_two
from .operand import WORDS, addresses, running_items


@triton.jit
def gathered(arena, operand, col, image, live, BLOCK_K: tl.constexpr, ALIGN: tl.constexpr):
    """One chunk of the taps: (I, BLOCK_K), zeros beyond its features."""
    k = tl.arange(0, BLOCK_K)
    # A mask that changes inside of 16 bytes would make four loads of one.
    there = live[:, None] & (k < tl.multiple_of(tl.load(operand + 3), ALIGN))[None, :]
    start = addresses(operand, col, image, ALIGN)
    return tl.load(arena + start[:, None] + k[None, :], mask=there, other=0.0)


@triton.jit(do_not_specialize=SCALARS)
def row_products_kernel(
    arena, weights, operands, position, first, columns, images, features, chunks,
    PITCH: tl.constexpr, ADD: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
    ALIGN: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Operands: output, bias (not read with ADD), chunks."""
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.arange(0, BLOCK_K)
    mask = live[:, None] & (f < features)[None, :]
    out = arena + addresses(operands, col, image, ALIGN)[:, None] + f[None, :]
    if ADD:
        total = tl.load(out, mask=mask, other=0.0)
    else:
        bias = tl.load(arena + tl.load(operands + WORDS) + f, mask=f < features, other=0.0)
        total = tl.zeros([BLOCK_I, BLOCK_F], tl.float32) + bias[None, :]
    tile = weights + k[:, None].to(tl.int64) * PITCH + f[None, :]
    for chunk in range(chunks):
        x = gathered(arena, operands + (chunk + 2) * WORDS, col, image, live, BLOCK_K, TAPS)
        w = tl.load(tile)
        total = tl.dot(x.to(w.dtype), w, total, input_precision="ieee")
        tile += BLOCK_K * PITCH
    tl.store(out, total, mask=mask)


def row_products(
    arena: torch.Tensor, weights: torch.Tensor, operands: torch.Tensor, position: torch.Tensor,
    *, add: bool, columns: int, images: int, features: int, chunk: int, align: int, taps: int,
) -> Launch:  # fmt: skip
    """Operands: output, bias, then one for each chunk of `chunk` rows of the weights (rows, width).

    `align` and `taps`: what the addresses of the output, and those of the taps and their counts, are multiples of.
    """
    items, width = columns * images, weights.shape[1]
    most_items, most_features, _ = tile(items, chunk)
    block_i, block_f = min(most_items, max(16, power_of_two(items))), min(most_features, width)
    return Launch(
        kernel=row_products_kernel,
        grid=(-(-items // block_i), width // block_f),
        arguments={
            "arena": arena, "weights": weights, "operands": operands, "position": position, "columns": columns,
            "images": images, "features": features, "chunks": operands.shape[0] - 2,
        },
        constants={
            "PITCH": width, "ADD": add, "BLOCK_I": block_i, "BLOCK_F": block_f, "BLOCK_K": chunk, "ALIGN": align,
            "TAPS": taps,
        },
    )  # fmt: skip


def tile(items: int, most: int) -> tuple[int, int, int]:
    """Items and features of a tile, at most, and terms of a chunk where taps have up to `most` features.

    These were compiled for sm_90 by Triton 3.6 and 3.9 without spilling registers. 64 x 64 x 64, 64 x 64 x 32 and 32 x 32 x 64
    spill a few.
    """
    if most <= 16:
        return (64, 64, 16) if items > 32 else (32, 32, 16)
    return (64, 32, 64) if items > 32 and most > 32 else (32, 32, 32)
