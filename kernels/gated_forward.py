"""The forward pass of the masked gated convolution (kernels/gated_conv.py), as one kernel.

    sums[n, o, p] = bias[o] + sum over k = (tap, channel) of weight[o, k] . x[n, channel, p + offset of tap]
    y[n, f, p] = [residual[n, f, p] +] tanh(g[n, f, p]) . sigmoid(g[n, F + f, p]),  g = sums + condition + map

It is a product of the weights with the pixels' neighbourhoods, which are gathered on the way and never written. Taps and
channels are one axis k, so that few channels (an image's own) fill its blocks as well as many do. A program has a block of
features of *both* halves of the gate, and a block of pixels: output channels lie on the rows of its products, pixels, which
are what lies side by side in memory, on the columns. Letters: N images, F features, T taps, I channels, H rows, W columns.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Features, pixels and (tap, channel) of one program, and how it is compiled."""

    features: int
    pixels: int
    depth: int
    warps: int = 4
    stages: int = 2


# The largest that need no more registers than there are, when compiled for sm_90 (test_gated_compiled.py); both halves of
# the gate are summed at once. Which are fastest is not measured yet.
FORWARD = {
    torch.float64: Blocks(16, 32, 16),
    torch.float32: Blocks(32, 64, 32, warps=8),
    torch.float16: Blocks(64, 32, 32, warps=8),
    torch.bfloat16: Blocks(64, 32, 32, warps=8),
}


@triton.jit
def tanh(x):
    """Cephes' tanhf; by the exponential alone, small numbers would keep few of their digits."""
    e = tl.exp(-2.0 * tl.abs(x))
    large = tl.where(x < 0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    if x.dtype == tl.float64:
        return large
    s = x * x
    small = -5.70498872745e-3 * s + 2.06390887954e-2
    small = (small * s - 5.37397155531e-2) * s + 1.33314422036e-1
    small = (small * s - 3.33332819422e-1) * s * x + x
    return tl.where(tl.abs(x) < 0.625, small, large)


@triton.jit
def neighbours(X, OFFSETS, k, depth, channels, base, row, col, inside, height, width, s_c, s_h, s_w):
    """x at the pixels' neighbours, zero outside the image: (len(k), pixels). `base` is where an image's pixels begin."""
    tap, channel = k // channels, k % channels
    live = k < depth
    down = tl.load(OFFSETS + 2 * tap, mask=live, other=0)
    right = tl.load(OFFSETS + 2 * tap + 1, mask=live, other=0)
    r, c = row[None, :] + down[:, None], col[None, :] + right[:, None]
    seen = live[:, None] & inside[None, :] & (r >= 0) & (r < height) & (c >= 0) & (c < width)
    step = channel.to(tl.int64) * s_c + down.to(tl.int64) * s_h + right.to(tl.int64) * s_w
    return tl.load(X + base[None, :] + step[:, None], mask=seen, other=0.0)


@triton.jit
def gated_forward_kernel(
    X, WEIGHT, OFFSETS, BIAS, CONDITION, MAP, RESIDUAL, Y, SUMS,
    images, channels, features, height, width, taps,
    s_n, s_c, s_h, s_w,
    BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    area, depth = height * width, taps * channels
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)  # of all images
    inside = pixel < images * area
    image, place = (pixel // area).to(tl.int64), pixel % area
    row, col = place // width, place % width
    base = image * s_n + row.to(tl.int64) * s_h + col.to(tl.int64) * s_w
    f = (tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)).to(tl.int64)
    known = f < features
    signal = tl.zeros((BLOCK_F, BLOCK_P), ACC)
    valve = tl.zeros((BLOCK_F, BLOCK_P), ACC)
    for start in range(0, depth, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = neighbours(X, OFFSETS, k, depth, channels, base, row, col, inside, height, width, s_c, s_h, s_w)
        cell = known[:, None] & (k < depth)[None, :]
        w = tl.load(WEIGHT + f[:, None] * depth + k[None, :], mask=cell, other=0.0)
        signal = tl.dot(w, x, signal, input_precision="ieee", out_dtype=ACC)
        w = tl.load(WEIGHT + (features + f)[:, None] * depth + k[None, :], mask=cell, other=0.0)
        valve = tl.dot(w, x, valve, input_precision="ieee", out_dtype=ACC)
    if BIAS is not None:
        signal += tl.load(BIAS + f, mask=known, other=0.0).to(ACC)[:, None]
        valve += tl.load(BIAS + features + f, mask=known, other=0.0).to(ACC)[:, None]
    cell = known[:, None] & inside[None, :]
    upper = (image * 2 * features)[None, :] + f[:, None]  # in (N, 2F)
    lower = upper + features
    first, second = upper * area + place[None, :], lower * area + place[None, :]  # in (N, 2F, H, W)
    tl.store(SUMS + first, signal.to(SUMS.dtype.element_ty), mask=cell)
    tl.store(SUMS + second, valve.to(SUMS.dtype.element_ty), mask=cell)
    if CONDITION is not None:
        signal += tl.load(CONDITION + upper, mask=cell, other=0.0).to(ACC)
        valve += tl.load(CONDITION + lower, mask=cell, other=0.0).to(ACC)
    if MAP is not None:
        signal += tl.load(MAP + first, mask=cell, other=0.0).to(ACC)
        valve += tl.load(MAP + second, mask=cell, other=0.0).to(ACC)
    y = tanh(signal) * tl.sigmoid(valve)
    at = ((image * features)[None, :] + f[:, None]) * area + place[None, :]  # in (N, F, H, W)
    if RESIDUAL is not None:
        y += tl.load(RESIDUAL + at, mask=cell, other=0.0).to(ACC)
    tl.store(Y + at, y.to(Y.dtype.element_ty), mask=cell)


def gated_forward(
    x: Tensor,
    live: Tensor,
    offsets: Tensor,
    bias: Tensor | None,
    condition: Tensor | None,
    map: Tensor | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y (N, F, H, W) and sums (N, 2F, H, W), contiguous, from x (N, I, H, W) and live weights (2F, T, I)."""
    n, channels, height, width = x.shape
    double, taps = live.shape[:2]
    y, sums = x.new_empty(n, double // 2, height, width), x.new_empty(n, double, height, width)
    if not y.numel():
        return y, sums
    blocks = FORWARD[x.dtype]
    grid = (triton.cdiv(n * height * width, blocks.pixels), triton.cdiv(double // 2, blocks.features))
    extra = (None if tensor is None else tensor.contiguous() for tensor in (bias, condition, map, residual))
    with on(x):
        gated_forward_kernel[grid](
            x, live, offsets, *extra, y, sums,
            n, channels, double // 2, height, width, taps,
            *x.stride(),
            BLOCK_F=blocks.features, BLOCK_P=blocks.pixels, BLOCK_K=blocks.depth, ACC=accumulator(x.dtype),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return y, sums


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """In which type products are summed."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def on(x: Tensor) -> AbstractContextManager[object]:
    """Launch on the device of x, whichever is current."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@lru_cache(maxsize=256)
def offset_table(offsets: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(row, col) of every tap, int32 (T, 2), where the kernels can read it."""
    return torch.tensor(offsets, dtype=torch.int32, device=device).reshape(-1, 2)
