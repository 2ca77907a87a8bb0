"""`Draw` and `Encode`: from the parameters of a sub-pixel to its value, and back into what the network reads.

    categorical:  p = softmax(logits / temperature),  value = number of k < K - 1 with p_0 + ... + p_k <= noise
    bernoulli:    value = 1 if noise >= P(0)
    encode:       out[f] = table[value, f]

Values are drawn in float64, as by the reference: probabilities that are summed in float32 would move draws at the edges of the
distribution function. A program draws those of its items (one image, where it is launched for a draw alone), adds their
logarithms to the images' sums, and encodes them, so that a drawn sub-pixel is one launch. Values that are given (>= 0) are kept. Parameters that describe no distribution leave the
lowest number of such a sub-pixel in `status`, in the order of drawing, images running fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .bodies import alone
from .expressions import SCALARS
from .launch import Launch, power_of_two
from .operand import WORDS, addresses, running_items

MOST_LEVELS = 16384
"""K of a categorical draw: all logits of an image are held by one program."""

FINE = 2**62
"""What `status` holds as long as all parameters describe distributions."""


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def draw_body(
    arena, operands, noise, values, parameters, log_prob, temperature, status,
    position, col, image, live, images, height, width, channels, channel, levels, encodes, count,
    HEAD: tl.constexpr, KEEP: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Operands: source, then for each encode its output (count: features) and its table (levels, features).

    noise and values are (N, H, W, C), parameters (N, H, W, C, count) if KEEP; log_prob is (N,).
    """
    row = tl.load(position)
    pixel = ((image.to(tl.int64) * height + row) * width + col) * channels + channel
    k = tl.arange(0, BLOCK_K)[None, :]
    there = live[:, None] & (k < count)
    source = arena + addresses(operands, col, image, 1)
    logits = tl.load(source[:, None] + k, mask=there, other=float("-inf"))
    if KEEP:
        tl.store(parameters + pixel[:, None] * count + k, logits, mask=there)
    cold = 1.0 / tl.load(temperature)
    given = tl.load(values + pixel, mask=live, other=0)
    uniform = tl.load(noise + pixel, mask=live, other=0.0).to(tl.float64)
    x = logits.to(tl.float64)
    if HEAD == "categorical":
        bad = tl.max(tl.where(there & ((x == float("inf")) | (x != x)), 1, 0), 1)
        top = tl.max(x, 1)
        bad = tl.maximum(bad, (top == float("-inf")).to(tl.int32))
        p = tl.exp((x - top[:, None]) * cold)
        # A logit of -infinity has probability 0, and so have the numbers beyond K.
        whole = tl.sum(p, 1)
        below = (tl.cumsum(p, 1) <= (uniform * whole)[:, None]) & (k < levels - 1)
        drawn = tl.sum(below.to(tl.int32), 1)
        logarithm = (tl.load(source + drawn, mask=live, other=0.0).to(tl.float64) - top) * cold - tl.log(whole)
    else:
        x = tl.sum(tl.where(k == 0, x, 0.0), 1)
        if HEAD == "bernoulli_probability":
            bad = ((x >= 0.0) & (x <= 1.0)).to(tl.int32) == 0
            x = tl.log(x / (1.0 - x))
        else:
            bad = (tl.abs(x) < float("inf")).to(tl.int32) == 0
        x = x * cold
        drawn = (tl.exp(log_sigmoid(-x)) <= uniform).to(tl.int32)
        logarithm = log_sigmoid(tl.where(drawn > 0, x, -x))
        bad = bad.to(tl.int32)
    free = live & (given < 0)
    where = ((row.to(tl.int64) * width + col) * channels + channel) * images + image
    tl.atomic_min(status + tl.zeros_like(image), where, mask=free & (bad > 0))
    tl.store(values + pixel, drawn, mask=free)
    tl.store(log_prob + image, tl.load(log_prob + image, mask=free, other=0.0) + logarithm, mask=free)
    value = tl.where(given < 0, drawn, given)
    f = tl.arange(0, BLOCK_E)[None, :]
    for encode in range(encodes):
        place = operands + (2 * encode + 1) * WORDS
        features = tl.load(place + 3)
        coded = live[:, None] & (f < features)
        table = tl.load(place + WORDS) + value * features
        code = tl.load(arena + table[:, None] + f, mask=coded, other=0.0)
        tl.store(arena + addresses(place, col, image, 1)[:, None] + f, code, mask=coded)


draw_kernel = alone(draw_body, "draw_kernel")


def draw(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, noise: torch.Tensor, values: torch.Tensor,
    parameters: torch.Tensor | None, log_prob: torch.Tensor, temperature: torch.Tensor, status: torch.Tensor,
    *, head: str, channel: int, levels: int, count: int, encoded: Sequence[int], own: int = 0,
) -> Launch:  # fmt: skip
    """Operands: source, then output and table of each encode, whose features `encoded` lists."""
    images, height, width, channels = values.shape
    block_k, block_e = max(power_of_two(count), 2), power_of_two(max([1, *encoded]))
    block = max(1, min(own, 2048 // max(block_k, block_e)))
    return Launch(
        kernel=draw_kernel,
        grid=(-(-images // block), 1),
        arguments={
            "arena": arena, "operands": operands, "position": position, "noise": noise, "values": values,
            "parameters": arena if parameters is None else parameters, "log_prob": log_prob, "temperature": temperature,
            "status": status, "columns": 1, "images": images, "height": height, "width": width, "channels": channels, "channel": channel,
            "levels": levels, "encodes": len(encoded), "count": count,
        },
        constants={
            "HEAD": head, "KEEP": parameters is not None, "BLOCK_I": block, "BLOCK_K": block_k, "BLOCK_E": block_e,
        },
        warps=4 if count > 128 else 1,
        writes=("arena", "values", "parameters", "log_prob", "status"),
        body=draw_body,
    )  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def encode_kernel(
    arena, operands, position, values, first, columns, images, features, height, width, channels, channel,
    BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Known values of many columns. Operands: output, table (K, features)."""
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    pixel = ((image.to(tl.int64) * height + tl.load(position)) * width + col) * channels + channel
    value = tl.load(values + pixel, mask=live, other=0)
    table = tl.load(operands + WORDS) + value * features
    code = tl.load(arena + table[:, None] + f[None, :], mask=mask, other=0.0)
    tl.store(arena + addresses(operands, col, image, 1)[:, None] + f[None, :], code, mask=mask)


def encode(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, values: torch.Tensor,
    *, channel: int, columns: int, features: int,
) -> Launch:  # fmt: skip
    images, height, width, channels = values.shape
    items, block_f = columns * images, min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // block_f))
    return Launch(
        kernel=encode_kernel,
        grid=(-(-items // block), -(-features // block_f)),
        arguments={
            "arena": arena, "operands": operands, "position": position, "values": values, "columns": columns,
            "images": images, "features": features, "height": height, "width": width, "channels": channels,
            "channel": channel,
        },
        constants={"BLOCK_I": block, "BLOCK_F": block_f},
    )  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def record_kernel(
    arena, operands, position, parameters, first, columns, images, features, height, width, channels, channel,
    BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """parameters[n, row, col, channel, f] = source[i, f]: of sub-pixels whose values are known."""
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    source = addresses(operands, col, image, 1)
    x = tl.load(arena + source[:, None] + f[None, :], mask=mask, other=0.0)
    pixel = ((image.to(tl.int64) * height + tl.load(position)) * width + col) * channels + channel
    tl.store(parameters + pixel[:, None] * features + f[None, :], x, mask=mask)


def record(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, parameters: torch.Tensor,
    *, channel: int, columns: int,
) -> Launch:  # fmt: skip
    """`parameters` is (N, H, W, C, P)."""
    images, height, width, channels, features = parameters.shape
    items, block_f = columns * images, min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // block_f))
    return Launch(
        kernel=record_kernel,
        grid=(-(-items // block), -(-features // block_f)),
        arguments={
            "arena": arena, "operands": operands, "position": position, "parameters": parameters, "columns": columns,
            "images": images, "features": features, "height": height, "width": width, "channels": channels,
            "channel": channel,
        },
        constants={"BLOCK_I": block, "BLOCK_F": block_f},
        writes=("parameters",),
    )  # fmt: skip
