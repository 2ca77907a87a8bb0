"""Random autoregressive models: a `Config` says everything about one, `random_config` draws one, `build` makes the module.

Every feature knows some colours of its own pixel: a feature of group g knows the colours before g, channel c of the image
counts as group c + 1, and group 0 knows earlier pixels only. A connection within a pixel may lead from group a to group b
if a <= b; this is mask A and mask B in one. Letters: N images, C channels, F features, H rows, W columns, K levels, P
parameters of a distribution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from random_configs import CONDITIONS, MIXTURES, SMOOTH, Config, Window, random_config, spread
from random_layers import Above, Condition, Layer, MaskedConv, fixed, frame_of
from random_parts import Given
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.distributions.base import Head
from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.distributions.categorical import Categorical
from pixelfast.distributions.custom import CustomHead
from pixelfast.distributions.gaussian import MixtureOfGaussians
from pixelfast.distributions.mixture import MixtureOfLogistics
from pixelfast.ir.scan_order import ORDERS, Order

__all__ = [
    "SMOOTH", "Config", "RandomModel", "arranged", "build", "conditions_of", "head_of", "influence", "random_config",
    "sees_too_much",
]  # fmt: skip


class RandomModel(nn.Module):
    """(N, C, H, W) and the config's conditions -> parameters in the config's layout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.amplitude = 1.0
        planes = tuple(c + 1 for c in range(config.shape[0]))
        if config.inputs == "ones":
            planes = (*planes, 0)
        elif config.inputs in ("onehot", "embedding"):
            planes = tuple(g for g in planes for _ in range(config.levels if config.inputs == "onehot" else 3))
        self.start = fixed(config, config.start.kind, config.start.fill, config.shape[0])
        self.embed = nn.Embedding(config.levels + 1, 3) if config.inputs == "embedding" else None
        self.start.token = config.levels if self.embed is not None else 1
        self.above = Above(config, len(planes)) if config.stacks else None
        window = replace(config.first, rows=1, row=0) if config.stacks else config.first
        self.first = MaskedConv(planes, config.fresh, window, frame_of(config))
        self.condition = Condition(CONDITIONS[config.condition], config.features)
        self.layers = nn.ModuleList(Layer(config, block) for block in config.blocks)
        outputs = (1 if config.shared else config.shape[0]) * config.parameters
        coloured = config.colour and not config.shared
        after = spread(outputs, config.shape[0], config.interleaved) if coloured else (0,) * outputs
        self.out = MaskedConv(config.fresh, after, Window(1, 1, 0, 0))

    @property
    def dtype(self) -> torch.dtype:
        return self.out.mask.dtype

    def forward(self, x: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        given = dict(zip(CONDITIONS[self.config.condition], args, strict=False)) | kwargs
        return arranged(self.planes(x, given), self.config.layout)

    def planes(self, x: Tensor, given: Given) -> Tensor:
        """Parameters (N, P, C, H, W), shared ones C times."""
        given = {name: torch.as_tensor(value) for name, value in given.items()}
        given = {name: value if value.dim() else value.view(1) for name, value in given.items()}
        given = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in given.items()}
        x = x.to(self.dtype) if x.is_floating_point() else x
        if not self.config.turns:
            return self.raster(x, given)
        order = ORDERS[self.config.order]
        given |= {name: reordered(value, order) for name, value in given.items() if name == "map"}
        return restored(self.raster(reordered(x, order), given), order)

    def raster(self, x: Tensor, given: Given) -> Tensor:
        """`planes` in the order that the layers are written for."""
        image = x.to(self.dtype)
        x = self.encoded(self.start(x, given))
        above = self.above(x) if self.above is not None else [None] * (len(self.layers) + 1)
        h = self.first(x) if above[0] is None else self.first(x) + above[0]
        h = self.condition(h, given)
        skips = []
        for layer, rows_above in zip(self.layers, above[1:], strict=True):
            h = layer(h, image, rows_above, given)
            if layer.block.kind == "skip":
                skips.append(h)
        y = self.out(sum(skips, h)) * self.amplitude
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
            return F.one_hot(x, self.config.levels).permute(0, 1, 4, 2, 3).flatten(1, 2).to(self.dtype)
        return x if self.embed is None else self.embed(x).permute(0, 1, 4, 2, 3).flatten(1, 2)


def reordered(x: Tensor, order: Order) -> Tensor:
    """Rows and columns, the last two axes, as the lines and pixels of an order."""
    x = x.flip((-2,) * order.up + (-1,) * order.left) if order.up or order.left else x
    return x.mT if order.columns else x


def restored(x: Tensor, order: Order) -> Tensor:
    x = x.mT if order.columns else x
    return x.flip((-2,) * order.up + (-1,) * order.left) if order.up or order.left else x


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


def build(config: Config) -> RandomModel:
    """The module of a config; its weights depend on the config alone."""
    torch.manual_seed(config.seed)
    module = RandomModel(config).eval()
    module = module.double() if config.double else module
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
    if config.head == "gaussians":
        return MixtureOfGaussians(config.levels, MIXTURES, -1, "weight-mean-scale", encode=encode, layout=layout)
    if config.head == "custom":
        return CustomHead(config.levels, config.levels, cubed_softmax, encode=encode, layout=layout)
    if config.parameters == 1:
        return Bernoulli(config.head == "probability", encode, layout)
    return Categorical(config.levels, encode, layout)


def cubed_softmax(parameters: Tensor) -> Tensor:
    p = parameters.softmax(-1) ** 3
    return p / p.sum(-1, keepdim=True)


def conditions_of(config: Config, n: int, seed: int | None = None) -> Any:
    """What `cond=` takes for n images: by position or by keyword."""
    given = conditions_by_name(config, n, config.seed if seed is None else seed)
    if config.keyword and given:
        return given
    return tuple(given.values()) or None


def conditions_by_name(config: Config, n: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = {
        "label": torch.randint(4, (n,), generator=generator),
        "vector": torch.randn(n, 3, generator=generator),
        "map": torch.randn(n, 2, *config.shape[1:], generator=generator),
        "scale": torch.rand(n, generator=generator) + 0.5,
    }
    return {name: result[name] for name in CONDITIONS[config.condition]}


def influence(config: Config, trials: int = 2) -> Tensor:
    """Which sub-pixel changes which parameter, found by changing one at a time: bool (S changed, S predicted, P).

    Sub-pixels are in the order of drawing. What a change does can be too small to see, but nothing is seen that is not there.
    """
    module, head, order = build(config).double(), head_of(config, None), ORDERS[config.order]
    channels, height, width = config.shape
    size = channels * height * width
    _, lines, pixels = order.shape(config.shape)
    generator = torch.Generator().manual_seed(1)
    result = torch.zeros(size, size, config.parameters, dtype=torch.bool)
    given = conditions_by_name(config, 1, config.seed)
    given = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    given = {name: value.expand(size + 1, *value.shape[1:]) for name, value in given.items()}
    for _ in range(trials):
        images = torch.randint(head.levels, (size,), generator=generator).repeat(size + 1, 1)
        images[torch.arange(size), torch.arange(size)] += torch.randint(1, head.levels, (size,), generator=generator)
        drawn = (images % head.levels).view(-1, lines, pixels, channels)
        inputs = head.encode_images(torch.from_numpy(order.restored(drawn.numpy(), 1).copy()).permute(0, 3, 1, 2))
        with torch.no_grad():
            planes = module.planes(inputs.double() if inputs.is_floating_point() else inputs, given)
        seen = order.reordered(planes.permute(0, 3, 4, 2, 1).numpy(), 1).copy()
        parameters = torch.from_numpy(seen).reshape(size + 1, size, -1)
        result |= (parameters[:-1] - parameters[-1]).abs() > 1e-9
    return result


def sees_too_much(config: Config) -> bool:
    """Whether some prediction changes with its own sub-pixel or a later one."""
    result = influence(config).any(-1)
    return bool(result.tril().any())  # [changed, predicted]: predicted <= changed
