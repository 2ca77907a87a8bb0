"""Outputs, encodings and colour groups in other people's idioms, registered with the other foreign modules.

Mixtures of logistics in both published orders, logits of spins, colour groups in thirds. Letters: N images, C channels, H rows,
W columns, K levels, M mixtures, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from foreign import COLOUR, GREY, DataMasked, concat_elu, down_shift, foreign, right_shift
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Bernoulli, Categorical, MixtureOfLogistics


@foreign(COLOUR, Categorical(4))
class ContiguousThirds(nn.Module):
    """The first third of the features belongs to red, the next to green; gives (N, C, H, W, K)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = self.conv("A", 3, 9, 3), self.conv("B", 9, 9, 3), self.conv("B", 9, 12, 1)

    @staticmethod
    def conv(kind: str, inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
        """A convolution that is masked once, when it is made; its colours stand in thirds."""
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        seen, made = torch.arange(inputs) * 3 // inputs, torch.arange(outputs) * 3 // outputs
        colours = seen[None] < made[:, None] if kind == "A" else seen[None] <= made[:, None]
        with torch.no_grad():
            layer.weight[:, :, kernel // 2 + 1 :] = 0
            layer.weight[:, :, kernel // 2, kernel // 2 + 1 :] = 0
            layer.weight[:, :, kernel // 2, kernel // 2] *= colours
        return layer

    def forward(self, x: Tensor) -> Tensor:
        h = self.out(F.relu(self.second(F.relu(self.first(x)))))
        return h.reshape(x.size(0), 3, 4, *x.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()


def allowed(n: int) -> Any:
    mask = torch.rand(n, *GREY, generator=torch.Generator().manual_seed(4)) < 0.7
    return {"mask": mask.float()}


@foreign(GREY, Bernoulli(encode="symmetric"), allowed)
class Spins(nn.Module):
    """Spins of -1 and 1, a mask as an argument; one logit each, (N, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataMasked("A", 1, 6, 3, padding=1), DataMasked("B", 6, 1, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return 3 * self.second(F.silu(self.first(x) * mask))


@foreign(GREY, Categorical(256, encode="unit"))
class TensorsOfBytes(nn.Module):
    """Bytes over 255, as ToTensor gives them; the border is turned round by `where`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = DataMasked("A", 1, 8, 5, padding=2), nn.Conv2d(8, 256, 1)
        self.register_buffer("inside", F.pad(torch.ones(5, 3), (1, 1, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = torch.tanh(h - h.mean(1, keepdim=True))
        return self.out(torch.where(self.inside == 1, h, -h / 2))


@foreign(GREY, Categorical(256, encode=(1 / 256, 0.0)))
class QuantisedBytes(nn.Module):
    """Bytes over 256; the image's own value decides, by comparison, what its successors see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 8, (2, 3)), nn.Conv2d(8, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        planes = torch.cat([x, (x == 0).float(), (x > 0.5).to(x.dtype)], 1)
        return self.out(F.elu(self.first(F.pad(planes, (1, 1, 2, 0))[:, :, :-1]))).unsqueeze(1)


def encoded(n: int) -> Any:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 6, *GREY[1:], generator=generator), torch.randn(n, 5, generator=generator)


@foreign(GREY, Categorical(4), encoded)
class GivenByAnEncoder(nn.Module):
    """What an encoder made of another image: a map and a vector; features are assigned to slices, and picked one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = DataMasked("A", 1, 6, 5, padding=2), nn.Linear(6, 4)
        self.vector = nn.Linear(5, 6)

    def forward(self, x: Tensor, code: Tensor, style: Tensor) -> Tensor:
        h = self.conv(x) + code + self.vector(style)[:, :, None, None].expand_as(code)
        y = torch.zeros_like(h)
        y[:, :3] = torch.relu(h[:, 3:])
        y[:, 3] = h[:, 0] - h[:, 1]
        y[:, 4:] = h[:, 4:].clone()
        return self.out(y.permute(0, 2, 3, 1))


@foreign(GREY, Categorical(5))
class MixedChannels(nn.Module):
    """Features of each pixel weighted by batched matrix products and a softmax over them, pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = DataMasked("A", 1, 6, 5, padding=2), nn.Parameter(torch.randn(6, 6))
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).flatten(2).transpose(1, 2)  # (N, H * W, F)
        weights = torch.softmax(torch.bmm(h, self.mix.expand(len(x), -1, -1)), dim=-1)
        return self.out(weights * h).view(len(x), *x.shape[2:], 5)


# -------------------------------------------------------------------- mixtures of logistics


@foreign(COLOUR, MixtureOfLogistics(256, 3, 3))
class ColourMajorMixture(nn.Module):
    """The published streams, without strides: for each colour means, log-scales and coefficients; (N, 10 M, H, W)."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        self.u0, self.ul0 = nn.Conv2d(4, features, (2, 3)), nn.Conv2d(4, features, (1, 2))
        self.u1, self.ul1 = nn.Conv2d(2 * features, features, (2, 3)), nn.Conv2d(2 * features, 2 * features, (2, 2))
        self.nin, self.out = nn.Conv2d(2 * features, features, 1), nn.Conv2d(features, 30, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, torch.ones_like(x[:, :1])), 1)
        u = down_shift(self.u0(F.pad(x, (1, 1, 1, 0))))
        ul = right_shift(self.ul0(F.pad(x, (1, 0, 0, 0)))) + u
        u = u + self.u1(F.pad(concat_elu(u), (1, 1, 1, 0)))
        a, b = self.ul1(F.pad(concat_elu(ul), (1, 0, 1, 0))).chunk(2, dim=1)
        ul = ul + a * torch.sigmoid(b) + self.nin(concat_elu(u))
        return 2 * self.out(F.elu(ul))


@foreign(COLOUR, MixtureOfLogistics(32, 4, 3, "mixture-major"))
class MixtureMajorRows(nn.Module):
    """Each component's numbers side by side, in rows of a linear layer: (N * H * W, M * 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DataMasked("A", 3, 8, 5, padding=2)
        self.out = nn.Sequential(nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 40))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.out(torch.tanh(self.conv(x)).permute(0, 2, 3, 1).reshape(-1, 8))


@foreign(GREY, MixtureOfLogistics(256, 5, 1, encode=lambda k: k.float() / 127.5 - 1))
class GreyMixture(nn.Module):
    """One channel; weights, means and log-scales from three layers, joined: a tuple of (N, H, W, 3 M) and the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DataMasked("A", 1, 8, 5, padding=2)
        self.weights, self.means, self.log_scales = (nn.Linear(8, 5) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.conv(x)).permute(0, 2, 3, 1)
        return torch.cat([self.weights(h), self.means(h), self.log_scales(h) - 1], -1), h


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
