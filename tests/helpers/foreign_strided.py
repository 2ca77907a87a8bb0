"""Strided models in other people's idioms, registered in `foreign.FOREIGN`: low resolutions and back, at sizes that do not fit.

Each hides what a coarse pixel covers by a shift, as their authors do. Letters as in `foreign`; h is a map in any resolution.
"""

from __future__ import annotations

from typing import Any

import torch
from foreign import COLOUR, GREY, foreign
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.distributions.categorical import Categorical


def down(x: Tensor, rows: int = 1) -> Tensor:
    return F.pad(x, (0, 0, rows, 0))[:, :, : x.shape[2]]


def right(x: Tensor, cols: int = 1) -> Tensor:
    return F.pad(x, (cols, 0))[..., : x.shape[3]]


class Before(nn.Module):
    """Sees earlier pixels: the rows above and, in its own row, the two pixels to the left."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(channels, features, (2, 3), padding=(1, 1))
        self.left = nn.Conv2d(channels, features, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        above = down(self.above(x)[:, :, :-1])
        return above + right(self.left(F.pad(x, (1, 0))))


@foreign((1, 7, 6), Categorical(4))
class StridedAndTransposed(nn.Module):
    """Half the resolution and back, with output padding where the stride divides the size."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.out = Before(1, 5), nn.Conv2d(10, 4, 1)
        self.shrink = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.grow = nn.ConvTranspose2d(7, 5, 3, stride=2, padding=1, output_padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.before(x))
        low = self.grow(F.elu(self.shrink(h)))
        return self.out(torch.cat([h, F.elu(down(low, 3))], 1))


@foreign(COLOUR, Categorical(3, layout="NCKHW"))
class Thirds(nn.Module):
    """Blocks of 3 x 3 pixels, a whole row of blocks late; the image is padded to whole blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.mix = nn.Conv2d(3, 8, 3, stride=3), nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.spread, self.left = nn.ConvTranspose2d(8, 6, 3, stride=3), Before(3, 6)
        self.out = nn.Conv2d(6, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[2:]
        low = torch.tanh(self.blocks(F.pad(x, (0, -cols % 3, 0, -rows % 3))))
        low = down(torch.tanh(self.mix(low)))
        h = self.left(x) + self.spread(low)[:, :, :rows, :cols]
        return self.out(torch.relu(h)).view(len(x), 3, 3, rows, cols)


@foreign(GREY, Categorical(4))
class PooledColumns(nn.Module):
    """Averages over pairs of columns of the own row, a pair late, repeated by nn.Upsample and convolved again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.up = nn.Conv2d(1, 6, 1), nn.AvgPool2d((1, 2)), nn.Upsample(scale_factor=(1, 2))
        self.low, self.high, self.above = nn.Conv2d(6, 6, (1, 2)), nn.Conv2d(6, 6, (1, 3)), Before(1, 6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        cols = x.shape[3]
        low = self.pool(F.pad(F.elu(self.first(x)), (0, cols % 2)))
        low = right(F.elu(self.low(F.pad(low, (1, 0)))))
        h = F.elu(self.up(low)[..., :cols])
        return self.out(F.elu(self.high(F.pad(h, (2, 0))) + self.above(x)))


@foreign(GREY, Categorical(4), lambda n: torch.arange(n) % 3)
class Shuffled(nn.Module):
    """nn.PixelShuffle of a coarse map that knows a label and where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.label, self.before = nn.Embedding(3, 8), Before(1, 4)
        self.shrink, self.low = nn.Conv2d(4, 8, 2, stride=2), nn.Conv2d(9, 16, 3, padding=1)
        self.norm, self.out = nn.LayerNorm(16), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        rows, cols = x.shape[2:]
        h = F.silu(self.before(x))
        low = self.shrink(F.pad(h, (0, cols % 2, 0, rows % 2))) + self.label(y)[:, :, None, None]
        places = torch.linspace(-1, 1, low.shape[3]).expand(len(x), 1, *low.shape[2:])
        low = self.low(torch.cat([F.silu(low), places], 1))
        low = self.norm(low.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(h + F.pixel_shuffle(down(low, 2), 2)[:, :, :rows, :cols])


@foreign(GREY, Categorical(3))
class ByHand(nn.Module):
    """Slices in steps, views and expansions in place of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.low, self.out = Before(1, 6), nn.Conv2d(6, 6, (2, 3)), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.before(x))
        n, f, rows, cols = h.shape
        low = F.gelu(self.low(F.pad(h[:, :, ::2, ::2], (1, 1, 2, 0))[:, :, :-1]))
        wide = low[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(n, f, 2 * low.shape[2], 2 * low.shape[3])
        return self.out(torch.cat((F.gelu(wide)[:, :, :rows, :cols], h), dim=1))


@foreign(GREY, Bernoulli())
class Checkerboard(nn.Module):
    """Two layers share the work by parity of row and column, and their results are written into one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.even, self.odd = Before(1, 6), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1, stride=(2, 2))
        self.out = nn.Conv2d(6, 1, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.before(x))
        both = torch.zeros_like(h)
        both[:, :, ::2, ::2] = self.even(h)[:, :, ::2, ::2]
        both[:, :, 1::2, 1::2] = self.odd(h[:, :, 1:, 1:])
        both[:, :, ::2, 1::2] = h[:, :, ::2, 1::2].relu()
        return self.out(F.pad(torch.sigmoid(both), (1, 0)))


@foreign((1, 7, 5), Categorical(5))
class Pyramid(nn.Module):
    """Two resolutions over one-hot pixels, maxima on the way down, sums of two transposed convolutions on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.before = nn.Conv2d(5, 6, 2, stride=2, bias=False), nn.Conv2d(5, 6, (1, 2))
        self.second, self.twofold = nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 6, 2, stride=2, groups=2)
        self.fourfold = nn.ConvTranspose2d(6, 6, 4, stride=4, bias=False)
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[2:]
        onehot = F.one_hot(((x[:, 0] + 1) * 2).round().long(), 5).permute(0, 3, 1, 2).float()
        half = F.elu(self.first(F.pad(onehot, (0, 3, 0, 1))))
        quarter = F.elu(self.second(F.max_pool2d(half, 2)))
        sums = self.twofold(down(half))[:, :, :rows, :cols] + self.fourfold(down(quarter))[:, :, :rows, :cols]
        return self.out(F.relu(sums + self.before(F.pad(onehot, (2, 0))[..., :-1])))


@foreign((2, 3, 2), Categorical(3))
class Tiny(nn.Module):
    """Down to a single pixel, which nobody sees before the image is finished, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.down = Before(2, 4), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.before(x))
        one = torch.relu(self.down(torch.relu(self.down(h))))
        two = F.interpolate(right(one), scale_factor=2)[:, :, :2, :1]
        low = torch.relu(down(self.down(h)) + two)
        wide = self.up(low)[:, :, :3]
        return self.out(h + wide.repeat_interleave(1, 3)).unflatten(1, (3, 2))


class Stacks(nn.Module):
    """A step of two stacks that know the rows above, and these and the pixels to the left."""

    def __init__(self, features: int, shrink: bool) -> None:
        super().__init__()
        kind: Any = nn.Conv2d if shrink else nn.ConvTranspose2d
        self.shrink = shrink
        self.v, self.h = kind(features, features, (2, 3), stride=2), kind(features, features, (2, 2), stride=2)
        self.link = nn.Conv2d(features, features, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if self.shrink:
            v, h = self.v(F.pad(v, (1, 1, 1, 0))), self.h(F.pad(h, (1, 0, 1, 0)))
        else:
            v, h = self.v(v)[..., 1:], self.h(h)
        return F.elu(v), F.elu(h + self.link(v[..., : h.shape[3]]))


@foreign((1, 7, 5), Categorical(4))
class TwoStacks(nn.Module):
    """Both stacks down twice and up twice with short cuts; a coarse pixel is computed while its own row is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.h, self.out = nn.Conv2d(1, 5, (1, 3), padding=(0, 1)), nn.Conv2d(1, 5, (2, 1)), nn.Conv2d(5, 4, 1)
        self.downs = nn.ModuleList(Stacks(5, True) for _ in range(2))
        self.ups = nn.ModuleList(Stacks(5, False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        v = down(self.v(x))
        h = v + right(self.h(F.pad(x, (0, 0, 1, 0))))
        kept = []
        for step in self.downs:
            kept.append((v, h))
            v, h = step(v, h)
        for step in self.ups:
            v, h = step(v, h)
            old_v, old_h = kept.pop()
            rows, cols = old_v.shape[2:]
            v, h = v[:, :, :rows, :cols] + old_v, h[:, :, :rows, :cols] + old_h
        return self.out(h)
