"""`Draw` and `Encode`: from the parameters of a sub-pixel to its value, and back into what the network reads.

    categorical:  p = softmax(logits / temperature),  value = number of k < K - 1 with p_0 + ... + p_k <= noise
    bernoulli:    value = 1 if noise >= P(0)
    mixtures:     kernels/mixture.py
    encode:       out[f] = table[value, f]

Values are drawn in float64, as by the reference: probabilities that are summed in float32 would move draws at the edges of the
distribution function. A program draws those of its items (of one image, where a draw is a launch), adds their logarithms to the
images' sums, and encodes them. Values that are given (>= 0) are kept. Parameters that describe no distribution leave the lowest
number of such a sub-pixel in `status`, in the order of drawing, images running fastest.

More than `BLOCK_K` logits are read in blocks three times: for the largest, for the sum, for the search. The compiler
makes one reading of a single block, and one exponential of each logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from ..ir.program import Mixture
from .bodies import alone
from .component import log_sigmoid
from .expressions import SCALARS
from .launch import Launch, power_of_two
from .mixture import mixture_draw
from .operand import WORDS, addresses, running_items

BLOCK_K = 1024
"""Logits that a program holds at a time, at most."""

TILE = 2048
"""Logits of several images that a program holds at a time, at most: twice as many spill with 256 threads."""

FINE = 2**62
"""What `status` holds as long as all parameters describe distributions."""


@triton.jit
def logits(source, live, block, count, BLOCK_K: tl.constexpr):
    """One block's numbers k (1, K) and logits (I, K): -infinity, whose probability is 0, beyond the last."""
    k = (block * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    return k, tl.load(source[:, None] + k, mask=live[:, None] & (k < count), other=float("-inf"))


@triton.jit
def categorical_draw(source, live, count, levels, uniform, heat, BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr):
    """Values, the logarithms of their probabilities, and whether (1) there is no distribution to draw from: (I,) each.

    Probabilities are not divided by their sum: the noise is multiplied with it, which takes a register for each of them less.
    """
    top, bad, cold = live.to(tl.float32) - float("inf"), live.to(tl.int32) * 0, 1.0 / heat
    for block in range(BLOCKS):
        k, x = logits(source, live, block, count, BLOCK_K)
        bad = tl.maximum(bad, tl.max(((x == float("inf")) | (x != x)).to(tl.int32), 1))
        top = tl.maximum(top, tl.max(x, 1))
    bad = tl.maximum(bad, (top == float("-inf")).to(tl.int32))
    top, whole = top.to(tl.float64), tl.zeros_like(uniform)
    for block in range(BLOCKS):
        k, x = logits(source, live, block, count, BLOCK_K)
        whole += tl.sum(tl.exp((x.to(tl.float64) - top[:, None]) * cold), 1)
    edge, below, drawn = uniform * whole, tl.zeros_like(uniform), bad * 0
    for block in range(BLOCKS):
        k, x = logits(source, live, block, count, BLOCK_K)
        p = tl.exp((x.to(tl.float64) - top[:, None]) * cold)
        drawn += tl.sum(((tl.cumsum(p, 1) <= (edge - below)[:, None]) & (k < levels - 1)).to(tl.int32), 1)
        below += tl.sum(p, 1)
    chosen = tl.load(source + drawn, mask=live, other=0.0).to(tl.float64)
    return drawn, (chosen - top) * cold - tl.log(whole), bad


@triton.jit
def bernoulli_draw(source, live, uniform, heat, PROBABILITY: tl.constexpr):
    """What `categorical_draw` gives, from one number each: the probability of 1, or its logit."""
    x = tl.load(source, mask=live, other=0.5).to(tl.float64)
    if PROBABILITY:
        bad = ((x >= 0.0) & (x <= 1.0)).to(tl.int32) == 0
        x = tl.log(x / (1.0 - x))
    else:
        bad = (tl.abs(x) < float("inf")).to(tl.int32) == 0
    x = x / heat
    drawn = (tl.exp(log_sigmoid(-x)) <= uniform).to(tl.int32)
    return drawn, log_sigmoid(tl.where(drawn > 0, x, -x)), bad.to(tl.int32)


@triton.jit
def keep(source, live, parameters, count, BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr):
    """Copy the logits, or whatever describes the distributions."""
    for block in range(BLOCKS):
        k = (block * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        there = live[:, None] & (k < count)
        tl.store(parameters[:, None] + k, tl.load(source[:, None] + k, mask=there, other=0.0), mask=there)


@triton.jit
def draw_body(
    arena, operands, noise, values, parameters, log_prob, temperature, status,
    position, col, image, live, images, height, width, channels, channel, levels, encodes, count,
    HEAD: tl.constexpr, KEEP: tl.constexpr, BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_E: tl.constexpr,
    MIXTURE: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Operands: source, then for each encode its output (count: features) and its table (levels, features).

    noise and values are (N, H, W, C), parameters (N, H, W, C, count) if KEEP; log_prob is (N,). The last two constants are
    those of a mixture, of which a program draws one image.
    """
    row = tl.load(position)
    pixel = ((image.to(tl.int64) * height + row) * width + col) * channels + channel
    start = addresses(operands, col, image, 1)
    source = arena + start
    heat = tl.load(temperature)
    given = tl.load(values + pixel, mask=live, other=0)
    uniform = tl.load(noise + pixel, mask=live, other=0.0).to(tl.float64)
    # Before a search that holds all logits, after one that holds other numbers: the other way, registers spill.
    MANY: tl.constexpr = HEAD == "categorical"
    if KEEP and MANY:
        keep(source, live, parameters + pixel * count, count, BLOCK_K, BLOCKS)
    if HEAD == "categorical":
        drawn, logarithm, bad = categorical_draw(source, live, count, levels, uniform, heat, BLOCK_K, BLOCKS)
    elif MIXTURE is not None:
        # Its search goes other ways for other images: it takes numbers, not vectors of one.
        drawn, logarithm, bad = mixture_draw(
            arena + tl.sum(start, 0), values + tl.sum(pixel, 0) - channel, channel, levels, tl.sum(uniform, 0), heat,
            HEAD, MIXTURE, BLOCK_M,
        )  # fmt: skip
        k, x = logits(source, live, 0, count, BLOCK_K)
        bad = tl.maximum(bad, tl.max(((k < count) & ((tl.abs(x) < float("inf")) == 0)).to(tl.int32), 1))
    else:
        drawn, logarithm, bad = bernoulli_draw(source, live, uniform, heat, HEAD == "bernoulli_probability")
    if KEEP and not MANY:
        keep(source, live, parameters + pixel * count, count, BLOCK_K, BLOCKS)
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
    *, head: str, channel: int, levels: int, count: int, encoded: Sequence[int], mixture: Mixture | None = None, own: int = 0,
) -> Launch:  # fmt: skip
    """Operands: source, then output and table of each encode, whose features `encoded` lists."""
    images, height, width, channels = values.shape
    block, block_e = min(max(power_of_two(count), 2), BLOCK_K), power_of_two(max([1, *encoded]))
    items = max(1, min(own, TILE // max(block, block_e))) if mixture is None else 1
    constants: dict[str, Any] = {
        "HEAD": head, "KEEP": parameters is not None, "BLOCK_I": items, "BLOCK_K": block, "BLOCKS": -(-count // block),
        "BLOCK_E": block_e, "MIXTURE": mixture, "BLOCK_M": 1 if mixture is None else max(8, power_of_two(mixture.components)),
    }  # fmt: skip
    return Launch(
        kernel=draw_kernel,
        grid=(-(-images // items), 1),
        arguments={
            "arena": arena, "operands": operands, "position": position, "noise": noise, "values": values,
            "parameters": arena if parameters is None else parameters, "log_prob": log_prob, "temperature": temperature,
            "status": status, "columns": 1, "images": images, "height": height, "width": width, "channels": channels,
            "channel": channel, "levels": levels, "encodes": len(encoded), "count": count,
        },
        constants=constants,
        warps=warps(count, mixture),
        writes=("arena", "values", "parameters", "log_prob", "status"),
        body=draw_body if mixture is None else None,
    )  # fmt: skip


def warps(count: int, mixture: Mixture | None) -> int:
    """For each program; mixtures as compiled for sm_90 by Triton 3.6 and 3.9 without spilling registers."""
    if mixture is not None:
        return 2 if mixture.components <= 32 else 4
    return 4 if count > 128 else 1


@triton.jit
def known_subpixels(position, first, columns, images, height, width, channels, channel, BLOCK_I: tl.constexpr):
    """Columns and images of a program's items (I,), which of them exist, and where their sub-pixels are in (N, H, W, C)."""
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    return col, image, live, ((image.to(tl.int64) * height + tl.load(position)) * width + col) * channels + channel


@triton.jit(do_not_specialize=SCALARS)
def encode_kernel(
    arena, operands, position, values, first, columns, images, features, height, width, channels, channel,
    BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Known values of many columns. Operands: output, table (K, features)."""
    col, image, live, pixel = known_subpixels(position, first, columns, images, height, width, channels, channel, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    value = tl.load(values + pixel, mask=live, other=0)
    table = tl.load(operands + WORDS) + value * features
    code = tl.load(arena + table[:, None] + f[None, :], mask=mask, other=0.0)
    tl.store(arena + addresses(operands, col, image, 1)[:, None] + f[None, :], code, mask=mask)


@triton.jit(do_not_specialize=SCALARS)
def record_kernel(
    arena, operands, position, parameters, first, columns, images, features, height, width, channels, channel,
    BLOCK_I: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """parameters[n, row, col, channel, f] = source[i, f]: of sub-pixels whose values are known."""
    col, image, live, pixel = known_subpixels(position, first, columns, images, height, width, channels, channel, BLOCK_I)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = live[:, None] & (f < features)[None, :]
    x = tl.load(arena + addresses(operands, col, image, 1)[:, None] + f[None, :], mask=mask, other=0.0)
    tl.store(parameters + pixel[:, None] * features + f[None, :], x, mask=mask)


def encode(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, values: torch.Tensor,
    *, channel: int, columns: int, features: int,
) -> Launch:  # fmt: skip
    arguments = {"arena": arena, "operands": operands, "position": position, "values": values}
    return _over_known(encode_kernel, arguments, values.shape, channel, columns, features, ("arena",))


def record(
    arena: torch.Tensor, operands: torch.Tensor, position: torch.Tensor, parameters: torch.Tensor,
    *, channel: int, columns: int,
) -> Launch:  # fmt: skip
    """`parameters` is (N, H, W, C, P)."""
    arguments = {"arena": arena, "operands": operands, "position": position, "parameters": parameters}
    shape, features = parameters.shape[:4], parameters.shape[4]
    return _over_known(record_kernel, arguments, shape, channel, columns, features, ("parameters",))


def _over_known(
    kernel: Any, arguments: dict[str, Any], shape: Sequence[int], channel: int, columns: int, features: int,
    writes: tuple[str, ...],
) -> Launch:  # fmt: skip
    """A launch over so many columns of one channel of images (N, H, W, C) whose values are known."""
    images, height, width, channels = shape
    items, block_f = columns * images, min(power_of_two(features), 128)
    block = min(power_of_two(items), max(1, 1024 // block_f))
    sizes = {"columns": columns, "images": images, "features": features, "height": height, "width": width}
    return Launch(
        kernel=kernel,
        grid=(-(-items // block), -(-features // block_f)),
        arguments={**arguments, **sizes, "channels": channels, "channel": channel},
        constants={"BLOCK_I": block, "BLOCK_F": block_f},
        writes=writes,
    )
