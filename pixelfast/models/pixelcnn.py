"""PixelCNN: a first masked convolution, masked residual blocks, and a head of two 1x1 convolutions.

Two published residual blocks: ``"original"``, 2h -> h -> 2h with a 3x3 convolution (van den Oord, Kalchbrenner,
Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016, figure 5), and ``"small"``, 64 -> 32 -> 64 with a 7x7
convolution, which suits few blocks. Letters: N images, C colours, F features, K levels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.categorical import Categorical
from ..errors import InvalidInput
from .condition import check_integer
from .masked import ChannelNorm, MaskedConv2d

KERNELS = {"small": 7, "original": 3}


class ResidualBlock(nn.Module):
    """x + 1x1(relu(k x k(relu(1x1(relu(x)))))), with half the features inside: (N, F, H, W) -> (N, F, H, W)."""

    def __init__(self, features: int, kernel: int, norm: bool, colours: int) -> None:
        super().__init__()
        inner = max(features // 2, colours)
        widths = (features, inner, inner, features)
        kernels = (1, kernel, 1)
        self.norms = nn.ModuleList(ChannelNorm(width, colours) if norm else nn.Identity() for width in widths[:-1])
        self.convolutions = nn.ModuleList(
            MaskedConv2d(widths[i], widths[i + 1], size, "B", colours) for i, size in enumerate(kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.relu(norm(y)))
        return x + y


class PixelCNN(nn.Module):
    """Logits of every sub-pixel given the sub-pixels before it.

    Args:
        shape: the image's (C, H, W) of training and of default sampling; other H and W work too.
        levels: K, how many values a sub-pixel takes.
        features: F, channels between the blocks (2h in the 2016 paper).
        blocks: residual blocks.
        norm: layer normalisation over the channels of each pixel before every ReLU.
        skips: the head sees the sum of all blocks' outputs, not only the last one's.
        colour: G is predicted given R, and B given R and G; False predicts all colours from the pixels before only.
        residual: ``"small"`` (7x7 inside) or ``"original"`` (3x3 inside).

    Attributes:
        head: the distribution of a sub-pixel and the encoding of the input, ``Categorical(levels)``.
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> model = pixelfast.models.PixelCNN((3, 7, 5), levels=4, features=12, blocks=1)
        >>> model(torch.zeros(2, 3, 7, 5)).shape  # K logits for each sub-pixel
        torch.Size([2, 4, 3, 7, 5])
        >>> pixelfast.sample(model, n=2, seed=0).shape
        torch.Size([2, 3, 7, 5])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        features: int = 64,
        blocks: int = 5,
        norm: bool = False,
        skips: bool = False,
        colour: bool = True,
        residual: Literal["small", "original"] = "small",
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_integer("features", features, 1)
        check_integer("blocks", blocks, 1)
        if residual not in KERNELS:
            raise InvalidInput(f"residual must be one of {', '.join(map(repr, KERNELS))}, got {residual!r}")
        self.head = Categorical(levels, encode="symmetric")
        self.config = {
            "shape": list(self.shape), "levels": levels, "features": features, "blocks": blocks,
            "norm": norm, "skips": skips, "colour": colour, "residual": residual,
        }  # fmt: skip
        channels = self.shape[0]
        colours = channels if colour else 1
        self.skips = skips
        self.first = MaskedConv2d(channels, features, 7, "A", colours)
        self.blocks = nn.ModuleList(ResidualBlock(features, KERNELS[residual], norm, colours) for _ in range(blocks))
        self.norms = nn.ModuleList(ChannelNorm(features, colours) if norm else nn.Identity() for _ in range(2))
        self.hidden = MaskedConv2d(features, features, 1, "B", colours)
        self.logits = MaskedConv2d(features, levels * channels, 1, "B", colours)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K, C, H, W) of an encoded image (N, C, H, W)."""
        y = self.first(x)  # (N, F, H, W)
        total = y
        for block in self.blocks:
            y = block(y)
            if self.skips:
                total = total + y
        y = self.hidden(F.relu(self.norms[0](total if self.skips else y)))
        return split_logits(self.logits(F.relu(self.norms[1](y))), self.shape[0])


def split_logits(logits: Tensor, channels: int) -> Tensor:
    """Colour-major logits (N, C*K, H, W) as (N, K, C, H, W), as ``F.cross_entropy`` takes them."""
    return logits.unflatten(1, (channels, -1)).transpose(1, 2)


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """``shape`` as (C, H, W), or InvalidInput."""
    if len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise InvalidInput(f"shape must be three positive integers (channels, height, width), got {shape!r}")
    channels, height, width = shape
    return channels, height, width
