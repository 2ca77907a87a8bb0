"""The layers of random autoregressive models, written in the styles of many people; see `random_models`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from random_configs import ACTIVATIONS, Block, Config, Groups, Window
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import lstm_scan


class MaskedConv(nn.Module):
    """A convolution over a window, with a mask by offset and group."""

    mask: Tensor

    def __init__(self, before: Groups, after: Groups, window: Window, style: str = "multiply", depthwise: bool = False) -> None:
        super().__init__()
        self.window, self.style = window, style
        self.groups = len(before) if depthwise and before == after else 1
        left, right, top, bottom = window.pads()
        self.inside = window.border == "padding" and left == right and top == bottom
        conv = nn.Conv2d(
            len(before), len(after), (window.rows, window.cols), dilation=window.dilation, groups=self.groups,
            padding=(top, left) if self.inside else 0,
        )  # fmt: skip
        nn.init.normal_(conv.weight, std=1.5 * (self.groups / len(before)) ** 0.5)
        mask = [
            [[self._allowed(offset, a, b) for offset in window.offsets()] for a in (before if self.groups == 1 else (b,))]
            for b in after
        ]
        self.register_buffer("mask", torch.tensor(mask, dtype=torch.float32).view(conv.weight.shape))
        if style == "old_norm":
            conv = nn.utils.weight_norm(conv)
        elif style == "new_norm":
            conv = nn.utils.parametrizations.weight_norm(conv)
        self.conv = conv

    @staticmethod
    def _allowed(offset: tuple[int, int], before: int, after: int) -> bool:
        return offset < (0, 0) or (offset == (0, 0) and before <= after)

    def forward(self, x: Tensor) -> Tensor:
        if self.inside:
            return self._convolve(x)
        if self.window.border != "crop":
            return self._convolve(F.pad(x, self.window.pads(), value=-0.7 if self.window.border == "value" else 0.0))
        rows, cols = x.shape[2:]
        return self._convolve(F.pad(x, [pad + 2 for pad in self.window.pads()]))[:, :, 2 : rows + 2, 2 : cols + 2]

    def _convolve(self, x: Tensor) -> Tensor:
        if self.style == "data":
            self.conv.weight.data *= self.mask
            return self.conv(x)
        if self.style == "old_norm":
            self.conv.weight_v.data.mul_(self.mask)
            return self.conv(x)
        weight = self.conv.weight * self.mask
        return F.conv2d(x, weight, self.conv.bias, 1, self.conv.padding, self.conv.dilation, self.groups)


class Norm(nn.Module):
    """Normalisation over the channels of each pixel, by groups that know the same; or batch normalisation."""

    def __init__(self, kind: str, groups: Groups) -> None:
        super().__init__()
        self.kind = kind
        self.members = [[i for i, g in enumerate(groups) if g == group] for group in sorted(set(groups))]
        order = [i for members in self.members for i in members]
        self.back = [order.index(i) for i in range(len(groups))]
        self.weight, self.bias = nn.Parameter(torch.rand(len(groups)) + 0.5), nn.Parameter(torch.randn(len(groups)))
        if kind == "batch":
            self.batch = nn.BatchNorm2d(len(groups))
            self.batch.running_mean.normal_()
            self.batch.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return self.batch(x)
        if len(self.members) == 1:
            return self._normalise(x, self.weight, self.bias)
        parts = [self._normalise(x[:, members], self.weight[members], self.bias[members]) for members in self.members]
        return torch.cat(parts, 1)[:, self.back]

    def _normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        scale, shift = weight.view(-1, 1, 1), bias.view(-1, 1, 1)
        if self.kind == "layer":
            return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), weight, bias).permute(0, 3, 1, 2)
        if self.kind == "handmade":
            mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
            return (x - mean) / (var + 1e-3).sqrt() * scale + shift
        if self.kind == "softmax":
            return x.softmax(1) * scale * len(weight) + shift
        return x * torch.rsqrt(x.square().mean(1, True) + 1e-3) * scale + shift


class Recurrence(nn.Module):
    """An LSTM over the pixels of a window before its own. Where the window begins on its own pixel, rows come from the right,
    and the states serve the row below.
    """

    def __init__(self, features: int, window: Window) -> None:
        super().__init__()
        self.backwards = window.row > 0 and window.col == 0
        side = -1 if self.backwards else 1
        self.offsets = [(row, side * col) for row, col in window.offsets() if (row, col) < (0, 0)]
        self.cell = (-1, 0) if window.row else (0, -window.dilation)
        if self.backwards:
            self.offsets.append((0, window.dilation))
        self.weight = nn.Parameter(torch.randn(len(self.offsets), features, 4 * features) / features**0.5)

    def forward(self, gates: Tensor) -> Tensor:
        states = lstm_scan(gates, self.weight, self.offsets, self.cell)
        return F.pad(states, (0, 0, 1, 0))[:, :, :-1] if self.backwards else states


class Attention(nn.Module):
    """What earlier pixels hold, mixed by scores; window, border and style say who may be seen, and how the rest is masked."""

    def __init__(self, features: int, block: Block, seed: int) -> None:
        super().__init__()
        self.block, self.seed, self.heads = block, seed, 1 + (features % 2 == 0)
        self.query = nn.Conv2d(features, 3 * self.heads, 1)
        self.key, self.value = nn.Conv2d(features, 3 * self.heads, 1), nn.Conv2d(features, features, 1)

    def seen(self, height: int, width: int) -> Tensor:
        """bool (L, L), rows ask."""
        apart = torch.arange(height * width)[:, None] - torch.arange(height * width)
        row = torch.arange(height * width) // width
        seen = {
            "pad": apart > 0, "crop": (apart > 0) & (apart <= 2 * self.block.window.cols), "value": row[:, None] > row,
            "padding": (apart > 0) & torch.from_numpy(np.random.default_rng(self.seed).random(apart.shape) < 0.6),
        }  # fmt: skip
        return seen[self.block.window.border]

    def forward(self, y: Tensor) -> Tensor:
        n, _, height, width = y.shape
        asking = F.pad(y, (1, 0))[..., :-1] + F.pad(y, (0, 0, 1, 0))[:, :, :-1]
        q, k, v = (
            part.view(n, self.heads, -1, height * width).transpose(2, 3)
            for part in (self.query(asking), self.key(y), self.value(y))
        )
        seen = self.seen(height, width)
        some = seen.any(1, keepdim=True)
        if self.block.style == "data":
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        elif self.block.style == "multiply":
            mixed = (q @ k.mT).masked_fill(~seen, -1e4).softmax(-1) @ v * some
        elif self.block.style == "old_norm":
            mixed = (q @ k.mT / 2 + torch.where(seen, 0.0, -torch.inf)).softmax(-1).nan_to_num() @ v
        else:
            mask = seen.to(y.dtype)
            weights = torch.softmax(k @ q.mT * mask.T - 1e9 * (1 - mask.T), 2) * some.T
            return (v.mT @ weights).reshape(n, -1, height, width)
        return mixed.transpose(2, 3).reshape(n, -1, height, width)


class Coarse(nn.Module):
    """Down by strides and back, late enough that every pixel sees earlier ones only: (N, F, H, W) -> (N, F, H, W).

    A coarse pixel sees a window, unmasked; it is late by rows, or, if rows keep their resolution, by columns.
    """

    def __init__(self, features: int, block: Block) -> None:
        super().__init__()
        window = block.window
        self.rows, self.cols, self.style = block.strides
        self.late = (self.rows > 1) * (window.rows - window.row), (self.rows == 1) * (window.cols - window.col)
        below = window.rows - 1 - window.row if self.rows > 1 else 0
        self.pads = [window.col, window.cols - 1 - window.col + self.cols, window.rows - 1 - below, below + self.rows]
        more = self.rows * self.cols if self.style == "shuffled" else 1
        self.shrink = nn.Conv2d(features, features * more, (window.rows, window.cols), (self.rows, self.cols))
        self.grow = nn.ConvTranspose2d(features, features, (self.rows, self.cols), (self.rows, self.cols))

    def forward(self, h: Tensor) -> Tensor:
        low = torch.tanh(self.shrink(F.pad(h, self.pads)))
        n, features, rows, cols = low.shape
        if self.style == "transposed":
            high = self.grow(low)
        elif self.style == "nearest":
            high = F.interpolate(low, scale_factor=(self.rows, self.cols))
        elif self.style == "shuffled":
            high = F.pixel_shuffle(low, self.rows)
        else:
            wide = low.view(n, features, rows, 1, cols, 1).expand(-1, -1, -1, self.rows, -1, self.cols)
            high = wide.reshape(n, features, rows * self.rows, cols * self.cols)
        down, right = self.late
        return F.pad(high, (right, 0, down, 0))[:, :, : h.shape[2], : h.shape[3]]


class Layer(nn.Module):
    """One `Block`: (N, F, H, W) -> (N, F, H, W). `above`, from the stack that sees the rows above, is linked in."""

    def __init__(self, config: Config, block: Block) -> None:
        super().__init__()
        self.block = block
        window = replace(block.window, rows=1, row=0) if config.stacks else block.window
        image, past = tuple(c + 1 for c in range(config.shape[0])), (0,) * (2 * config.features)
        joined = {"image": image, "coordinates": (0, 0), "shifted": past}.get(block.kind, ())
        out = config.fresh * {"gated": 2, "recurrent": 4}.get(block.kind, 1)
        self.norm = Norm(block.norm, config.fresh)
        self.conv = MaskedConv((*config.fresh, *joined), out, window, block.style, block.depthwise)
        self.link = nn.Conv2d(config.features, len(out), 1) if config.stacks else None
        point = Window(1, 1, 0, 0)
        self.squeeze = MaskedConv(config.fresh * 2, config.fresh, point) if block.kind == "dense" else None
        self.recurrence = Recurrence(config.features, block.window) if block.kind == "recurrent" else None
        self.attention = Attention(config.features, block, config.seed) if block.kind == "attention" else None
        self.coarse = Coarse(config.features, block) if block.kind == "strided" else None

    def forward(self, h: Tensor, image: Tensor, above: Tensor | None) -> Tensor:
        kind = self.block.kind
        y = ACTIVATIONS[self.block.activation](self.norm(h))
        if kind == "image":
            y = torch.cat([y, image], 1)
        elif kind == "coordinates":
            rows, cols = torch.linspace(-1, 1, h.shape[2]), torch.linspace(-1, 1, h.shape[3])
            grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij")).unsqueeze(0).to(h.dtype)
            y = torch.cat((y, grid.repeat(len(h), 1, 1, 1)), dim=1)
        elif kind == "shifted":
            down = torch.zeros_like(y)
            down[:, :, 2:] = y[:, :, :-2]
            y = torch.cat([y, F.pad(y, (1, 0))[..., :-1], down], 1)
        y = self.conv(y)
        if self.link is not None:
            y = y + self.link(above)
        if self.coarse is not None:
            y = y + self.coarse(h)
        if self.squeeze is not None:
            return self.squeeze(torch.cat([h, y], dim=1))
        if self.recurrence is not None:
            return h + self.recurrence(y)
        if self.attention is not None and h.shape[2] * h.shape[3] > 1:
            return h + self.attention(y)
        if kind == "gated":
            a, b = y.chunk(2, 1)
            return h + torch.tanh(a) * torch.sigmoid(b)
        if kind == "inplace":
            half = h.shape[1] // 2
            y[:, :half] += h[:, :half]
            y[:, half:].mul_(torch.sigmoid(h[:, half:]))
        return h + y if kind == "residual" else y


class Above(nn.Module):
    """The rows above without any mask: windows that end at the own row, and a shift by one row for those who ask."""

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.windows = [config.first, *(block.window for block in config.blocks)]
        self.layers = nn.ModuleList(
            nn.Conv2d(config.features if i else inputs, config.features, (w.rows, w.cols), dilation=w.dilation)
            for i, w in enumerate(self.windows)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """For the first convolution and for each layer: (N, F, H, W), one row late."""
        found = []
        for layer, window in zip(self.layers, self.windows, strict=True):
            left, right, *_ = window.pads()
            x = torch.tanh(layer(F.pad(x, (left, right, (window.rows - 1) * window.dilation, 0))))
            found.append(F.pad(x, (0, 0, 1, 0))[:, :, :-1])
        return found


class Condition(nn.Module):
    """A label that scales and shifts the features, a vector or a map that is added to them."""

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 2 * features) if kind in ("label", "keyword") else None
        self.vector = nn.Linear(3, features) if kind == "vector" else None
        self.map = nn.Conv2d(2, features, 3, padding=1) if kind == "map" else None

    def forward(self, h: Tensor, given: Tensor | None) -> Tensor:
        if self.label is not None:
            scale, shift = self.label(given)[:, :, None, None].chunk(2, 1)
            return h * (1 + scale) + shift
        if self.vector is not None:
            return h + self.vector(given)[..., None, None]
        return h if self.map is None else h + torch.relu(self.map(given))
