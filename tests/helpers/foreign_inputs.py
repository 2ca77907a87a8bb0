"""Inputs, encodings and conditions in other people's idioms, registered with the other foreign modules.

Integers, one hot vectors, embeddings, bytes, pictures normalised outside; labels and codes as keywords, images or dictionaries.
Letters as in `foreign`.
"""

from __future__ import annotations

from typing import Any

import torch
from foreign import COLOUR, GREY, DataMasked, cached_mask, foreign
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Categorical


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
