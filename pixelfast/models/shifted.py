"""Shifted convolutions, weight norm with data-dependent initialisation, and gated residual nets: PixelCNN++ and PixelSNAIL.

A *down* convolution sees its own row and the rows above, to both sides; a *down-right* convolution sees of these only what
lies to the left, and its own pixel. Neither is masked: the image is padded so that the kernel's last row (and column) is the
own one. The first layers shift their outputs by a row or a column, which hides the pixel that is predicted.

Papers: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017; Salimans, Kingma, "Weight normalization", NeurIPS 2016.
Letters: N images, I channels in, O channels out, F features, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.hooks import RemovableHandle

from .condition import Condition

Sees = Literal["down", "down-right"]


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x: (N, F, H, W) -> (N, 2F, H, W)."""
    return F.elu(torch.cat([x, -x], 1))


def down_shift(x: Tensor) -> Tensor:
    """Every row is the one above it, the first is 0: (N, F, H, W) -> (N, F, H, W)."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def right_shift(x: Tensor) -> Tensor:
    """Every column is the one to its left, the first is 0: (N, F, H, W) -> (N, F, H, W)."""
    return F.pad(x, (1, 0))[..., :-1]


def with_ones(x: Tensor) -> Tensor:
    """A channel of ones tells the image from its padding: (N, C, H, W) -> (N, C + 1, H, W)."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def network_in_network(inputs: int, outputs: int, scale: float = 1.0) -> nn.Module:
    """A 1x1 convolution with weight norm, whose outputs are initialised to the standard deviation ``scale``."""
    return _normed(nn.Conv2d(inputs, outputs, 1), scale)


class ShiftedConv2d(nn.Module):
    """(N, I, H, W) -> (N, O, H, W), or (N, O, H/2, W/2) with stride 2.

    Args:
        kernel: rows and columns; columns odd for ``"down"``.
        sees: ``"down"`` both sides, ``"down-right"`` the left.
        scale: standard deviation to which the outputs are initialised.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], sees: Sees, stride: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        rows, cols = kernel
        left, right = (cols // 2, cols // 2) if sees == "down" else (cols - 1, 0)
        self.padding = (left, right, rows - 1, 0)
        self.conv = _normed(nn.Conv2d(inputs, outputs, kernel, stride), scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class ShiftedUpsample2d(nn.Module):
    """A transposed convolution of stride 2: (N, I, H, W) -> (N, O, 2H, 2W), cropped so that row 2i sees rows up to i."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], sees: Sees) -> None:
        super().__init__()
        self.left = kernel[1] // 2 if sees == "down" else 0
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, 2, output_padding=1)
        self.conv = _normed(layer, 1.0, dim=1)  # one norm for each output

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = 2 * x.shape[2], 2 * x.shape[3]
        return self.conv(x)[:, :, :rows, self.left : self.left + cols]


class GatedResidual(nn.Module):
    """x + a . sigmoid(b), where a and b come from two convolutions of concat_elu(x), a short cut and the condition.

    Args:
        make: a convolution for (inputs, outputs, scale) that keeps the size of the image.
        skip: channels of the short cut; 0 where there is none.
        dropout: between the two convolutions.
        classes, map_channels: the condition; it is added to a and b.
    """

    def __init__(
        self,
        features: int,
        make: Callable[[int, int, float], nn.Module],
        skip: int = 0,
        dropout: float = 0.0,
        classes: int = 0,
        map_channels: int = 0,
    ) -> None:
        super().__init__()
        self.first = make(2 * features, features, 1.0)
        self.skip = network_in_network(2 * skip, features) if skip else None
        self.dropout = nn.Dropout(dropout)
        self.second = make(2 * features, 2 * features, 0.1)  # small at first: a stack of them starts near the identity
        self.condition = Condition(features, classes, map_channels=map_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None, h: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """(N, F, H, W), short cut (N, skip, H, W), label (N,), map (N, map_channels, H, W) -> (N, F, H, W)."""
        y = self.first(concat_elu(x))
        if self.skip is not None and skip is not None:
            y = y + self.skip(concat_elu(skip))
        gates = self.condition(self.second(self.dropout(concat_elu(y))), h, s)
        signal, valve = gates.chunk(2, 1)
        return x + signal * valve.sigmoid()


@torch.no_grad()
def initialise_by_data(model: nn.Module, run: Callable[[], object]) -> None:
    """Set gain and bias of every weight-normed layer so that its outputs have mean 0 and its own standard deviation.

    Args:
        run: one forward of ``model`` on a batch. It runs without dropout; each layer is set as the batch passes through it,
            so that the layers after it see what they will see in training.
    """

    def normalise(layer: Any, _: object, output: Tensor) -> Tensor:
        mean, std = output.mean((0, 2, 3)), output.std((0, 2, 3), correction=0)
        # An output that is the same for all pixels of the batch has no scale to correct.
        factor = torch.where(std > 1e-6, layer.init_scale / std, 1.0)
        gain = layer.parametrizations.weight.original0
        gain.mul_(factor.view(gain.shape))
        layer.bias.copy_((layer.bias - mean) * factor)
        return (output - mean.view(-1, 1, 1)) * factor.view(-1, 1, 1)

    layers = [layer for layer in model.modules() if is_parametrized(layer, "weight") and hasattr(layer, "init_scale")]
    handles: list[RemovableHandle] = [layer.register_forward_hook(normalise) for layer in layers]
    training = model.training
    model.eval()
    try:
        run()
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def _normed(layer: nn.Module, scale: float, dim: int = 0) -> nn.Module:
    weight_norm(layer, "weight", dim)
    layer.init_scale = scale  # type: ignore[assignment]
    return layer
