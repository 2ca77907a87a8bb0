"""The `Attention` instruction: what one pixel's one head finds at the pixels that it sees, for columns x images x heads.

    score[k] = scale * (query . key[k]) + bias[k],   out = sum over k of softmax(score)[k] * value[k];   0 if it sees none

The pixels come as runs of raster numbers, each three int64 numbers: its first pixel, the one after its last, and the place of
its first pixel in the bias. Keys and values stand in rings that hold all rows, at a fixed offset from their pixels.

A program owns one head of one image at one column and goes over its pixels in blocks of `BLOCK_P`. Each lane keeps the largest
score, the sum and the mean of the pixels that it has met (softmax online), so that no block waits for its own sums; lanes come
together once, at the end. That is two exponentials a pixel instead of one, beside E + D loads. A program for all heads would
read longer runs of memory, but leave most of a GPU idle for few images; one head's pixels divided among programs would need
another launch to bring them together.

Caches are float32, or float16 that `keep` rounds to: they are most of what is read. Scores, softmax and means are float32.

Loads are not made ahead of time (`num_stages=1`): the cache is what earlier launches of the same row have stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..ir.geometry import Rect
from .expressions import SCALARS
from .launch import Launch, power_of_two
from .operand import WORDS, addresses, running_items

HELD = 4096
"""Numbers of keys and values that a program loads at a time."""


@triton.jit
def cached(caches, cache, head, row, col, image, there, SIZE: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """Numbers of one head in a cache, an operand, at pixels (P,): (P, BLOCK), zeros beyond SIZE."""
    ring = tl.load(cache + 5).to(tl.int32)
    slot = (row + tl.load(cache + 6).to(tl.int32)) % ring
    slot = tl.where(slot < 0, slot + ring, slot)
    col_stride = tl.multiple_of(tl.load(cache + 1), ALIGN)
    row_stride = tl.multiple_of(tl.load(cache + 7), ALIGN)
    image_stride = tl.multiple_of(tl.load(cache + 2), ALIGN)
    # The start of one head: SIZE is a multiple of ALIGN, too.
    start = tl.multiple_of(tl.load(cache + 4) + image * image_stride + head * SIZE, ALIGN)
    e = tl.arange(0, BLOCK)
    place = start + slot * row_stride + col * col_stride
    return tl.load(caches + place[:, None] + e[None, :], mask=there[:, None] & (e < SIZE)[None, :], other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=[*SCALARS, "row0", "col0", "across", "masked", "biased"])
def attention_kernel(
    arena, caches, lists, runs, operands, position,
    first, images, width, row0, col0, across, masked, biased, scale,
    SIZE: tl.constexpr, VALUE: tl.constexpr, BIAS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Operands: output, query, keys, values, bias.

    Elements are numbered from (row0, col0), `across` of them side by side; head h has the list h * masked + element, and the
    bias begins h * biased further on. lists: (lists + 1,), which runs belong to it; runs: (R, 3).
    """
    item, head = tl.program_id(0), tl.program_id(1)
    row, col, image = tl.load(position), tl.load(position + 1) + first + item // images, item % images
    list_ = lists + head * masked + (row - row0) * across + col - col0
    e, d, p = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_P)
    query = arena + addresses(operands + WORDS, col, image, 1) + head * SIZE
    q = tl.load(query + e, mask=e < SIZE, other=0.0) * scale
    top, total = tl.full([BLOCK_P], float("-inf"), tl.float32), tl.zeros([BLOCK_P], tl.float32)
    mean = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    begin, end = tl.load(list_), tl.load(list_ + 1)
    for run in range(begin, end):
        start, stop = tl.load(runs + run * 3).to(tl.int32), tl.load(runs + run * 3 + 1).to(tl.int32)
        for block in range(start, stop, BLOCK_P):
            pixel = block + p
            there = pixel < stop
            r, c = pixel // width, pixel % width
            keys = cached(caches, operands + 2 * WORDS, head, r, c, image, there, SIZE, BLOCK_E, ALIGN)
            values = cached(caches, operands + 3 * WORDS, head, r, c, image, there, VALUE, BLOCK_D, ALIGN)
            score = tl.sum(q[None, :] * keys, 1)
            if BIAS:
                bias = tl.load(operands + 4 * WORDS) + head * biased + tl.load(runs + run * 3 + 2) - start
                score += tl.load(arena + bias + pixel, mask=there, other=0.0)
            score = tl.where(there, score, float("-inf"))
            more = tl.maximum(top, score)
            # A lane that has met nothing but -infinity must not subtract it from itself.
            shift = tl.where(more == float("-inf"), 0.0, more)
            old, new = tl.exp(top - shift), tl.exp(score - shift)
            total = total * old + new
            mean = mean * old[:, None] + new[:, None] * values
            top = more
    best = tl.max(top, 0)
    rate = tl.exp(top - tl.where(best == float("-inf"), 0.0, best))
    found = tl.sum(mean * rate[:, None], 0) / tl.sum(total * rate, 0)
    found = tl.where(end > begin, found, 0.0)
    out = arena + addresses(operands, col, image, 1) + head * VALUE
    tl.store(out + d, found, mask=d < VALUE)


def attention(
    arena: torch.Tensor, caches: torch.Tensor, lists: torch.Tensor, runs: torch.Tensor, operands: torch.Tensor,
    position: torch.Tensor,
    *, columns: int, images: int, width: int, heads: int, sizes: tuple[int, int], rect: Rect, masked: int, biased: int,
    scale: float, bias: bool, longest: int, align: int,
) -> Launch:  # fmt: skip
    """Operands: output, query, keys, values, bias. `sizes`: of a head's key and value; `longest`: pixels of a run, at most."""
    size, value = sizes
    held = HELD if align > 1 else HELD // 2  # numbers that are loaded one by one take an address each
    block = min(power_of_two(max(longest, 1)), max(4, held // power_of_two(size + value)))
    return Launch(
        kernel=attention_kernel,
        grid=(columns * images, heads),
        arguments={
            "arena": arena, "caches": caches, "lists": lists, "runs": runs, "operands": operands, "position": position,
            "images": images, "width": width, "row0": rect.row0, "col0": rect.col0, "across": rect.col1 - rect.col0,
            "masked": masked, "biased": biased, "scale": float(scale),
        },
        constants={
            "SIZE": size, "VALUE": value, "BIAS": bias, "BLOCK_P": block, "BLOCK_E": power_of_two(size),
            "BLOCK_D": power_of_two(value), "ALIGN": align,
        },
    )  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def keep_kernel(
    arena, caches, operands, position, first, columns, images, features, BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr
):  # fmt: skip
    """Operands: output, in a cache; source."""
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    x = tl.load(arena + addresses(operands + WORDS, col, image, 1)[:, None] + f[None, :], mask=mask, other=0.0)
    out = caches + addresses(operands, col, image, 1)[:, None] + f[None, :]
    tl.store(out, x.to(caches.dtype.element_ty), mask=mask)


def keep(
    arena: torch.Tensor, caches: torch.Tensor, operands: torch.Tensor, position: torch.Tensor,
    *, columns: int, images: int, features: int,
) -> Launch:  # fmt: skip
    """A copy into a cache: operands are output and source."""
    items, width = columns * images, min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // width))
    return Launch(
        kernel=keep_kernel,
        grid=(-(-items // block), -(-features // width)),
        arguments={
            "arena": arena, "caches": caches, "operands": operands, "position": position, "columns": columns, "images": images,
            "features": features,
        },
        constants={"BLOCK_I": block, "BLOCK_F": width},
        writes=("caches",),
    )  # fmt: skip
