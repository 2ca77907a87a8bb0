"""PixelSNAIL: causal convolutions for what is near, causal attention for everything before; for images and for VQ codes.

Each block is a few gated residual nets, then attention from every pixel to all pixels strictly before it. What is attended
to are the image itself and the features so far; what asks are the features only, which do not know their own pixel.

Paper: Chen, Mishra, Rohaninejad, Abbeel, "PixelSNAIL: an improved autoregressive generative model", ICML 2018; as priors over
codes: Razavi, van den Oord, Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", NeurIPS 2019. Letters: N images,
C channels, F features, K levels, M mixtures, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.base import Head
from ..distributions.categorical import Categorical
from ..distributions.mixture import MixtureOfLogistics
from ..errors import InvalidInput
from .condition import Wanted, check_fraction, check_integer, check_range
from .pixelcnn import check_shape, split_logits
from .shifted import GatedResidual, ShiftedConv2d, down_shift, initialise_by_data, network_in_network, right_shift, with_ones


class CausalAttention(nn.Module):
    """Each pixel's mixture of what stands at the pixels strictly before it: (N, heads * D, H, W) of values of size D."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries and keys (N, heads * E, H, W), values (N, heads * D, H, W) -> (N, heads * D, H, W); 0 at the first pixel."""
        height, width = query.shape[2:]
        place = torch.arange(height * width, device=query.device)
        before = place < place.unsqueeze(1)  # (asking pixel, seen pixel)
        # A row without anything to see would be NaN: the first pixel looks at itself, and what it finds is thrown away.
        start = place > 0
        seen = before | ~(start | start.unsqueeze(1))
        q, k, v = (part.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen) * start.unsqueeze(1).to(query.dtype)
        return mixed.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))


class Block(nn.Module):
    """Gated residual nets, attention, and its result as a short cut into one more: (N, F, H, W) -> (N, F, H, W)."""

    def __init__(
        self, features: int, inputs: int, residuals: int, key: int, heads: int, dropout: float, classes: int, map_channels: int
    ) -> None:
        super().__init__()

        def causal(inputs: int, outputs: int, scale: float) -> nn.Module:
            return ShiftedConv2d(inputs, outputs, (2, 2), "down-right", scale=scale)

        self.residuals = nn.ModuleList(
            GatedResidual(features, causal, 0, dropout, classes, map_channels) for _ in range(residuals)
        )
        value = max(features // 2 // heads, 1) * heads
        self.sizes = [key * heads, value]
        content, asking = inputs + features + 2, features + 2
        self.content = GatedResidual(content, network_in_network, dropout=dropout)
        self.content_out = network_in_network(content, sum(self.sizes))
        self.query = GatedResidual(asking, network_in_network, dropout=dropout)
        self.query_out = network_in_network(asking, key * heads)
        self.attention = CausalAttention(heads)
        self.out = GatedResidual(features, network_in_network, value, dropout)

    def forward(self, y: Tensor, x: Tensor, place: Tensor, h: Tensor | None, s: Tensor | None) -> Tensor:
        """Features (N, F, H, W), image (N, inputs, H, W), coordinates (N, 2, H, W), label (N,), map (N, F, H, W)."""
        for residual in self.residuals:
            y = residual(y, None, h, s)
        key, value = self.content_out(self.content(torch.cat([x, y, place], 1))).split(self.sizes, 1)
        query = self.query_out(self.query(torch.cat([y, place], 1)))
        return self.out(y, self.attention(query, key, value))


class UpperMap(nn.Module):
    """Codes of the level above, looked up, smoothed and enlarged to the image: int64 (N, 1, h, w) -> (N, F, H, W)."""

    def __init__(self, levels: int, features: int) -> None:
        super().__init__()
        self.levels = levels
        self.embedding = nn.Embedding(levels, features)
        self.convs = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        y = self.embedding(self.check(s, x).squeeze(1)).permute(0, 3, 1, 2)  # (N, F, h, w)
        for conv in self.convs:
            y = y + conv(F.elu(y))
        rows, cols = x.shape[2] // s.shape[2], x.shape[3] // s.shape[3]
        return y.repeat_interleave(rows, 2).repeat_interleave(cols, 3)

    def check(self, s: Tensor, x: Tensor) -> Tensor:
        """The codes as int64, or InvalidInput."""
        wanted = (
            f"s must be a map of integers 0 .. {self.levels - 1} of shape ({x.shape[0]}, 1, rows, columns), where rows and "
        )
        wanted += f"columns divide the image's {x.shape[2]} and {x.shape[3]}"
        fits = s.dim() == 4 and s.shape[:2] == (x.shape[0], 1) and x.shape[2] % s.shape[2] == 0 == x.shape[3] % s.shape[3]
        if s.is_floating_point() or not fits:
            raise InvalidInput(f"{wanted}, got {s.dtype} of shape {tuple(s.shape)}")
        check_range("codes", s, self.levels, wanted)
        return s.long()


class PixelSNAIL(nn.Module):
    """Logits or parameters of a mixture of logistics for every pixel, given the pixels before it.

    The channels of a pixel are drawn together: independently of each other from logits, or one after the other from a mixture.

    Args:
        shape: the image's (C, H, W) of training and of default sampling; other H and W work too. C = 1 for codes.
        levels: K, how many values a sub-pixel takes, for codes the size of the code book.
        features: F.
        blocks: how many blocks with attention.
        residuals: gated residual nets of each block.
        key: size of keys and queries for each head.
        heads: of the attention; the values of all heads together have about F/2 channels.
        mixtures: M, for a mixture of logistics; 0 for K logits of each sub-pixel.
        embed: values enter as integers and are looked up in a table of K vectors of this size, as codes need it, whose numbers
            mean nothing; 0: values enter as numbers.
        dropout: inside the gated residual nets.
        classes: number of labels to condition on: ``forward`` then needs h, int64 (N,).
        upper: size of the code book of an upper map to condition on: ``forward`` then needs s, int64 (N, 1, rows, columns),
            whose rows and columns divide the image's.

    Attributes:
        head: ``MixtureOfLogistics(levels, mixtures, C)`` or ``Categorical(levels)``; with ``embed`` encode is "integer".
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> sizes = {"features": 8, "blocks": 1, "residuals": 1, "key": 4}
        >>> model = pixelfast.models.PixelSNAIL((1, 7, 5), levels=16, embed=4, **sizes)  # over codes
        >>> pixelfast.sample(model, n=2, seed=0).shape
        torch.Size([2, 1, 7, 5])
    """

    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        levels: int = 256,
        features: int = 256,
        blocks: int = 12,
        residuals: int = 4,
        key: int = 16,
        heads: int = 1,
        mixtures: int = 0,
        embed: int = 0,
        dropout: float = 0.5,
        classes: int = 0,
        upper: int = 0,
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        sizes = {"features": features, "blocks": blocks, "key": key, "heads": heads}
        for name, value in sizes.items():
            check_integer(name, value, 1)
        for name, value in {"residuals": residuals, "mixtures": mixtures, "embed": embed, "upper": upper}.items():
            check_integer(name, value, 0)
        check_fraction("dropout", dropout)
        self.wanted, self.classes = Wanted(classes), classes
        self.config = {
            "shape": list(self.shape), "levels": levels, **sizes, "residuals": residuals, "mixtures": mixtures, "embed": embed,
            "dropout": dropout, "classes": classes, "upper": upper,
        }  # fmt: skip
        channels = self.shape[0]
        encode = "integer" if embed else "symmetric"
        self.head: Head = (
            MixtureOfLogistics(levels, mixtures, channels, encode=encode, layout="NKHW")
            if mixtures
            else Categorical(levels, encode, layout="NKCHW")
        )
        self.embedding = nn.Embedding(channels * levels, embed) if embed else None
        self.upper = UpperMap(upper, features) if upper else None
        inputs = channels * (embed or 1) + 1
        self.first = nn.ModuleList(
            [ShiftedConv2d(inputs, features, (1, 3), "down"), ShiftedConv2d(inputs, features, (2, 1), "down-right")]
        )
        self.blocks = nn.ModuleList(
            Block(features, inputs, residuals, key, heads, dropout, classes, features if upper else 0) for _ in range(blocks)
        )
        self.out = network_in_network(features, self.head.parameters * (1 if mixtures else channels))

    def forward(self, x: Tensor, h: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Logits (N, K, C, H, W), or mixture parameters (N, P, H, W), of an encoded image (N, C, H, W), label, upper codes.

        Raises:
            InvalidInput: a condition is missing, not wanted, or has the wrong type, shape or range.
        """
        h, _ = self.wanted.check(x, h)
        s = self._upper(x, s)
        x = with_ones(x if self.embedding is None else self._look_up(x))
        place = coordinates(x)
        y = down_shift(self.first[0](x)) + right_shift(self.first[1](x))  # the rows above, and the pixels to the left
        for block in self.blocks:
            y = block(y, x, place, h, s)
        y = self.out(F.elu(y))
        return y if self.head.shared else split_logits(y, self.shape[0])

    def initialise(self, x: Tensor, h: Tensor | None = None, s: Tensor | None = None) -> None:
        """Data-dependent initialisation by a first batch, as in `forward`; `pixelfast.training.train` calls it."""
        initialise_by_data(self, lambda: self(x, h, s))

    def _look_up(self, x: Tensor) -> Tensor:
        assert self.embedding is not None
        if x.is_floating_point():
            raise InvalidInput(f'this model looks its values up and takes integers (encode="integer"), got {x.dtype}')
        channel = torch.arange(x.shape[1], device=x.device).view(-1, 1, 1)
        result = self.embedding(x + channel * self.head.levels)  # (N, C, H, W, embed)
        return result.movedim(-1, 2).flatten(1, 2)

    def _upper(self, x: Tensor, s: Tensor | None) -> Tensor | None:
        if (s is None) != (self.upper is None):
            given = "got none" if s is None else "is not conditional on one"
            raise InvalidInput(f"a model built with upper= needs the upper code map s, others take none: this one {given}")
        return None if self.upper is None or s is None else self.upper(s, x)


def coordinates(x: Tensor) -> Tensor:
    """Row and column of every pixel, within -1/2 .. 1/2: (N, 2, H, W), as attention does not know where it looks."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device, dtype=x.dtype) / height - 0.5).view(1, 1, -1, 1)
    cols = (torch.arange(width, device=x.device, dtype=x.dtype) / width - 0.5).view(1, 1, 1, -1)
    return torch.cat([part.expand(x.shape[0], 1, height, width) for part in (rows, cols)], 1)
