"""The layers of a Gated PixelCNN by fused kernels, on CUDA: for training and scoring, where it is asked for.

A layer's masked convolutions run with everything up to their gates as one kernel each (kernels/gated_conv.py). On
other devices, and while a model is traced, the layers are what they are without; results are the same up to rounding.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import EngineUnavailable, InvalidInput
from ..kernels.gated_conv import Taps, interpreted, live_taps, unavailable
from .gated import GatedLayer, SingleLayer


def fuse_gates(model: nn.Module, on: bool = True) -> nn.Module:
    """Let the gated layers of ``model`` run by fused kernels wherever its tensors are on CUDA, or by PyTorch again.

    The weights, and what a checkpoint holds, stay as they are. Returns the model.

    Raises:
        InvalidInput: the model has no gated layer.
        EngineUnavailable: Triton is not installed.

    Example:
        >>> model = pixelfast.models.GatedPixelCNN((1, 7, 5), levels=4, features=8, layers=1)
        >>> pixelfast.models.fuse_gates(model, on=False) is model
        True
    """
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
    if isinstance(layer, SingleLayer):
        return (live_taps(layer.seen.mask, [size // 2 for size in layer.seen.kernel_size]),)
    vertical, horizontal = layer.vertical, layer.horizontal
    return live_taps(vertical.mask, (vertical.reach, vertical.reach)), live_taps(horizontal.mask, (0, horizontal.reach))
