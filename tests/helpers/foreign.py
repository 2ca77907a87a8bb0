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


# -------------------------------------------------------------------- inputs


@foreign(GREY, Categorical(4, encode="integer"))
class OneHotInput(nn.Module):
    """Integers in, one plane for each level; depthwise and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = DataMasked("A", 4, 8, 3, padding=1)
        self.depthwise = DataMasked("B", 8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.one_hot(x.squeeze(1), num_classes=4).permute(0, 3, 1, 2).float()
        return self.out(F.hardswish(self.grouped(self.depthwise(F.mish(self.first(h))))))


@foreign(COLOUR, Categorical(9, encode="integer"))
class EmbeddedColours(nn.Module):
    """An embedding for each colour's value; each colour has its own head, which is told the colours before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(9, 6) for _ in range(3))
        self.trunk = DataMasked("A", 18, 10, 5, padding=2)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(10 + 6 * c, 8), nn.Tanh(), nn.Linear(8, 9)) for c in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = [embed(x[:, c]) for c, embed in enumerate(self.embed)]  # (N, H, W, 6) each
        h = F.relu(self.trunk(torch.cat(seen, -1).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        logits = [head(torch.cat([h, *seen[:c]], -1)) for c, head in enumerate(self.heads)]
        return [torch.stack(logits, dim=3), h]


@foreign(GREY, Categorical(8, encode="integer"))
class DilatedText(nn.Module):
    """Embedding, dilation, coordinates, layer normalisation over channels; a tuple of log-probabilities in NHWK."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(8, 12), nn.LayerNorm(16)
        self.first = DataMasked("A", 12, 16, 5, padding=2)
        self.dilated = DataMasked("B", 18, 16, 3, padding=2, dilation=2)
        self.out = nn.Linear(16, 8)
        rows, cols = torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 5)
        self.register_buffer("grid", torch.stack(torch.meshgrid(rows, cols, indexing="ij")))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = F.gelu(self.first(self.embed(x[:, 0]).permute(0, 3, 1, 2)))
        h = self.dilated(torch.cat([h, self.grid[None].expand(len(x), -1, -1, -1)], 1))
        h = self.norm(h.permute(0, 2, 3, 1))
        return F.log_softmax(self.out(F.silu(h)), -1), {"features": h}


@foreign(GREY, Categorical(128, encode="unit"))
class BackToIntegers(nn.Module):
    """The image comes in as floats and is made integers again, for a table, in float32 as it is rounded there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = nn.Embedding(128, 4), DataMasked("A", 4, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        codes = (x[:, 0] * 127).long()
        return self.out(F.selu(self.first(self.embed(codes).permute(0, 3, 1, 2))))


@foreign(GREY, Categorical(16))
class RoundedOneHot(nn.Module):
    """The same by rounding, one-hot; a mask is put on by a hook before each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.first.register_forward_pre_hook(put_on_mask)

    def forward(self, x: Tensor) -> Tensor:
        codes = ((x + 1) / 2 * 15).round().clamp(0, 15).to(torch.int64)
        return self.out(F.relu(self.first(F.one_hot(codes[:, 0], 16).permute(0, 3, 1, 2).type_as(x))))


def put_on_mask(module: nn.Conv2d, inputs: Any) -> None:
    rows, cols = module.kernel_size
    module.weight.data.mul_(cached_mask(rows, cols, "A", module.weight.device))


def imagenet_like(images: Tensor) -> Tensor:
    """Bytes as a data loader normalises them, with a mean and a deviation for each channel."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images / 5 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@foreign(COLOUR, Categorical(6, encode=imagenet_like, layout="N(CK)HW"))
class NormalisedOutside(nn.Module):
    """The data loader normalises, the model knows nothing of it; all colours from the pixels before only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataMasked("A", 3, 12, 3, padding="same"), DataMasked("B", 12, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu6(self.first(x)))


@foreign(COLOUR, Categorical(256, encode=(1.0, 0.0)))
class RawBytes(nn.Module):
    """Bytes go in as floats and are scaled inside; 256 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = DataMasked("A", 3, 6, 3, padding=1), nn.Conv2d(6, 768, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x / 127.5 - 1
        return self.out(F.relu(self.first(x))).view(x.shape[0], 3, 256, *x.shape[2:]).transpose(1, 2)


# -------------------------------------------------------------------- outputs and calls


@foreign(GREY, Bernoulli())
class BinaryLogits(nn.Module):
    """Binary images, one logit for each pixel, without an axis for channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(DataMasked("A", 1, 6, 5, padding=2), nn.PReLU(6), DataMasked("B", 6, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.net(x).squeeze(1)


@foreign(GREY, Categorical(4))
class OwnCall(nn.Module):
    """`__call__` is overridden: it rescales the image, runs forward, and packs the result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = DataMasked("A", 1, 6, 5, padding=2), nn.Conv2d(6, 4, 1)

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        return self.forward(images * 2 + 0.5), None

    def forward(self, images: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(images)))


@foreign(COLOUR, Categorical(4, layout="(NHW)(CK)"))
class RowsOut(nn.Module):
    """A linear head on rows: (N * H * W, C * K)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = DataMasked("A", 3, 6, 3, padding=1), nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).permute(0, 2, 3, 1).reshape(-1, 6))


@foreign(GREY, Categorical(5))
class EinsumHead(nn.Module):
    """The head is an einsum, followed by a scale for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DataMasked("A", 1, 6, 5, padding=2)
        self.matrix, self.scale = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("nfhw,fk->nhwk", torch.sin(self.conv(x)), self.matrix)
        return h * self.scale.exp()


@foreign(GREY, Categorical(4))
class HandmadeNorm(nn.Module):
    """Layer normalisation by hand, a running sum of squares, in-place additions on views of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataMasked("A", 1, 8, 5, padding=2), DataMasked("B", 8, 8, 3, padding=1)
        self.gamma, self.beta = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        mean, var = h.mean(1, keepdim=True), h.var(1, keepdim=True, unbiased=False)
        h = (h - mean) / torch.sqrt(var + 1e-5) * self.gamma + self.beta
        g = self.second(F.relu(h))
        g[:, :4] += h[:, 4:]
        g[:, 4:].mul_(torch.sigmoid(h[:, :4]))
        return self.out(g * torch.rsqrt(g.pow(2).mean(dim=1, keepdim=True) + 1e-6))


@foreign(GREY, Categorical(4))
class NormalisedShift(nn.Module):
    """Every normalisation over channels, after shifts that leave rows and columns of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.left = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 6, (1, 3), padding=(0, 1))
        self.layer_norm, self.out = nn.LayerNorm(6), nn.Conv2d(6, 4, 1)
        self.layer_norm.bias.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        above = F.pad(self.above(x), (0, 0, 2, 0))[:, :, :-2]
        left = F.pad(self.left(x), (2, 0))[:, :, :, :-2]
        above = self.layer_norm(above.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + above.softmax(1)
        var, mean = torch.var_mean(left, dim=1, keepdim=True)
        left = (left - mean) * torch.rsqrt(var + 1e-2) + F.normalize(left, dim=1) + left.logsumexp(1, keepdim=True)
        return self.out(torch.tanh(above + left) + left.amax(1, keepdim=True))


# -------------------------------------------------------------------- conditions


@foreign(GREY, Categorical(4), lambda n: {"label": torch.arange(n) % 10, "strength": 1.5, "mask": None})
class KeywordLabels(nn.Module):
    """Conditions by keyword only: a label, a number, and an argument that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.embed = DataMasked("A", 1, 8, 5, padding=2), nn.Conv2d(8, 4, 1), nn.Embedding(10, 16)

    def forward(self, x: Tensor, *, label: Tensor, strength: float = 1.0, mask: Tensor | None = None) -> Tensor:
        scale, shift = (strength * self.embed(label)).unsqueeze(-1).unsqueeze(-1).chunk(2, 1)
        h = self.conv(x) * (1 + scale) + shift
        return self.out(F.relu(h) if mask is None else F.relu(h) * mask)


def label_image(n: int) -> Any:
    return torch.randint(3, (n, *GREY[1:]), generator=torch.Generator().manual_seed(1))


@foreign(GREY, Categorical(4), label_image)
class LabelImage(nn.Module):
    """A picture of labels, one-hot, joined with the image; it may be seen everywhere, also below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DataMasked("A", 1, 8, 3, padding=1)
        self.look, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        planes = F.one_hot(labels, 3).permute(0, 3, 1, 2).to(x.dtype)
        h = F.relu(self.conv(x) + self.look(planes))
        return self.out(torch.cat([h, planes], 1))


def class_and_codes(n: int) -> Any:
    generator = torch.Generator().manual_seed(2)
    return F.one_hot(torch.arange(n) % 3, 3).float(), torch.randn(n, 2, 4, 3, generator=generator)


@foreign(GREY, Categorical(4), class_and_codes)
class CoarseCodes(nn.Module):
    """A one-hot class and codes of a coarser grid, brought to the image's size by an encoder inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = DataMasked("A", 1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.encoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8))
        self.label = nn.Linear(3, 8, bias=False)

    def forward(self, x: Tensor, label: Tensor, codes: Tensor) -> Tensor:
        field = self.encoder(codes)[:, :, : x.shape[2], : x.shape[3]]
        h = torch.tanh(self.conv(x) + field) * torch.sigmoid(self.label(label))[..., None, None]
        return self.out(h)
