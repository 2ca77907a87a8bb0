"""Random autoregressive models: a `Config` says everything about one, `configs()` draws configs, `build` makes the module.

Every feature knows some colours of its own pixel: a feature of group g knows the colours before g, channel c of the image
counts as group c + 1, and group 0 knows earlier pixels only. A connection within a pixel may lead from group a to group b
if a <= b; this is mask A and mask B in one. Letters: N images, C channels, F features, H rows, W columns, K levels, P
parameters of a distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import lstm_scan
from pixelfast.custom_head import CustomHead
from pixelfast.heads import Bernoulli, Categorical, Head
from pixelfast.mixture import ORDERS, MixtureOfLogistics

ACTIVATIONS = {
    "relu": F.relu, "elu": F.elu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "softplus": F.softplus,
    "leaky": F.leaky_relu, "hardswish": F.hardswish, "sin": torch.sin, "none": lambda x: x,
}  # fmt: skip
SMOOTH = ("elu", "gelu", "silu", "sin", "softplus", "tanh")
NORMS = ("none", "batch", "layer", "handmade", "rms", "softmax")
BORDERS = ("pad", "padding", "crop", "value")
KINDS = (
    "plain", "residual", "gated", "dense", "skip", "image", "coordinates", "shifted", "attention", "recurrent", "inplace",
    "strided",
)  # fmt: skip
STRIDES = (
    (2, 2, "transposed"), (2, 3, "transposed"), (1, 2, "transposed"), (2, 2, "nearest"), (1, 3, "expanded"), (2, 1, "expanded"),
    (2, 2, "shuffled"), (4, 2, "nearest"),
)  # fmt: skip
"""Of the blocks that reduce the resolution: steps of rows and columns, and how they come back."""
STYLES = ("multiply", "data", "old_norm", "new_norm")
INPUTS = ("symmetric", "unit", "affine", "table", "ones", "onehot", "embedding")
LAYOUTS = ("NKCHW", "NCKHW", "N(CK)HW", "N(KC)HW", "NHWCK", "NHW(KC)", "NCHWK", "NK(CHW)", "(NHW)(CK)", "(NHWC)K")
SHARED_LAYOUTS = ("NKHW", "NHWK", "(NHW)K", "NK(HW)", "N(HW)K")
HEADS = ("categorical", "categorical", "log_softmax", "logit", "probability", *ORDERS, "custom")
MIXTURES = 2
CONDITIONS = ("none", "label", "vector", "map", "keyword")
Groups = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A kernel (rows, cols), which of its taps stands on the pixel itself, and how the image's border is padded."""

    rows: int
    cols: int
    row: int
    col: int
    dilation: int = 1
    border: str = "pad"  # or "padding" of the convolution, "crop" (more than enough, then cut), "value" (other than 0)

    def offsets(self) -> list[tuple[int, int]]:
        """(row, column) offsets of the taps, in the order of the kernel."""
        places = [(a - self.row, b - self.col) for a in range(self.rows) for b in range(self.cols)]
        return [(row * self.dilation, col * self.dilation) for row, col in places]

    def pads(self) -> list[int]:
        """Left, right, top, bottom."""
        return [self.dilation * n for n in (self.col, self.cols - 1 - self.col, self.row, self.rows - 1 - self.row)]


@dataclass(frozen=True)
class Block:
    """One layer: its kind, window, and what stands around it.

    `dense` joins input and output, `image` and `coordinates` join those, `shifted` joins copies moved down and to the right,
    `attention` looks at some of the pixels before, `recurrent` gives the gates of an LSTM over pixels, `inplace` adds to one
    half of the channels and multiplies the other, and `strided` adds a map of lower resolution.
    """

    kind: str
    window: Window
    activation: str
    norm: str
    depthwise: bool
    style: str
    strides: tuple[int, int, str] = (1, 1, "transposed")


@dataclass(frozen=True)
class Leak:
    """Which masked convolution, and which of its forbidden weights, is open; both are taken modulo what there is."""

    convolution: int
    weight: int


@dataclass(frozen=True)
class Config:
    """A model. With `stacks`, a second stack without masks sees the rows above, and the first one its own row only.

    `head` may be an order of the parameters of a mixture of logistics, which describe all channels of a pixel.
    """

    seed: int
    shape: tuple[int, int, int]
    levels: int
    features: int
    colour: bool
    interleaved: bool
    stacks: bool
    inputs: str
    head: str
    layout: str
    explicit: bool
    condition: str
    blocks: tuple[Block, ...]
    first: Window
    leak: Leak | None = None

    @property
    def groups(self) -> int:
        return self.shape[0] if self.colour else 1

    @property
    def shared(self) -> bool:
        return self.head in ORDERS

    @property
    def parameters(self) -> int:
        if self.shared:
            return MIXTURES * (10 if self.shape[0] == 3 else 3)
        return 1 if self.head in ("logit", "probability") else self.levels

    @property
    def fresh(self) -> Groups:
        """Groups of the features."""
        return spread(self.features, self.groups, self.interleaved)


def spread(count: int, groups: int, interleaved: bool) -> Groups:
    """Groups of `count` features."""
    return tuple(i % groups if interleaved else i * groups // count for i in range(count))


# -------------------------------------------------------------------- drawing configs


@st.composite
def windows(draw: st.DrawFn) -> Window:
    rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    row, col = draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))
    return Window(rows, cols, row, col, draw(st.sampled_from((1, 1, 2))), draw(st.sampled_from(BORDERS)))


def blocks(activations: tuple[str, ...]) -> st.SearchStrategy[Block]:
    return st.builds(
        Block, st.sampled_from(KINDS), windows(), st.sampled_from(activations), st.sampled_from(NORMS), st.booleans(),
        st.sampled_from(STYLES), st.sampled_from(STRIDES),
    )  # fmt: skip


@st.composite
def configs(draw: st.DrawFn, leaky: bool = False, activations: tuple[str, ...] = tuple(ACTIVATIONS)) -> Config:
    head = draw(st.sampled_from(HEADS))
    channels = draw(st.sampled_from((1, 3) if head in ORDERS else (1, 1, 2, 3)))
    return Config(
        seed=draw(st.integers(0, 999)),
        shape=(channels, draw(st.integers(1, 6)), draw(st.integers(1, 5))),
        levels=2 if head in ("logit", "probability") else draw(st.sampled_from((2, 3, 4, 9))),
        features=draw(st.integers(channels, 6)),
        colour=draw(st.booleans()),
        interleaved=draw(st.booleans()),
        stacks=draw(st.booleans()),
        inputs=draw(st.sampled_from(INPUTS)),
        head=head,
        layout=draw(st.sampled_from(SHARED_LAYOUTS if head in ORDERS else LAYOUTS)),
        explicit=draw(st.booleans()),
        condition=draw(st.sampled_from(CONDITIONS)),
        blocks=tuple(draw(st.lists(blocks(activations), min_size=1, max_size=4))),
        first=draw(windows()),
        leak=Leak(draw(st.integers(0, 9)), draw(st.integers(0, 999))) if leaky else None,
    )


# -------------------------------------------------------------------- modules


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


class RandomModel(nn.Module):
    """(N, C, H, W) and the config's condition -> parameters in the config's layout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        planes = tuple(c + 1 for c in range(config.shape[0]))
        if config.inputs == "ones":
            planes = (*planes, 0)
        elif config.inputs in ("onehot", "embedding"):
            planes = tuple(g for g in planes for _ in range(config.levels if config.inputs == "onehot" else 3))
        self.embed = nn.Embedding(config.levels, 3) if config.inputs == "embedding" else None
        self.above = Above(config, len(planes)) if config.stacks else None
        self.first = MaskedConv(planes, config.fresh, replace(config.first, rows=1, row=0) if config.stacks else config.first)
        self.condition = Condition(config.condition, config.features)
        self.layers = nn.ModuleList(Layer(config, block) for block in config.blocks)
        outputs = (1 if config.shared else config.shape[0]) * config.parameters
        coloured = config.colour and not config.shared
        after = spread(outputs, config.shape[0], config.interleaved) if coloured else (0,) * outputs
        self.out = MaskedConv(config.fresh, after, Window(1, 1, 0, 0))

    def forward(self, x: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return arranged(self.planes(x, *args, **kwargs), self.config.layout)

    def planes(self, x: Tensor, condition: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Parameters (N, P, C, H, W), shared ones C times."""
        image = x.to(self.out.mask.dtype)
        x = self.encoded(x)
        above = self.above(x) if self.above is not None else [None] * (len(self.layers) + 1)
        h = self.first(x) if above[0] is None else self.first(x) + above[0]
        h = self.condition(h, label if condition is None else condition)
        skips = []
        for layer, rows_above in zip(self.layers, above[1:], strict=True):
            h = layer(h, image, rows_above)
            if layer.block.kind == "skip":
                skips.append(h)
        y = self.out(sum(skips, h))
        channels = self.config.shape[0]
        if self.config.shared:
            return y.unsqueeze(2).expand(-1, -1, channels, -1, -1)
        if self.config.interleaved:
            planes = y.view(len(y), -1, channels, *y.shape[2:])
        else:
            planes = y.view(len(y), channels, -1, *y.shape[2:]).transpose(1, 2)
        if self.config.head == "log_softmax":
            return F.log_softmax(planes, 1)
        return torch.sigmoid(planes) if self.config.head == "probability" else planes

    def encoded(self, x: Tensor) -> Tensor:
        if self.config.inputs == "ones":
            return torch.cat([x, torch.ones_like(x[:, :1])], 1)
        if self.config.inputs == "onehot":
            return F.one_hot(x, self.config.levels).permute(0, 1, 4, 2, 3).flatten(1, 2).to(self.out.mask.dtype)
        return x if self.embed is None else self.embed(x).permute(0, 1, 4, 2, 3).flatten(1, 2)


def arranged(planes: Tensor, layout: str) -> Tensor:
    """A tensor (N, K, C, H, W) in a layout; of channel 0 in a layout without C."""
    letters = "NKCHW" if "C" in layout else "NKHW"
    planes = planes if "C" in layout else planes[:, :, 0]
    sizes = dict(zip(letters, planes.shape, strict=True))
    shape, joined = [], False
    for letter in layout:
        if letter in "()":
            joined = letter == "("
            shape += [1] * joined
        elif joined:
            shape[-1] *= sizes[letter]
        else:
            shape.append(sizes[letter])
    return planes.permute([letters.index(letter) for letter in layout if letter not in "()"]).reshape(shape)


# -------------------------------------------------------------------- building and trying


def build(config: Config) -> RandomModel:
    """The module of a config; its weights depend on the config alone."""
    torch.manual_seed(config.seed)
    module = RandomModel(config).eval()
    layers = [layer for layer in module.modules() if isinstance(layer, MaskedConv) and bool((layer.mask == 0).any())]
    if config.leak is not None and layers:
        mask = layers[config.leak.convolution % len(layers)].mask
        forbidden = (mask.view(-1) == 0).nonzero().flatten()
        mask.view(-1)[forbidden[config.leak.weight % len(forbidden)]] = 1
    return module


def head_of(config: Config, layout: str | None) -> Head:
    table = [0.3 * k * k - 1 for k in range(config.levels)]
    special = {"affine": (0.7, -0.4), "ones": "symmetric", "onehot": "integer", "embedding": "integer", "table": table}
    encode: Any = special.get(config.inputs, config.inputs)
    if config.shared:
        order: Any = config.head
        return MixtureOfLogistics(config.levels, MIXTURES, config.shape[0], order, encode=encode, layout=layout)
    if config.head == "custom":
        return CustomHead(config.levels, config.levels, cubed_softmax, encode=encode, layout=layout)
    if config.parameters == 1:
        return Bernoulli(config.head == "probability", encode, layout)
    return Categorical(config.levels, encode, layout)


def cubed_softmax(parameters: Tensor) -> Tensor:
    p = parameters.softmax(-1) ** 3
    return p / p.sum(-1, keepdim=True)


def conditions_of(config: Config, n: int) -> Any:
    generator = torch.Generator().manual_seed(config.seed)
    labels = torch.randint(4, (n,), generator=generator)
    return {
        "none": None,
        "label": labels,
        "keyword": {"label": labels},
        "vector": torch.randn(n, 3, generator=generator),
        "map": (torch.randn(n, 2, *config.shape[1:], generator=generator),),
    }[config.condition]


def influence(config: Config, trials: int = 2) -> Tensor:
    """Which sub-pixel changes which parameter, found by changing one at a time: bool (S changed, S predicted, P).

    Sub-pixels are in the order of drawing. What a change does can be too small to see, but nothing is seen that is not there.
    """
    module, head = build(config).double(), head_of(config, None)
    channels, height, width = config.shape
    size = channels * height * width
    generator = torch.Generator().manual_seed(1)
    found = torch.zeros(size, size, config.parameters, dtype=torch.bool)
    given = conditions_of(config, 1)
    given = given["label"] if isinstance(given, dict) else given[0] if isinstance(given, tuple) else given
    if given is not None:
        given = given.expand(size + 1, *given.shape[1:])
        given = given.double() if given.is_floating_point() else given
    for _ in range(trials):
        images = torch.randint(head.levels, (size,), generator=generator).repeat(size + 1, 1)
        images[torch.arange(size), torch.arange(size)] += torch.randint(1, head.levels, (size,), generator=generator)
        inputs = head.encode_images((images % head.levels).view(-1, height, width, channels).permute(0, 3, 1, 2))
        with torch.no_grad():
            planes = module.planes(inputs.double() if inputs.is_floating_point() else inputs, given)
        parameters = planes.permute(0, 3, 4, 2, 1).reshape(size + 1, size, -1)
        found |= (parameters[:-1] - parameters[-1]).abs() > 1e-9
    return found


def sees_too_much(config: Config) -> bool:
    """Whether some prediction changes with its own sub-pixel or a later one."""
    found = influence(config).any(-1)
    return bool(found.tril().any())  # [changed, predicted]: predicted <= changed
