"""The models that pixelfast can train itself, by name."""

from __future__ import annotations

from torch import nn

from .autoencoder import PixelCNNAutoencoder
from .fused import fuse_gates
from .gated import GatedPixelCNN
from .masked import ChannelNorm, HorizontalConv2d, MaskedConv2d, VerticalConv2d, colour_groups
from .pixelcnn import PixelCNN
from .pixelcnnpp import PixelCNNpp
from .pixelrnn import PixelRNN
from .pixelsnail import PixelSNAIL

# The names that a checkpoint's config.json and the command line use.
MODELS: dict[str, type[nn.Module]] = {
    "pixelcnn": PixelCNN,
    "gated": GatedPixelCNN,
    "pixelcnnpp": PixelCNNpp,
    "pixelsnail": PixelSNAIL,
    "pixelrnn": PixelRNN,
    "autoencoder": PixelCNNAutoencoder,
}

__all__ = [
    "MODELS",
    "ChannelNorm",
    "GatedPixelCNN",
    "HorizontalConv2d",
    "MaskedConv2d",
    "PixelCNN",
    "PixelCNNAutoencoder",
    "PixelCNNpp",
    "PixelRNN",
    "PixelSNAIL",
    "VerticalConv2d",
    "colour_groups",
    "fuse_gates",
]
