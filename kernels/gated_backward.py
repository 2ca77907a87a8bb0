"""The backward pass of the masked gated convolution (kernels/gated_conv.py): three kernels, no atomics.

With g = sums + condition + map, t = tanh of its first half, s = sigmoid of its second, and dy the gradient of y:

    gates:   dg = (dy . (1 - t^2) . s,  dy . t . s . (1 - s));  dsums = dg + what the sums' own gradient adds
             dcondition = dg summed over pixels, dbias = dsums summed over pixels and images, dmap = dg
    input:   dx[n, i, p] = sum over k = (tap, o) of weight[o, tap, i] . dsums[n, o, p - offset of tap]
    weights: dweight[o, tap, i] = sum over n and p of dsums[n, o, p] . x[n, i, p + offset of tap]

The second is the forward pass's product with the taps mirrored. The third sums over pixels: they are split between
programs, whose parts are written side by side and added at last, so that every sum has one order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_forward import Blocks, accumulator, neighbours, offset_table, on, tanh

INPUT = {
    torch.float64: Blocks(16, 32, 16),
    torch.float32: Blocks(64, 64, 32, warps=8),
    torch.float16: Blocks(64, 128, 32, warps=8),
    torch.bfloat16: Blocks(64, 128, 32, warps=8),
}
# Here a program has (output channels, pixels of one step, (tap, channel)).
WEIGHTS = {
    torch.float64: Blocks(16, 32, 16),
    torch.float32: Blocks(64, 32, 64, warps=8),
    torch.float16: Blocks(64, 32, 64, warps=8),
    torch.bfloat16: Blocks(64, 32, 64, warps=8),
}
GATE = Blocks(4, 128, 0, warps=8, stages=1)
PROGRAMS = 264  # two for each multiprocessor of a large GPU: over so many the pixels of the weights' gradient are split


class Gradients(NamedTuple):
    """Gradients of gates and sums, (N, 2F, H, W), of the condition (N, 2F) and the bias (2F,). None: no gradient at all."""

    gates: Tensor | None
    sums: Tensor
    condition: Tensor | None
    bias: Tensor


@triton.jit
def gate_backward_kernel(
    GRAD_Y, GRAD_SUMS, SUMS, CONDITION, MAP, GATES, OUT, OVER_PIXELS, OVER_PIXELS_GATES,
    features, area,
    BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    known = f < features
    upper = image * 2 * features + f  # in (N, 2F)
    lower = upper + features
    bias_signal, bias_valve = tl.zeros((BLOCK_F,), ACC), tl.zeros((BLOCK_F,), ACC)
    gate_signal, gate_valve = tl.zeros((BLOCK_F,), ACC), tl.zeros((BLOCK_F,), ACC)
    for start in range(0, area, BLOCK_P):
        place = start + tl.arange(0, BLOCK_P)
        cell = known[:, None] & (place < area)[None, :]
        first, second = upper[:, None] * area + place[None, :], lower[:, None] * area + place[None, :]  # in (N, 2F, H, W)
        signal = tl.load(SUMS + first, mask=cell, other=0.0).to(ACC)
        valve = tl.load(SUMS + second, mask=cell, other=0.0).to(ACC)
        if CONDITION is not None:
            signal += tl.load(CONDITION + upper, mask=known, other=0.0).to(ACC)[:, None]
            valve += tl.load(CONDITION + lower, mask=known, other=0.0).to(ACC)[:, None]
        if MAP is not None:
            signal += tl.load(MAP + first, mask=cell, other=0.0).to(ACC)
            valve += tl.load(MAP + second, mask=cell, other=0.0).to(ACC)
        t, s = tanh(signal), tl.sigmoid(valve)
        dy = tl.load(GRAD_Y + (image * features + f)[:, None] * area + place[None, :], mask=cell, other=0.0).to(ACC)
        signal = dy * (1.0 - t * t) * s
        valve = dy * t * s * (1.0 - s)
        gate_signal += tl.sum(signal, 1)
        gate_valve += tl.sum(valve, 1)
        if GATES is not None:
            tl.store(GATES + first, signal.to(GATES.dtype.element_ty), mask=cell)
            tl.store(GATES + second, valve.to(GATES.dtype.element_ty), mask=cell)
        if GRAD_SUMS is not None:
            signal += tl.load(GRAD_SUMS + first, mask=cell, other=0.0).to(ACC)
            valve += tl.load(GRAD_SUMS + second, mask=cell, other=0.0).to(ACC)
            bias_signal += tl.sum(signal, 1)
            bias_valve += tl.sum(valve, 1)
        tl.store(OUT + first, signal.to(OUT.dtype.element_ty), mask=cell)
        tl.store(OUT + second, valve.to(OUT.dtype.element_ty), mask=cell)
    tl.store(OVER_PIXELS_GATES + upper, gate_signal, mask=known)
    tl.store(OVER_PIXELS_GATES + lower, gate_valve, mask=known)
    if GRAD_SUMS is not None:
        tl.store(OVER_PIXELS + upper, bias_signal, mask=known)
        tl.store(OVER_PIXELS + lower, bias_valve, mask=known)


def gate_backward(
    grad_y: Tensor, grad_sums: Tensor | None, sums: Tensor, condition: Tensor | None, map: Tensor | None, split: bool
) -> Gradients:
    """The gradients from those of y (N, F, H, W) and of sums (N, 2F, H, W); ``split``: of gates and sums both."""
    n, double, height, width = sums.shape
    out = torch.empty_like(sums)
    gates = torch.empty_like(sums) if split else None
    dtype = torch.float64 if sums.dtype == torch.float64 else torch.float32
    over = sums.new_zeros(n, double, dtype=dtype)
    over_gates = over if grad_sums is None else torch.zeros_like(over)
    given = (None if tensor is None else tensor.contiguous() for tensor in (grad_y, grad_sums, sums, condition, map))
    if out.numel():
        with on(sums):
            gate_backward_kernel[(n, triton.cdiv(double // 2, GATE.features))](
                *given, gates, out, over, over_gates,
                double // 2, height * width,
                BLOCK_F=GATE.features, BLOCK_P=GATE.pixels, ACC=accumulator(sums.dtype),
                num_warps=GATE.warps, num_stages=GATE.stages,
            )  # fmt: skip
    return Gradients(out if gates is None else gates, out, over_gates.to(sums.dtype), over.sum(0).to(sums.dtype))


@triton.jit
def taps_kernel(
    X, WEIGHT, OFFSETS, OUT,
    images, channels, outputs, height, width, taps,
    s_n, s_c, s_h, s_w,
    BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    area, depth = height * width, taps * channels
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < images * area
    image, place = (pixel // area).to(tl.int64), pixel % area
    row, col = place // width, place % width
    base = image * s_n + row.to(tl.int64) * s_h + col.to(tl.int64) * s_w
    o = (tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)).to(tl.int64)
    known = o < outputs
    total = tl.zeros((BLOCK_F, BLOCK_P), ACC)
    for start in range(0, depth, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = neighbours(X, OFFSETS, k, depth, channels, base, row, col, inside, height, width, s_c, s_h, s_w)
        at = o[:, None] * depth + k[None, :]
        w = tl.load(WEIGHT + at, mask=known[:, None] & (k < depth)[None, :], other=0.0)
        total = tl.dot(w, x, total, input_precision="ieee", out_dtype=ACC)
    at = ((image * outputs)[None, :] + o[:, None]) * area + place[None, :]
    tl.store(OUT + at, total.to(OUT.dtype.element_ty), mask=known[:, None] & inside[None, :])


def input_backward(grad: Tensor, live: Tensor, offsets: tuple[tuple[int, int], ...]) -> Tensor:
    """The gradient of x (N, I, H, W), from that of the sums (N, 2F, H, W) and the live weights (2F, T, I)."""
    n, double, height, width = grad.shape
    taps, channels = live.shape[1:]
    out = grad.new_empty(n, channels, height, width)
    if not out.numel():
        return out
    weight = live.permute(2, 1, 0).contiguous()  # (I, T, 2F)
    mirrored = offset_table(tuple((-row, -col) for row, col in offsets), grad.device)
    blocks = INPUT[grad.dtype]
    with on(grad):
        taps_kernel[(triton.cdiv(n * height * width, blocks.pixels), triton.cdiv(channels, blocks.features))](
            grad, weight, mirrored, out,
            n, double, channels, height, width, taps,
            *grad.stride(),
            BLOCK_F=blocks.features, BLOCK_P=blocks.pixels, BLOCK_K=blocks.depth, ACC=accumulator(grad.dtype),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out


@triton.jit
def weight_backward_kernel(
    GRAD, X, OFFSETS, PARTS,
    images, channels, outputs, height, width, taps, pixels_each,
    s_n, s_c, s_h, s_w,
    BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    area, depth = height * width, taps * channels
    o = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    part = tl.program_id(2)
    total = tl.zeros((BLOCK_F, BLOCK_K), ACC)
    for start in range(part * pixels_each, (part + 1) * pixels_each, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        inside = pixel < images * area
        image, place = (pixel // area).to(tl.int64), pixel % area
        row, col = place // width, place % width
        base = image * s_n + row.to(tl.int64) * s_h + col.to(tl.int64) * s_w
        x = neighbours(X, OFFSETS, k, depth, channels, base, row, col, inside, height, width, s_c, s_h, s_w)
        at = ((image * outputs)[None, :] + o[:, None]) * area + place[None, :]
        d = tl.load(GRAD + at, mask=(o < outputs)[:, None] & inside[None, :], other=0.0)
        total = tl.dot(d, tl.trans(x), total, input_precision="ieee", out_dtype=ACC)
    at = (part.to(tl.int64) * outputs + o)[:, None] * depth + k[None, :]
    tl.store(PARTS + at, total, mask=(o < outputs)[:, None] & (k < depth)[None, :])


def weight_backward(grad: Tensor, x: Tensor, live: Tensor, offsets: tuple[tuple[int, int], ...]) -> Tensor:
    """The gradient of the live weights (2F, T, I), from that of the sums (N, 2F, H, W) and x (N, I, H, W)."""
    n, channels, height, width = x.shape
    double, taps = live.shape[:2]
    if not live.numel() or not x.numel():
        return torch.zeros_like(live)
    blocks = WEIGHTS[x.dtype]
    tiles = triton.cdiv(double, blocks.features) * triton.cdiv(taps * channels, blocks.depth)
    steps = triton.cdiv(n * height * width, blocks.pixels)
    each = triton.cdiv(steps, min(steps, triton.cdiv(PROGRAMS, tiles)))  # steps of a part
    parts = triton.cdiv(steps, each)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = x.new_empty(parts, double, taps, channels, dtype=dtype)
    with on(x):
        weight_backward_kernel[
            (triton.cdiv(double, blocks.features), triton.cdiv(taps * channels, blocks.depth), parts)
        ](
            grad, x, offset_table(offsets, x.device), out,
            n, channels, double, height, width, taps, each * blocks.pixels,
            *x.stride(),
            BLOCK_F=blocks.features, BLOCK_P=blocks.pixels, BLOCK_K=blocks.depth, ACC=accumulator(x.dtype),
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out.sum(0).to(live.dtype)
