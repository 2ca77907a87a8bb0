"""The layers of a Gated PixelCNN by fused kernels, on CUDA: for training and scoring, where it is asked for.

A layer's masked convolutions run with everything up to their gates as one kernel each (kernels/gated_conv.py). On
other devices, and while a model is traced, the layers are what they are without; results are the same up to rounding.
Letters: N images, F features, H rows, W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import EngineUnavailable, InvalidInput
from ..kernels.gated_conv import Taps, gated_conv, interpreted, live_taps, unavailable

if TYPE_CHECKING:
    from .gated import GatedLayer, SingleLayer


def fuse_gates(model: nn.Module, on: bool = True) -> nn.Module:
    """Let the gated layers of ``model`` run by fused kernels wherever its tensors are on CUDA, or by PyTorch again.

    The weights, and what a checkpoint holds, stay as they are. Returns the model.

    Raises:
        InvalidInput: the model has no gated layer.
        EngineUnavailable: Triton is not installed.
    """
    from .gated import GatedLayer, SingleLayer

    layers = [module for module in model.modules() if isinstance(module, (GatedLayer, SingleLayer))]
    if not layers:
        raise InvalidInput(f"{type(model).__name__} has no layer that could be fused: only Gated PixelCNN's layers can")
    reason = unavailable(torch.empty(0, device="cuda" if not interpreted() and torch.cuda.is_available() else "cpu"))
    if on and reason is not None and "not installed" in reason:
        raise EngineUnavailable(f"gates cannot be fused: {reason}")
    for layer in layers:
        layer.fused = taps_of(layer) if on else None
    return model


def taps_of(layer: GatedLayer | SingleLayer) -> tuple[Taps, ...]:
    """The live cells of each stack's kernel: vertical and horizontal, or the only one."""
    from .gated import SingleLayer

    if isinstance(layer, SingleLayer):
        return (live_taps(layer.seen.mask, [size // 2 for size in layer.seen.kernel_size]),)
    vertical, horizontal = layer.vertical, layer.horizontal
    return live_taps(vertical.mask, (vertical.reach, vertical.reach)), live_taps(horizontal.mask, (0, horizontal.reach))


def runs_fused(x: Tensor) -> bool:
    """Whether x is where the kernels run; a trace wants PyTorch's own operations."""
    return (x.is_cuda or interpreted()) and not torch.compiler.is_compiling()


def fused_layer(
    layer: GatedLayer, taps: tuple[Taps, ...], v: Tensor, h: Tensor, label: Tensor | None, field: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What ``layer.forward`` computes, (N, F, H, W) twice -> (N, F, H, W) twice."""
    vertical, horizontal = layer.vertical, layer.horizontal
    vector, map = layer.vertical_condition.parts(label, field)  # (N, 2F), (N, 2F, H, W)
    v, above = gated_conv(v, vertical.weight * vertical.mask, taps[0], vertical.bias, vector, map)
    vector, map = layer.horizontal_condition.parts(label, field)
    linked = layer.link(above) if map is None else layer.link(above) + map
    gated, _ = gated_conv(h, horizontal.weight * horizontal.mask, taps[1], horizontal.bias, vector, linked)
    return v, h + layer.out(gated)


def fused_single_layer(
    layer: SingleLayer, taps: tuple[Taps, ...], x: Tensor, label: Tensor | None, field: Tensor | None
) -> Tensor:
    """What ``layer.forward`` computes: (N, F, H, W) -> (N, F, H, W)."""
    vector, map = layer.condition.parts(label, field)
    gated, _ = gated_conv(x, layer.seen.weight * layer.seen.mask, taps[0], layer.seen.bias, vector, map)
    return x + layer.out(gated)
