"""The layers of random autoregressive models, written in the styles of many people; see `random_models`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from random_configs import CONDITIONS, Block, Config, Groups, Window
from random_parts import Activation, Fixed, Given, Mix
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import lstm_scan
from pixelfast.ir.scan_order import ORDERS, RASTER, Order


def frame_of(config: Config) -> Order:
    """The order in which the layers are written: raster in a model that turns its image."""
    return RASTER if config.turns else ORDERS[config.order]


def turned_pads(order: Order, pads: list[int]) -> list[int]:
    """Left, right, top, bottom of an image, from those of its lines."""
    left, right, top, bottom = (*pads[2:], *pads[:2]) if order.columns else pads
    across, along = (right, left) if order.left else (left, right), (bottom, top) if order.up else (top, bottom)
    return [*across, *along]


def allowed(before: int, after: int) -> bool:
    """Whether features of a pixel that know as much as group `after` may see those of group `before`."""
    return before <= after


class MaskedConv(nn.Module):
    """A convolution over a window, with a mask by offset and group."""

    mask: Tensor

    def __init__(
        self, before: Groups, after: Groups, window: Window, order: Order = RASTER, style: str = "multiply", groups: int = 1,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.window = window
        self.groups = max(g for g in range(1, groups + 1) if len(before) % g == len(after) % g == 0 and g <= len(before))
        self.pads = turned_pads(order, window.pads())
        left, right, top, bottom = self.pads
        self.inside = window.border == "padding" and left == right and top == bottom
        size = order.shape((1, window.rows, window.cols))[1:]
        conv = nn.Conv2d(
            len(before), len(after), size, dilation=window.dilation, groups=self.groups,
            padding=(top, left) if self.inside else 0, bias=bias,
        )  # fmt: skip
        share = len(before) // self.groups
        nn.init.normal_(conv.weight, std=1.5 / share**0.5)
        parts = [before[i * share : (i + 1) * share] for i in range(self.groups)]
        each = len(after) // self.groups
        mask = [
            [[offset < (0, 0) or (offset == (0, 0) and allowed(a, b)) for offset in window.offsets()] for a in parts[i // each]]
            for i, b in enumerate(after)
        ]
        lines = np.array(mask, np.float32).reshape(len(after), share, window.rows, window.cols)
        self.register_buffer("mask", torch.from_numpy(order.restored(lines, 2).copy()))
        blind = not self.mask.flatten(1).any(1).all()  # weight norm would divide nothing by its norm
        self.style = style = "multiply" if blind else style
        if style == "old_norm":
            conv = nn.utils.weight_norm(conv)
        elif style == "new_norm":
            conv = nn.utils.parametrizations.weight_norm(conv)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        if self.inside:
            return self._convolve(x)
        if self.window.border != "crop":
            return self._convolve(F.pad(x, self.pads, value=-0.7 if self.window.border == "value" else 0.0))
        rows, cols = x.shape[2:]
        return self._convolve(F.pad(x, [pad + 2 for pad in self.pads]))[:, :, 2 : rows + 2, 2 : cols + 2]

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


def late(h: Tensor, order: Order, lines: int, pixels: int) -> Tensor:
    """A map that is some lines and pixels late; zeros come in."""
    pads = turned_pads(order, [pixels, -pixels, lines, -lines])
    return F.pad(h, pads)


class Attention(nn.Module):
    """What earlier pixels hold, mixed by scores; window, border and style say who may be seen, and how the rest is masked."""

    def __init__(self, features: int, block: Block, seed: int, order: Order) -> None:
        super().__init__()
        self.block, self.seed, self.heads, self.order = block, seed, 1 + (features % 2 == 0), order
        self.query = nn.Conv2d(features, 3 * self.heads, 1)
        self.key, self.value = nn.Conv2d(features, 3 * self.heads, 1), nn.Conv2d(features, features, 1)

    def seen(self, height: int, width: int) -> Tensor:
        """bool (L, L), rows ask."""
        ranks = torch.from_numpy(self.order.ranks(height, width).reshape(-1).copy())
        apart = ranks[:, None] - ranks
        row = ranks // (height if self.order.columns else width)
        seen = {
            "pad": apart > 0, "crop": (apart > 0) & (apart <= 2 * self.block.window.cols), "value": row[:, None] > row,
            "padding": (apart > 0) & torch.from_numpy(np.random.default_rng(self.seed).random(apart.shape) < 0.6),
        }  # fmt: skip
        return seen[self.block.window.border]

    def forward(self, y: Tensor) -> Tensor:
        n, _, height, width = y.shape
        asking = late(y, self.order, 0, 1) + late(y, self.order, 1, 0)
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
        self.block, self.order = block, frame_of(config)
        window = replace(block.window, rows=1, row=0) if config.stacks else block.window
        image, past = tuple(c + 1 for c in range(config.shape[0])), (0,) * (2 * config.features)
        joined = {"image": image, "coordinates": (0, 0), "shifted": past}.get(block.kind, ())
        fresh = config.fresh
        out = fresh * {"gated": 2, "recurrent": 4}.get(block.kind, 1)
        self.fixed = nn.ModuleList(fixed(config, c.kind, c.fill, len(fresh)) for c in block.constants)
        self.norm, self.activation = Norm(block.norm, fresh), Activation(block.activation, len(fresh))
        self.mix = Mix(block.product, torch.tensor([[float(allowed(a, b)) for a in fresh] for b in fresh]), block.bias)
        self.conv = MaskedConv((*fresh, *joined), out, window, self.order, block.style, block.groups, block.bias)
        self.link = nn.Conv2d(config.features, len(out), 1) if config.stacks else None
        self.squeeze = MaskedConv(fresh * 2, fresh, Window(1, 1, 0, 0)) if block.kind == "dense" else None
        self.recurrence = Recurrence(config.features, block.window) if block.kind == "recurrent" else None
        self.attention = Attention(config.features, block, config.seed, self.order) if block.kind == "attention" else None
        self.coarse = Coarse(config.features, block) if block.kind == "strided" else None

    def forward(self, h: Tensor, image: Tensor, above: Tensor | None, given: Given) -> Tensor:
        kind = self.block.kind
        for part in self.fixed:
            h = part(h, given)
        y = self.mix(self.activation(self.norm(h)))
        if kind == "image":
            y = torch.cat([y, image], 1)
        elif kind == "coordinates":
            rows, cols = torch.linspace(-1, 1, h.shape[2]), torch.linspace(-1, 1, h.shape[3])
            grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij")).unsqueeze(0).to(h.dtype)
            y = torch.cat((y, grid.repeat(len(h), 1, 1, 1)), dim=1)
        elif kind == "shifted":
            y = torch.cat([y, late(y, self.order, 0, 1), self.far(y)], 1)
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

    def far(self, y: Tensor) -> Tensor:
        """Two lines late, in raster order by an assignment."""
        if self.order != RASTER:
            return late(y, self.order, min(2, *y.shape[2:]), 0)
        down = torch.zeros_like(y)
        down[:, :, 2:] = y[:, :, :-2]
        return down


def fixed(config: Config, kind: str, fill: str, features: int) -> Fixed:
    frame = frame_of(config)
    size = ORDERS[config.order].shape(config.shape)[1:] if config.turns else config.shape[1:]
    return Fixed(kind, fill, features, size, frame, CONDITIONS[config.condition])


class Above(nn.Module):
    """The rows above without any mask: windows that end at the own row, and a shift by one row for those who ask."""

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.order = frame_of(config)
        self.windows = [config.first, *(block.window for block in config.blocks)]
        sizes = [self.order.shape((1, window.rows, window.cols))[1:] for window in self.windows]
        self.layers = nn.ModuleList(
            nn.Conv2d(config.features if i else inputs, config.features, size, dilation=self.windows[i].dilation)
            for i, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """For the first convolution and for each layer: (N, F, H, W), one row late."""
        result = []
        for layer, window in zip(self.layers, self.windows, strict=True):
            left, right, *_ = window.pads()
            pads = turned_pads(self.order, [left, right, (window.rows - 1) * window.dilation, 0])
            x = torch.tanh(layer(F.pad(x, pads)))
            result.append(late(x, self.order, 1, 0))
        return result


class Condition(nn.Module):
    """A label that scales and shifts the features, a vector or a map that is added to them, a number that scales them."""

    def __init__(self, parts: tuple[str, ...], features: int) -> None:
        super().__init__()
        self.label = nn.Embedding(4, 2 * features) if "label" in parts else None
        self.vector = nn.Linear(3, features) if "vector" in parts else None
        self.map = nn.Conv2d(2, features, 3, padding=1) if "map" in parts else None

    def forward(self, h: Tensor, given: Given) -> Tensor:
        if self.label is not None:
            scale, shift = self.label(given["label"])[..., None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        if self.vector is not None:
            h = h + self.vector(given["vector"])[..., None, None]
        if self.map is not None:
            h = h + torch.relu(self.map(given["map"]))
        return h * given["scale"].view(-1, 1, 1, 1) if "scale" in given else h
