"""PixelCNN++: a causal U-net of gated residual nets in two stacks, with a mixture of logistics for each pixel.

The *down* stack sees the rows above a pixel, the *right* stack also what lies to its left. Both go through three
resolutions and back (stride 2 twice, transposed convolutions twice), with short cuts between layers of the same size.

Paper: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and
other modifications", ICLR 2017. Letters: N images, C colours, F features, M mixtures, P = 10M or 3M, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.mixture import MixtureOfLogistics
from ..errors import InvalidInput
from .condition import Wanted, check_fraction, check_integer
from .pixelcnn import check_shape
from .shifted import (
    GatedResidual,
    Sees,
    ShiftedConv2d,
    ShiftedUpsample2d,
    down_shift,
    initialise_by_data,
    network_in_network,
    right_shift,
    with_ones,
)

RESOLUTIONS = 3
DIVISOR = 4
KERNELS: dict[Sees, tuple[int, int]] = {"down": (2, 3), "down-right": (2, 2)}

Stacks = tuple[Tensor, Tensor]
"""The down stack and the right stack, (N, F, rows, columns) each."""


class Layer(nn.Module):
    """A gated residual net in each stack; the right one sees the down one. ``skip``: short cuts of F features come in."""

    def __init__(self, features: int, skip: bool, dropout: float, classes: int) -> None:
        super().__init__()

        def residual(sees: Sees, skips: int) -> GatedResidual:
            def make(inputs: int, outputs: int, scale: float) -> nn.Module:
                return ShiftedConv2d(inputs, outputs, KERNELS[sees], sees, scale=scale)

            return GatedResidual(features, make, skips * features, dropout, classes)

        self.down = residual("down", int(skip))
        self.right = residual("down-right", 1 + int(skip))

    def forward(self, stacks: Stacks, short_cut: Stacks | None, h: Tensor | None) -> Stacks:
        down, right = stacks
        if short_cut is None:
            down = self.down(down, None, h)
            return down, self.right(right, down, h)
        down = self.down(down, short_cut[0], h)
        return down, self.right(right, torch.cat([down, short_cut[1]], 1), h)


class Resize(nn.Module):
    """Both stacks at half or twice the size: (N, F, rows, columns) twice -> twice."""

    def __init__(self, features: int, up: bool) -> None:
        super().__init__()

        def layer(sees: Sees) -> nn.Module:
            if up:
                return ShiftedUpsample2d(features, features, KERNELS[sees], sees)
            return ShiftedConv2d(features, features, KERNELS[sees], sees, stride=2)

        self.down, self.right = layer("down"), layer("down-right")

    def forward(self, stacks: Stacks) -> Stacks:
        return self.down(stacks[0]), self.right(stacks[1])


class PixelCNNpp(nn.Module):
    """Parameters of a mixture of logistics for every pixel, given the pixels before it.

    Args:
        shape: the image's (C, H, W) of training and of default sampling, C = 1 or 3; other H and W work too, if 4 divides them.
        levels: K, how many values a sub-pixel takes.
        features: F (``nr_filters`` in the authors' code).
        blocks: layers at each resolution (``nr_resnet``).
        mixtures: M (``nr_logistic_mix``).
        dropout: inside the gated residual nets.
        classes: number of labels to condition on: ``forward`` then needs h, int64 (N,).

    Attributes:
        head: ``MixtureOfLogistics(levels, mixtures, C)``, colour-major.
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range, or 4 does not divide H and W.

    Example:
        >>> model = pixelfast.models.PixelCNNpp((3, 8, 8), levels=16, features=6, blocks=1, mixtures=2)
        >>> model(torch.zeros(2, 3, 8, 8)).shape  # 10 parameters for each of the mixtures
        torch.Size([2, 20, 8, 8])
        >>> pixelfast.sample(model, n=2, seed=0).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        levels: int = 256,
        features: int = 160,
        blocks: int = 5,
        mixtures: int = 10,
        dropout: float = 0.5,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_size(self.shape[1], self.shape[2])
        check_integer("features", features, 1)
        check_integer("blocks", blocks, 1)
        check_fraction("dropout", dropout)
        self.wanted, self.classes = Wanted(classes), classes
        self.head = MixtureOfLogistics(levels, mixtures, self.shape[0], encode="symmetric", layout="NKHW")
        self.config = {
            "shape": list(self.shape), "levels": levels, "features": features, "blocks": blocks, "mixtures": mixtures,
            "dropout": dropout, "classes": classes,
        }  # fmt: skip
        channels = self.shape[0] + 1
        self.first_down = ShiftedConv2d(channels, features, (2, 3), "down")
        self.first_right = nn.ModuleList(
            [ShiftedConv2d(channels, features, (1, 3), "down"), ShiftedConv2d(channels, features, (2, 1), "down-right")]
        )

        def layers(count: int, skip: bool) -> nn.ModuleList:
            return nn.ModuleList(Layer(features, skip, dropout, classes) for _ in range(count))

        self.encoder = nn.ModuleList(layers(blocks, False) for _ in range(RESOLUTIONS))
        self.shrink = nn.ModuleList(Resize(features, False) for _ in range(RESOLUTIONS - 1))
        # Every output of the encoder meets one layer of the decoder, but the last one, where the decoder starts.
        self.decoder = nn.ModuleList(layers(blocks + int(level > 0), True) for level in range(RESOLUTIONS))
        self.grow = nn.ModuleList(Resize(features, True) for _ in range(RESOLUTIONS - 1))
        self.parameters_of_pixels = network_in_network(features, self.head.parameters)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Parameters (N, P, H, W) of an encoded image (N, C, H, W) and labels (N,).

        Raises:
            InvalidInput: 4 does not divide H and W, or h does not fit.
        """
        check_size(x.shape[2], x.shape[3])
        h, _ = self.wanted.check(x, h)
        x = with_ones(x)
        # The right stack sees of the row above all columns and of its own row those to the left.
        above, left = down_shift(self.first_right[0](x)), right_shift(self.first_right[1](x))
        stacks: Stacks = down_shift(self.first_down(x)), above + left
        seen = [stacks]
        for level, layers in enumerate(cast("Iterable[nn.ModuleList]", self.encoder)):
            if level:
                stacks = self.shrink[level - 1](stacks)
                seen.append(stacks)
            for layer in layers:
                stacks = layer(stacks, None, h)
                seen.append(stacks)
        stacks = seen.pop()
        for level, layers in enumerate(cast("Iterable[nn.ModuleList]", self.decoder)):
            if level:
                stacks = self.grow[level - 1](stacks)
            for layer in layers:
                stacks = layer(stacks, seen.pop(), h)
        return self.parameters_of_pixels(F.elu(stacks[1]))

    def initialise(self, x: Tensor, h: Tensor | None = None) -> None:
        """Data-dependent initialisation by a first batch, as in `forward`: outputs of all layers get mean 0, variance 1.

        The second convolutions of the residual nets get variance 0.01, so that each starts near the identity.
        `pixelfast.training.train` calls this.
        """
        initialise_by_data(self, lambda: self(x, h))


def check_size(height: int, width: int) -> None:
    """InvalidInput unless the image can be halved twice."""
    if height % DIVISOR or width % DIVISOR:
        raise InvalidInput(
            f"PixelCNN++ halves the image twice, so {DIVISOR} must divide its rows and columns: got {height} x {width}; "
            "pad or crop the images"
        )
