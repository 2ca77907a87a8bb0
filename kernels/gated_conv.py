"""Masked gated convolution of whole images, for training and scoring: one fused operation, and its naive twin.

    sums = W * x + bias                                             (N, 2F, H, W)
    y = [residual +] tanh(first half of g) . sigmoid(second half),  g = sums + condition + map

W * x is a convolution of which only the live cells of the kernel are multiplied: those that some mask left standing. The
image counts as zero outside, and y is as large as x. `gated_conv` runs kernels/gated_forward.py and, for the gradients,
kernels/gated_backward.py; `naive_gated_conv` has the same signature and is plain PyTorch.

What the kernels do not do: second derivatives, strides. No number stands here, since none was measured on a GPU yet.

Letters: N images, I channels in, F features of the gate, T live cells, H rows, W columns.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..errors import EngineUnavailable, InvalidInput


class Tap(NamedTuple):
    """A live cell of a kernel: weight[:, :, cell_row, cell_col] meets the input at (row, col) from the pixel."""

    cell_row: int
    cell_col: int
    row: int
    col: int


Taps = tuple[Tap, ...]


def live_taps(mask: Tensor, anchor: Sequence[int], dilation: int | Sequence[int] = 1) -> Taps:
    """The cells in which a mask, (KH, KW) or (O, I, KH, KW), is not zero for all channels.

    ``anchor`` is the cell (row, col) that lies on the pixel itself, for instance (KH // 2, KW // 2).
    """
    cells = mask.detach().ne(0)
    cells = cells if cells.dim() == 2 else cells.flatten(0, 1).any(0)
    down, right = (dilation, dilation) if isinstance(dilation, int) else dilation
    live = cells.nonzero().tolist()
    return tuple(Tap(row, col, (row - anchor[0]) * down, (col - anchor[1]) * right) for row, col in live)


def unavailable(x: Tensor) -> str | None:
    """None if the kernels can run on a tensor like x, otherwise why they cannot."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'pixelfast[gpu]', on Linux"
    if x.device.type == "cuda":
        return None
    if not interpreted():
        return f"the tensors are on {x.device}, and Triton's kernels run on CUDA devices: move them, or call naive_gated_conv"
    return "Triton's interpreter multiplies bfloat16 wrongly: use another type" if x.dtype == torch.bfloat16 else None


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, for tests: the variable must be set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def gated_conv(
    x: Tensor,
    weight: Tensor,
    taps: Taps,
    bias: Tensor | None = None,
    condition: Tensor | None = None,
    map: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gated convolution by fused Triton kernels, differentiable once.

    Args:
        x: (N, I, H, W), float32, float16 or bfloat16 (in the interpreter: float64, too, but not bfloat16).
        weight: (2F, I, KH, KW), masked: cells that are no tap are not read, and get no gradient.
        taps: the live cells, see `live_taps`.
        bias: (2F,).
        condition: added to the gates, the same for all pixels: (N, 2F).
        map: added to the gates: (N, 2F, H, W).
        residual: (N, F, H, W).

    Returns:
        y (N, F, H, W), and sums (N, 2F, H, W), which is what a second stack may be linked to; both are differentiable.

    Raises:
        EngineUnavailable: the kernels cannot run here.
        InvalidInput: a shape or type does not fit.
    """
    reason = unavailable(x)
    if reason is not None:
        raise EngineUnavailable(f"the fused gated convolution cannot run here: {reason}")
    x, weight, bias, condition, map, residual = _autocast(x, weight, bias, condition, map, residual)
    _check(x, weight, taps, bias, condition, map, residual)
    live = _packed(weight, taps)  # (2F, T, I)
    y, sums = _GatedConv.apply(x, live, _offsets(taps), bias, condition, map, residual)
    return y, sums


def naive_gated_conv(
    x: Tensor,
    weight: Tensor,
    taps: Taps,
    bias: Tensor | None = None,
    condition: Tensor | None = None,
    map: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `gated_conv` computes, in plain PyTorch on any device: one product for each tap."""
    _check(x, weight, taps, bias, condition, map, residual)
    height, width = x.shape[2:]
    far = max((abs(offset) for tap in taps for offset in (tap.row, tap.col)), default=0)
    padded = F.pad(x, (far, far, far, far))
    sums = x.new_zeros(x.shape[0], weight.shape[0], height, width)
    for tap in taps:
        seen = padded[:, :, far + tap.row : far + tap.row + height, far + tap.col : far + tap.col + width]
        sums = sums + torch.einsum("oi,nihw->nohw", weight[:, :, tap.cell_row, tap.cell_col], seen)
    sums = sums if bias is None else sums + bias[:, None, None]
    gates = sums if condition is None else sums + condition[:, :, None, None]
    signal, valve = (gates if map is None else gates + map).chunk(2, 1)
    y = signal.tanh() * valve.sigmoid()
    return (y if residual is None else residual + y), sums


class GatedConv2d(nn.Module):
    """A masked gated convolution: (N, I, H, W) -> (N, F, H, W), by `gated_conv`.

    Args:
        in_channels, features: I and F.
        mask: which cells of the kernel are live, and for which channels: (KH, KW) or (2F, I, KH, KW).
        anchor: the cell (row, col) that lies on the pixel itself.
        dilation: pixels between neighbouring cells.
        residual: add the input to the output; I must be F.
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        features: int,
        mask: Tensor,
        anchor: Sequence[int],
        dilation: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and in_channels != features:
            raise InvalidInput(f"a residual needs as many features as channels: got {features} and {in_channels}")
        like = nn.Conv2d(in_channels, 2 * features, (mask.shape[-2], mask.shape[-1]))
        self.weight, self.bias, self.residual = like.weight, like.bias, residual
        self.taps = live_taps(mask, anchor, dilation)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None, map: Tensor | None = None) -> Tensor:
        residual = x if self.residual else None
        return gated_conv(x, self.weight * self.mask, self.taps, self.bias, condition, map, residual)[0]


class _GatedConv(torch.autograd.Function):
    """The derivatives by hand. ``live`` is (2F, T, I), ``offsets`` (row, col) of every tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, live: Tensor, offsets: Any, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
        from .gated_forward import gated_forward, offset_table

        bias, condition, map, residual = rest
        y, sums = gated_forward(x, live, offset_table(offsets, x.device), bias, condition, map, residual)
        ctx.save_for_backward(x, live, sums, condition, map)
        ctx.offsets = offsets
        ctx.set_materialize_grads = False
        return y, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_sums: Tensor | None) -> tuple[Tensor | None, ...]:
        from .gated_backward import Gradients, gate_backward, input_backward, weight_backward

        x, live, sums, condition, map = ctx.saved_tensors
        wants_x, wants_live, _, wants_bias, wants_condition, wants_map, wants_residual = ctx.needs_input_grad
        if grad_y is None and grad_sums is None:
            return (None,) * 7
        if grad_y is None:  # nobody uses the gates, as in the vertical stack of a model's last layer
            result = Gradients(None, grad_sums.contiguous(), None, grad_sums.sum((0, 2, 3)))
        else:
            split = wants_map and grad_sums is not None  # else the gates' gradient is that of the sums
            result = gate_backward(grad_y, grad_sums, sums, condition, map, split)
        grad_x = input_backward(result.sums, live, ctx.offsets) if wants_x else None
        grad_live = weight_backward(result.sums, x, live, ctx.offsets) if wants_live else None
        return (
            grad_x,
            grad_live,
            None,
            result.bias if wants_bias else None,
            result.condition if wants_condition else None,
            result.gates if wants_map else None,
            grad_y if wants_residual else None,
        )


def _offsets(taps: Taps) -> tuple[tuple[int, int], ...]:
    return tuple((tap.row, tap.col) for tap in taps)


def _packed(weight: Tensor, taps: Taps) -> Tensor:
    """The live cells of a weight (2F, I, KH, KW), side by side: (2F, T, I)."""
    width = weight.shape[3]
    cells = torch.tensor([tap.cell_row * width + tap.cell_col for tap in taps], dtype=torch.long, device=weight.device)
    return weight.flatten(2).index_select(2, cells).transpose(1, 2).contiguous()


def _autocast(x: Tensor, *others: Tensor | None) -> list[Any]:
    """Under autocast all in its type, as PyTorch's convolutions have it."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return [x, *others]
    dtype = torch.get_autocast_dtype(kind)
    return [None if tensor is None else tensor.to(dtype) for tensor in (x, *others)]


def _check(x: Tensor, weight: Tensor, taps: Taps, *rest: Tensor | None) -> None:
    """InvalidInput unless all shapes, types and devices fit those of x (N, I, H, W)."""
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[0] % 2 or weight.shape[1] != x.shape[1]:
        raise InvalidInput(
            f"x must be (N, I, H, W) and weight (2F, I, KH, KW), got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    double, (n, _, height, width) = weight.shape[0], x.shape
    shapes = {"bias": (double,), "condition": (n, double), "map": (n, double, height, width)}
    shapes["residual"] = (n, double // 2, height, width)
    for tensor, (name, shape) in zip(rest, shapes.items(), strict=True):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InvalidInput(f"{name} must be {shape} for x {tuple(x.shape)}, got {tuple(tensor.shape)}")
    for tensor in (weight, *rest):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise InvalidInput(
                f"all must be of one type on one device: x is {x.dtype} on {x.device}, "
                f"another is {tensor.dtype} on {tensor.device}"
            )
    for tap in taps:
        if not (0 <= tap.cell_row < weight.shape[2] and 0 <= tap.cell_col < weight.shape[3]):
            raise InvalidInput(f"{tap} lies outside of the kernel of {tuple(weight.shape[2:])} cells: use live_taps")
