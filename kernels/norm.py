"""`Norm` and `Reduce`: what looks at all features of an item at once.

    norm:    out[i, f] = (x[i, f] - mean_i) / sqrt(var_i + eps) * scale[f] + shift[f], with the biased variance
    reduce:  out[i] = mean, sum, var, amax, amin or logsumexp over the features of several sources

Both go over the numbers twice where they need a mean or a maximum first, since sums of squares lose digits; a norm keeps all
its features in registers meanwhile, a reduction reads its sources again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .bodies import alone
from .launch import Launch, power_of_two
from .operand import WORDS, addresses


@triton.jit
def normalised(x, there, features, eps, AXIS: tl.constexpr):
    """Tiles of any orientation, with the features along AXIS; `there` marks which of them exist."""
    mean = tl.sum(tl.where(there, x, 0.0), AXIS, keep_dims=True) / features
    centred = tl.where(there, x - mean, 0.0)
    # Where numbers hardly differ, the mean's last bit matters: what it lacks is the mean of what is left.
    centred = tl.where(there, centred - tl.sum(centred, AXIS, keep_dims=True) / features, 0.0)
    variance = tl.sum(centred * centred, AXIS, keep_dims=True) / features
    return tl.div_rn(centred, tl.sqrt_rn(variance + eps))


@triton.jit
def norm_body(arena, operands, col, image, live, features, eps, BLOCK_F: tl.constexpr, ALIGN: tl.constexpr):
    f = tl.arange(0, BLOCK_F)
    there = (f < features)[None, :]
    mask = live[:, None] & there
    source = addresses(operands + WORDS, col, image, ALIGN)
    x = tl.load(arena + source[:, None] + f[None, :], mask=mask, other=0.0)
    scale = tl.load(arena + tl.load(operands + 2 * WORDS) + f, mask=f < features, other=0.0)
    shift = tl.load(arena + tl.load(operands + 3 * WORDS) + f, mask=f < features, other=0.0)
    y = normalised(x, there, features, eps, 1) * scale[None, :] + shift[None, :]
    out = addresses(operands, col, image, ALIGN)
    tl.store(arena + out[:, None] + f[None, :], y, mask=mask)


norm_kernel = alone(norm_body, "norm_kernel")


def norm(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, eps: float,
    *, columns: int, images: int, features: int, align: int, own: int = 0,
) -> Launch:  # fmt: skip
    """Operands: output, source, scale, shift."""
    items, width = columns * (own or images), power_of_two(features)
    block = min(power_of_two(items), max(1, 1024 // width))
    return Launch(
        kernel=norm_kernel,
        grid=(-(-columns * images // block), 1),
        arguments={
            "arena": arena, "operands": operands, "position": position, "columns": columns, "images": images,
            "features": features, "eps": float(eps),
        },
        constants={"BLOCK_I": block, "BLOCK_F": width, "ALIGN": align},
        body=norm_body,
    )  # fmt: skip


@triton.jit
def reduce_body(
    arena, operands, col, image, live, chunks, features, divisor,
    KIND: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Operand 0 is the output, operands 1 .. chunks are runs of at most BLOCK_F features of the sources."""
    f = tl.arange(0, BLOCK_F)
    SMALLEST: tl.constexpr = KIND == "amin"
    EXTREME: tl.constexpr = (KIND == "amax") | (KIND == "amin") | (KIND == "logsumexp")
    nothing = 0.0
    if EXTREME:
        nothing = float("inf") if SMALLEST else float("-inf")
    centre = tl.full([BLOCK_I], nothing, tl.float32)
    bad = tl.zeros([BLOCK_I], tl.int32)
    for chunk in range(chunks):
        place = operands + (chunk + 1) * WORDS
        there = (f < tl.load(place + 3))[None, :] & live[:, None]
        x = tl.load(arena + addresses(place, col, image, ALIGN)[:, None] + f[None, :], mask=there, other=nothing)
        if EXTREME:
            bad = tl.maximum(bad, tl.max((x != x).to(tl.int32), 1))
            if SMALLEST:
                centre = tl.minimum(centre, tl.min(x, 1))
            else:
                centre = tl.maximum(centre, tl.max(x, 1))
        else:
            centre += tl.sum(x, 1)
    result = tl.where(bad > 0, float("nan"), centre)
    if (KIND == "mean") | (KIND == "var"):
        result = centre / features
    if (KIND == "var") | (KIND == "logsumexp"):
        finite = tl.where(tl.abs(result) == float("inf"), 0.0, result)
        total = tl.zeros([BLOCK_I], tl.float32)
        for chunk in range(chunks):
            place = operands + (chunk + 1) * WORDS
            there = (f < tl.load(place + 3))[None, :] & live[:, None]
            x = tl.load(arena + addresses(place, col, image, ALIGN)[:, None] + f[None, :], mask=there, other=0.0)
            if KIND == "var":
                away = tl.where(there, x - result[:, None], 0.0)
                total += tl.sum(away * away, 1)
            else:
                total += tl.sum(tl.where(there, tl.exp(x - finite[:, None]), 0.0), 1)
        result = total / divisor if KIND == "var" else tl.log(total) + finite
    out = addresses(operands, col, image, ALIGN)
    tl.store(arena + out, result, mask=live)


reduce_kernel = alone(reduce_body, "reduce_kernel")


def reduce(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, kind: str, correction: float,
    *, columns: int, images: int, features: int, width: int, align: int, own: int = 0,
) -> Launch:  # fmt: skip
    """Operands: output, then the sources in runs of at most `width` features, `features` in all."""
    items = columns * (own or images)
    block = min(power_of_two(items), max(1, 1024 // width))
    return Launch(
        kernel=reduce_kernel,
        grid=(-(-columns * images // block), 1),
        arguments={
            "arena": arena, "operands": operands, "position": position, "columns": columns, "images": images,
            "chunks": operands.shape[0] - 1, "features": features, "divisor": max(0.0, float(features - correction)),
        },
        constants={"KIND": kind, "BLOCK_I": block, "BLOCK_F": width, "ALIGN": align},
        body=reduce_body,
    )  # fmt: skip
