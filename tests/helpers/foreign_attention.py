"""Attention in other people's idioms, registered with the other foreign modules.

Weights are random but wide, and scores large enough that some pixels look at few others. Letters: N images, C channels, H rows,
W columns, L pixels, F features, K levels.
"""

from __future__ import annotations

import math

import torch
from foreign import COLOUR, GREY, DataMasked, down_shift, foreign, right_shift
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.distributions.categorical import Categorical


def causal(height: int, width: int, diagonal: int = 0) -> Tensor:
    """Who may be seen, (L, L), rows ask: everything before, and with diagonal 1 the own pixel."""
    return torch.ones(height * width, height * width).tril(diagonal - 1)


def flat(x: Tensor) -> Tensor:
    """(N, F, H, W) -> (N, L, F)."""
    return x.flatten(2).transpose(1, 2)


def grid(x: Tensor, like: Tensor) -> Tensor:
    """(N, L, F) -> (N, F, H, W)."""
    return x.transpose(1, 2).reshape(len(x), -1, *like.shape[2:])


class Stem(nn.Module):
    """Features of the pixels before the own one."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.above, self.left = nn.Conv2d(inputs, features, (2, 3)), nn.Conv2d(inputs, features, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        above = down_shift(self.above(F.pad(x, (1, 1, 1, 0))))
        return F.elu(above + right_shift(self.left(F.pad(x, (1, 0)))))


class Snail(nn.Module):
    """Keys from image, features and coordinates; -1e4 where nothing is seen; the first row of weights times 0."""

    def __init__(self, inputs: int, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.utils.parametrizations.weight_norm(nn.Conv2d(features + 2, 4 * heads, 1))
        self.key = nn.Conv2d(inputs + features + 2, 4 * heads, 1)
        self.value = nn.Conv2d(inputs + features + 2, 6 * heads, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows = torch.linspace(-1, 1, height).view(1, 1, -1, 1).expand(n, 1, height, width)
        cols = torch.linspace(-1, 1, width).view(1, 1, 1, -1).expand(n, 1, height, width)
        place = torch.cat([rows, cols], 1)
        content = torch.cat([x, y, place], 1)
        mask = torch.ones(height * width, height * width).tril(-1)
        start = torch.ones(height * width)
        start[0] = 0

        def split(part: Tensor) -> Tensor:
            return part.view(n, self.heads, -1, height * width).transpose(2, 3)

        query, key = split(self.query(torch.cat([y, place], 1))), split(self.key(content))
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.shape[3])
        scores = scores.masked_fill(mask.view(1, 1, *mask.shape) == 0, -1e4)
        weights = torch.softmax(scores, 3) * start.type_as(x).unsqueeze(1)
        mixed = F.dropout(weights, 0.1, self.training) @ split(self.value(content))
        return mixed.transpose(2, 3).reshape(n, -1, height, width)


@foreign(GREY, Categorical(4))
class SnailHeads(nn.Module):
    """Two blocks, three heads in an axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(1, 8)
        self.blocks = nn.ModuleList(Snail(1, 8, 3) for _ in range(2))
        self.mix = nn.ModuleList(nn.Conv2d(18, 8, 1) for _ in range(2))
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for block, mix in zip(self.blocks, self.mix, strict=True):
            y = y + F.elu(mix(block(x, y)))
        return self.out(y)


@foreign(COLOUR, Categorical(4))
class SnailColours(nn.Module):
    """All channels of a pixel from the pixels before it, as PixelSNAIL has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.out = Stem(3, 7), Snail(3, 7, 2), nn.Conv2d(19, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.out(torch.cat([y, self.block(x, y)], 1)).view(len(x), 4, 3, *x.shape[2:])


@foreign(GREY, Categorical(4, encode="unit"))
class ChannelsFirst(nn.Module):
    """bmm over (N, L, L) with the values in front; -infinity, and nan_to_num for the pixel that sees nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Conv2d(1, 5, 1), nn.Conv2d(1, 5, 1), nn.Conv2d(1, 7, 1)
        self.first, self.out = DataMasked("A", 1, 7, 5, padding=2), nn.Conv2d(7, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        query = self.query(y[:, :1]).flatten(2)
        scores = torch.bmm(query.permute(0, 2, 1), self.key(x).flatten(2)) * 2.0
        unseen = causal(*x.shape[2:]) == 0
        weights = torch.nan_to_num((scores + torch.zeros(unseen.shape).masked_fill(unseen, -math.inf)).softmax(-1))
        mixed = torch.bmm(self.value(x).flatten(2), weights.permute(0, 2, 1))
        return self.out(torch.tanh(y + mixed.view_as(y)))


@foreign(GREY, Categorical(3))
class KeysFirst(nn.Module):
    """Scores with the keys in the first of the two axes: the softmax runs over axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project, self.out = Stem(1, 9), nn.Conv2d(9, 17, 1), nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        query, key, value = (part.flatten(2) for part in self.project(y).split([4, 4, 9], 1))
        seen = causal(*x.shape[2:], 1).t().bool()
        scores = torch.where(seen, key.transpose(1, 2) @ query, torch.tensor(-1e9))
        return self.out(y + (value @ torch.softmax(scores, 1)).view_as(y))


@foreign(GREY, Categorical(4))
class FusedCausal(nn.Module):
    """scaled_dot_product_attention with is_causal, over features that are shifted already."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project, self.out = Stem(1, 12), nn.Linear(12, 36), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = flat(self.stem(x))
        query, key, value = self.project(y).view(len(x), -1, 3, 4, 3).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return grid(self.out(y + mixed.transpose(1, 2).flatten(2)), x)


@foreign(GREY, Categorical(4))
class FusedMask(nn.Module):
    """scaled_dot_product_attention with a mask of booleans, which leaves the first pixel nothing, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Conv2d(1, 12, 1), nn.Conv2d(4, 4, 1)
        self.query = Stem(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        key, value = (flat(part) for part in self.project(x).split([4, 8], 1))
        query = flat(self.query(x))
        mask = causal(*x.shape[2:]).bool()
        mixed = F.scaled_dot_product_attention(query, key, value[..., :4], attn_mask=mask, scale=1.7)
        more = F.scaled_dot_product_attention(query, key, value[..., 4:], attn_mask=torch.where(mask, 0.0, -math.inf))
        return self.out(grid(mixed * more, x))


@foreign(GREY, Categorical(5, encode="integer"))
class Transformer(nn.Module):
    """Pixels as words: embeddings, places, nn.MultiheadAttention, layer normalisation, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(5, 6), nn.Parameter(torch.randn(35, 8))
        self.stem = Stem(6, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2)
        self.mlp, self.out = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        words = self.stem(self.words(x[:, 0]).permute(0, 3, 1, 2))
        h = words.flatten(2).permute(2, 0, 1) + self.places[:, None]  # (L, N, F)
        mask = torch.triu(torch.full((len(h), len(h)), -math.inf), 1)
        h = h + self.attention(self.norm(h), self.norm(h), self.norm(h), attn_mask=mask)[0]
        return self.out(h + self.mlp(h)).permute(1, 2, 0).view(len(x), 5, *x.shape[2:])


@foreign(GREY, Categorical(4))
class HeadsFirst(nn.Module):
    """Heads are split by torch.cat in front of the images; einsum; a learned scale for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project, self.out = Stem(1, 9), nn.Conv2d(9, 27, 1), nn.Conv2d(9, 4, 1)
        self.sharpness = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        parts = [torch.cat(flat(part).split(3, 2), 0) for part in self.project(y).chunk(3, 1)]  # (heads * N, L, 3)
        query, key, value = parts
        scores = torch.einsum("bqe,bke->bqk", query, key) * self.sharpness.repeat_interleave(len(x)).view(-1, 1, 1)
        seen = causal(*x.shape[2:], 1)
        scores = scores * seen - 1e4 * (1 - seen)
        mixed = torch.einsum("bqk,bkd->bqd", F.softmax(scores, 2), value)
        return self.out(y + grid(torch.cat(mixed.split(len(x)), 2), x))


@foreign(GREY, Categorical(4))
class Windows(nn.Module):
    """The last 7 pixels only, with a table of what a distance is worth to each head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.key, self.out = Stem(1, 6), nn.Conv2d(1, 12, 1), nn.Conv2d(6, 4, 1)
        self.table = nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        pixels = x.shape[2] * x.shape[3]
        distance = torch.arange(pixels)[:, None] - torch.arange(pixels)
        near = (distance >= 1) & (distance <= 7)
        bias = self.table[:, distance.clamp(0, 7)].masked_fill(~near, torch.finfo(torch.float32).min)
        query = flat(y).view(len(x), pixels, 2, 3).transpose(1, 2)
        key, value = flat(self.key(x)).view(len(x), pixels, 2, 2, 3).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT + bias).softmax(-1).masked_fill((distance[:, :1] == 0), 0.0)
        return self.out(grid((weights @ value).transpose(1, 2).flatten(2), x) + y)


@foreign(GREY, Categorical(4))
class RowsAbove(nn.Module):
    """Each head looks at rows of its own: at all rows above, or at the one above; the first row gives zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = Stem(1, 6), nn.Conv2d(6, 4, 1)
        self.project = nn.Conv2d(1, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        height, width = x.shape[2:]
        row = torch.arange(height).repeat_interleave(width)
        apart = row[:, None] - row
        unseen = torch.stack([apart < 1, apart != 1])
        key = flat(self.project(x)).view(len(x), -1, 2, 3).transpose(1, 2)
        query = flat(y).view(len(x), -1, 2, 3).transpose(1, 2)
        weights = torch.softmax((query @ key.mT).masked_fill(unseen, -math.inf), -1)
        weights = torch.where(torch.isnan(weights), torch.zeros_like(weights), weights)
        return self.out(grid((weights @ (key * 2)).transpose(1, 2).flatten(2), x) + y)
