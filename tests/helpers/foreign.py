"""Autoregressive image models in other people's idioms: the habits of published code, each in a few lines.

Nobody here has heard of pixelfast. Weights are random but wide, so that every path matters. Letters: N images, C channels,
H rows, W columns, K levels, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.distributions.base import Head
from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.distributions.categorical import Categorical

GREY, COLOUR = (1, 7, 5), (3, 7, 5)


@dataclass(frozen=True)
class Foreign:
    """A module, what it draws, and the conditions of n images."""

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    head: Head
    cond: Callable[[int], Any] = lambda n: None

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        module = self.make()
        for name, buffer in module.named_buffers():  # batch normalisation that has seen data
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.3, 3)
        return module


FOREIGN: dict[str, Foreign] = {}


def foreign(
    shape: tuple[int, int, int], head: Head, cond: Callable[[int], Any] = lambda n: None
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a class in `FOREIGN`."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        FOREIGN[cls.__name__] = Foreign(cls, shape, head, cond)
        return cls

    return register


# -------------------------------------------------------------------- masks


class DataMasked(nn.Conv2d):
    """The mask is written into the weight, through `.data`, in every forward."""

    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones_like(self.weight))
        _, _, rows, cols = self.weight.shape
        self.mask[:, :, rows // 2, cols // 2 + (kind == "B") :] = 0
        self.mask[:, :, rows // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


@foreign(GREY, Categorical(4, encode="unit"))
class DataMasks(nn.Module):
    """`.data` masks, batch normalisation, dropout, one output plane for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            DataMasked("A", 1, 8, 7, 1, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            DataMasked("B", 8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), nn.Dropout(0.5),
            nn.Conv2d(8, 4, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@foreign(GREY, Categorical(3, encode=(0.25, -0.3)))
class WeightsWrittenInPlace(nn.Module):
    """The mask is written without `.data`, under no_grad; a buffer counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 3, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            self.first.weight[:, :, 2, 2:] = 0
            self.first.weight[:, :, 3:].zero_()
        return self.second(F.elu(self.first(x)))


@lru_cache(maxsize=8)
def cached_mask(rows: int, cols: int, kind: str, device: torch.device) -> Tensor:
    mask = torch.ones(rows * cols, device=device)
    mask[rows * cols // 2 + (kind == "B") :] = 0
    return mask.view(1, 1, rows, cols)


@foreign(GREY, Categorical(5, encode=[0.0, 0.1, 0.4, 0.9, 1.6]))
class CachedMasks(nn.Module):
    """Masks come from a function with a cache; the input goes through a table."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([nn.Parameter(torch.randn(7, 1, 5, 5)), nn.Parameter(torch.randn(5, 7, 3, 3))])

    def forward(self, x: Tensor) -> Tensor:
        for kernel, kind in zip(self.kernels, "AB", strict=True):
            rows, cols = kernel.shape[2:]
            x = torch.tanh(F.conv2d(x, kernel * cached_mask(rows, cols, kind, x.device), padding=(rows // 2, cols // 2)))
        return 3 * x


@foreign(GREY, Categorical(4))
class LazyBuffers(nn.Module):
    """Masks and coordinates are made when the first image comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.coordinates = None

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            mask = torch.ones_like(self.first.weight)
            mask[:, :, 1, 1:] = 0
            mask[:, :, 2] = 0
            self.register_buffer("mask", mask, persistent=False)
        if self.coordinates is None or self.coordinates.shape[0] != len(x):
            rows, cols = torch.linspace(-1, 1, x.shape[2]), torch.linspace(-1, 1, x.shape[3])
            grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij"))
            self.coordinates = grid.expand(len(x), -1, -1, -1)
        h = F.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=1)
        return self.second(torch.cat((F.relu(h), self.coordinates), dim=1))


@foreign(COLOUR, Categorical(4, encode="symmetric"))
class InterleavedColours(nn.Module):
    """Colour groups are every third channel: feature i belongs to colour i % 3, output i to level i // 3."""

    class Conv(nn.Conv2d):
        def __init__(self, kind: str, inputs: int, outputs: int, kernel: int) -> None:
            super().__init__(inputs, outputs, kernel, padding=kernel // 2)
            mask = torch.zeros(outputs, inputs, kernel, kernel)
            mask[:, :, : kernel // 2] = 1
            mask[:, :, kernel // 2, : kernel // 2] = 1
            for out in range(3):
                for seen in range(out + (kind == "B")):
                    mask[out::3, seen::3, kernel // 2, kernel // 2] = 1
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.mul_(self.mask)
            return super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = self.Conv("A", 3, 12, 5), self.Conv("B", 12, 12, 3)
        self.last = self.Conv("B", 12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(F.leaky_relu(h + self.middle(F.relu(h)), 0.1))


# -------------------------------------------------------------------- weight normalisation, shifts, crops


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def down_shift(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :, : x.shape[2]]


def right_shift(x: Tensor) -> Tensor:
    return nn.ZeroPad2d((1, 0, 0, 0))(x)[:, :, :, :-1]


@foreign(COLOUR, Categorical(3, layout="N(KC)HW"))
class ShiftedStreams(nn.Module):
    """Two streams, old weight_norm, shifts by pad and crop, concat_elu, a channel of ones beside the image."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        norm = nn.utils.weight_norm
        self.u0 = norm(nn.Conv2d(4, features, (2, 3)))
        self.ul0 = norm(nn.Conv2d(4, features, (1, 2)))
        self.u1 = norm(nn.Conv2d(2 * features, features, (2, 3)))
        self.ul1 = norm(nn.Conv2d(2 * features, 2 * features, (2, 2)))
        self.nin = norm(nn.Linear(2 * features, features))
        self.out = norm(nn.Linear(features, 9), dim=None)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[0], 1, x.shape[2], x.shape[3], device=x.device, requires_grad=False)
        x = torch.cat((x, ones), 1)
        u = down_shift(self.u0(F.pad(x, (1, 1, 1, 0))))
        ul = right_shift(self.ul0(F.pad(x, (1, 0, 0, 0)))) + u
        u = u + self.u1(F.pad(concat_elu(u), (1, 1, 1, 0)))
        a, b = self.ul1(F.pad(concat_elu(ul), (1, 0, 1, 0))).chunk(2, dim=1)
        ul = ul + a * torch.sigmoid(b) + self.nin(concat_elu(u).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        n, f, h, w = ul.shape
        rows = self.out(F.elu(ul).permute(0, 2, 3, 1).contiguous().view(n * h * w, f))
        return rows.view(n, h, w, 9).permute(0, 3, 1, 2)


@foreign(GREY, Categorical(4))
class ParametrizedNorm(nn.Module):
    """New weight_norm, and old weight_norm whose direction is masked through `.data`."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 8, (1, 3)))
        self.masked = nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.out = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 1), dim=0)
        mask = torch.ones(3, 3)
        mask[1, 2:], mask[2] = 0, 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.masked.weight_v.data *= self.mask
        h = F.softplus(self.left(F.pad(x, (3, 0))[..., :-1]))
        return self.out(F.silu(self.masked(h)))


@foreign(GREY, Categorical(4))
class RolledAndAssigned(nn.Module):
    """Shifts by assignment into zeros, and by roll with the first row blanked."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.left = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 6, (1, 3), padding=(0, 1))
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.roll(self.above(x), shifts=2, dims=2)
        h[:, :, :2] = 0
        left = torch.zeros_like(h)
        left[:, :, :, 2:] = self.left(x)[:, :, :, :-2]
        return self.out(torch.tanh(h + left))


@foreign(GREY, Categorical(4, encode="unit"))
class CroppedStacks(nn.Module):
    """Vertical n x 1 then 1 x n, horizontal 1 x n, all padded on both sides and cropped back."""

    def __init__(self, features: int = 6, n: int = 3) -> None:
        super().__init__()
        self.n = n
        self.vertical = nn.Conv2d(1, features, (n, 1), padding=(n, 0))
        self.across = nn.Conv2d(features, features, (1, 3), padding=(0, 1))
        self.horizontal = nn.Conv2d(1, features, (1, n), padding=(0, n))
        self.vertical2 = nn.Conv2d(features, 2 * features, (n, 1), padding=(n - 1, 0))
        self.horizontal2 = nn.Conv2d(features, 2 * features, (1, n), padding=(0, n - 1))
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(features, features, 1), nn.ReLU(), nn.Conv2d(features, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.size(2), x.size(3)
        v = self.across(self.vertical(x)[:, :, :rows])
        h = self.horizontal(x)[..., :cols]
        v2 = self.vertical2(v)[:, :, :rows]
        left, right = torch.split(self.horizontal2(h)[..., :cols] + self.link(v2), 6, dim=1)
        return self.out(h + torch.tanh(left) * torch.sigmoid(right)).unsqueeze(2)


@foreign(GREY, Bernoulli(probability=True))
class ValidAfterOnePad(nn.Module):
    """One large pad, then nothing but valid convolutions; gives the probability of a white pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, (2, 5)), nn.Conv2d(8, 8, (2, 3)), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(x, (3, 3, 3, 0))[:, :, :-1]
        return torch.sigmoid(self.c(torch.tanh(self.b(torch.relu(self.a(h))))))


@foreign(GREY, Categorical(4))
class ConstantPad(nn.Module):
    """The border is not zero but a value of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ConstantPad2d((2, 2, 2, 0), -1.5)
        self.conv, self.out = nn.Conv2d(1, 8, (2, 5)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.conv(self.pad(x)[:, :, :-1])))
