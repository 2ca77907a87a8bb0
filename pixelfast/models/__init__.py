"""The models that pixelfast can train itself: PixelCNN and Gated PixelCNN, by name."""

from __future__ import annotations

from torch import nn

from .gated import GatedPixelCNN
from .masked import ChannelNorm, HorizontalConv2d, MaskedConv2d, VerticalConv2d, colour_groups
from .pixelcnn import PixelCNN

# The names that a checkpoint's config.json and the command line use.
MODELS: dict[str, type[nn.Module]] = {"pixelcnn": PixelCNN, "gated": GatedPixelCNN}

__all__ = [
    "MODELS",
    "ChannelNorm",
    "GatedPixelCNN",
    "HorizontalConv2d",
    "MaskedConv2d",
    "PixelCNN",
    "VerticalConv2d",
    "colour_groups",
]
