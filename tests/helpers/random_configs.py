"""What a random autoregressive model is made of: a `Config` says everything about one, `config` draws one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from random_parts import ACTIVATIONS, CONSTANTS, FILLS, PRODUCTS, SMOOTH

from pixelfast.distributions.mixture import PARAMETER_LAYOUTS
from pixelfast.ir.scan_order import ORDERS

__all__ = ["ACTIVATIONS", "SMOOTH", "Block", "Config", "Constant", "Groups", "Leak", "Window", "random_config", "spread"]

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
"""Blocks that reduce the resolution: steps of rows and columns, and how they come back."""
STYLES = ("multiply", "data", "old_norm", "new_norm")
INPUTS = ("symmetric", "unit", "affine", "table", "ones", "onehot", "embedding")
LAYOUTS = ("NKCHW", "NCKHW", "N(CK)HW", "N(KC)HW", "NHWCK", "NHW(KC)", "NCHWK", "NK(CHW)", "(NHW)(CK)", "(NHWC)K")
SHARED_LAYOUTS = ("NKHW", "NHWK", "(NHW)K", "NK(HW)", "N(HW)K")
HEADS = ("categorical", "categorical", "log_softmax", "logit", "probability", *PARAMETER_LAYOUTS, "gaussians", "custom")
MIXTURES = 2
CONDITIONS: dict[str, tuple[str, ...]] = {
    "none": (), "label": ("label",), "vector": ("vector",), "map": ("map",), "scale": ("scale",), "several": ("label", "map"),
    "many": ("label", "vector", "scale"),
}  # fmt: skip
"""What a module takes after the image, in order."""
ONE_WAY = ("recurrent", "strided")
"""Kinds of blocks that are written for raster order: a model of another order with one of them turns its image by itself."""
GROUPS = (1, 1, 1, 2, 3, 99)
"""The most groups of a convolution: fewer where features cannot be shared out so."""
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
class Constant:
    """What makes some elements of a map independent of the image, and what stands there instead; see `random_parts`."""

    kind: str = "none"
    fill: str = "zero"


@dataclass(frozen=True)
class Block:
    """One layer: its kind, window, and what stands around it.

    `dense` joins input and output, `image` and `coordinates` join those, `shifted` joins copies moved down and to the right,
    `attention` looks at some of the pixels before, `recurrent` gives the gates of an LSTM over pixels, `inplace` adds to one
    half of the channels and multiplies the other, and `strided` adds a map of lower resolution. Before all that, some
    elements become `constants`, and `product` mixes the features of each pixel.
    """

    kind: str
    window: Window
    activation: str
    norm: str
    groups: int
    style: str
    strides: tuple[int, int, str] = (1, 1, "transposed")
    bias: bool = True
    product: str = "none"
    constants: tuple[Constant, ...] = ()


@dataclass(frozen=True)
class Leak:
    """Which masked convolution, and which of its forbidden weights, is open; both are taken modulo what there is."""

    convolution: int
    weight: int


@dataclass(frozen=True)
class Config:
    """A model. With `stacks`, a second stack without masks sees the rows above, and the first one its own row only.

    `head` may be an order of the parameters of a mixture of logistics, which describe all channels of a pixel. In another order
    than raster the masks lie in that order, unless the module `turns` its image and its output. `start` makes elements of the
    image itself constant.
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
    order: str = "raster"
    turns: bool = False
    double: bool = False
    keyword: bool = False
    start: Constant = Constant()

    @property
    def groups(self) -> int:
        return self.shape[0] if self.colour else 1

    @property
    def shared(self) -> bool:
        return self.head in PARAMETER_LAYOUTS

    @property
    def parameters(self) -> int:
        if self.shared:
            return MIXTURES * (10 if self.shape[0] == 3 else 3)
        if self.head == "gaussians":
            return MIXTURES * 3
        return 1 if self.head in ("logit", "probability") else self.levels

    @property
    def fresh(self) -> Groups:
        """Groups of the features."""
        return spread(self.features, self.groups, self.interleaved)


def spread(count: int, groups: int, interleaved: bool) -> Groups:
    """Groups of `count` features."""
    return tuple(i % groups if interleaved else i * groups // count for i in range(count))


def random_window(random: Random) -> Window:
    rows, cols = random.randint(1, 3), random.randint(1, 5)
    row, col = random.randrange(rows), random.randrange(cols)
    return Window(rows, cols, row, col, random.choice((1, 1, 2)), random.choice(BORDERS))


def seeing_window(random: Random, order: str, size: tuple[int, int]) -> Window:
    """A window that sees earlier pixels of its own line, or of those above where a line is one pixel."""
    window = random_window(random)
    lines, pixels = ORDERS[order].shape((1, *size))[1:]
    if pixels > 1:
        cols = max(window.cols, 2)
        return replace(window, cols=cols, col=max(window.col, 1), dilation=1 if pixels < 3 else window.dilation)
    rows = max(window.rows, 2)
    return replace(window, rows=rows, row=max(window.row, 1), dilation=1 if lines < 3 else window.dilation)


def random_constant(random: Random) -> Constant:
    return Constant(random.choice(CONSTANTS), random.choice(FILLS))


def random_block(random: Random, activations: tuple[str, ...], plain: bool) -> Block:
    return Block(
        random.choice(KINDS),
        random_window(random),
        random.choice(activations),
        random.choice(NORMS),
        random.choice(GROUPS),
        random.choice(STYLES),
        random.choice(STRIDES),
        bias=random.random() < 0.7,
        product="none" if plain else random.choice(PRODUCTS),
        constants=() if plain else tuple(random_constant(random) for _ in range(random.choice((1, 1, 2)))),
    )


def random_size(random: Random, small: bool) -> tuple[int, int]:
    """Rows and columns: mostly few, sometimes one of them, seldom up to 13."""
    kind = "few" if small else random.choices(("few", "row", "column", "many"), (10, 1, 1, 1))[0]
    if kind == "few":
        return random.randint(1, 6), random.randint(1, 5)
    height, width = random.randint(2, 13), random.randint(2, 13)
    return (1 if kind == "row" else height), (1 if kind == "column" else width)


def random_config(
    random: Random, leaky: bool = False, activations: tuple[str, ...] = ACTIVATIONS, small: bool = False, plain: bool = False
) -> Config:
    """`small` images have few pixels, channels and levels: where every sub-pixel is changed in turn. `plain` models draw in
    raster order, constants are found at their borders only, and products are convolutions.
    """
    head = random.choice(HEADS)
    few_channels = (1, 1, 2, 3) if small else (1, 1, 1, 2, 3, 3, 4, 5)
    channels = random.choice((1, 3) if head in PARAMETER_LAYOUTS else few_channels)
    levels = (2, 3, 4, 9) if small else (2, 3, 4, 9, 2, 3, 4, 9, 17, 100, 256, 300)
    blocks = tuple(random_block(random, activations, plain) for _ in range(random.randint(1, 3)))
    size = random_size(random, small)
    order = "raster" if plain else random.choice(("raster",) * 5 + tuple(ORDERS))
    return Config(
        seed=random.randrange(1000),
        shape=(channels, *size),
        levels=2 if head in ("logit", "probability") else random.choice(levels),
        features=random.randint(channels, 7),
        colour=random.random() < 0.5,
        interleaved=random.random() < 0.5,
        stacks=random.random() < 0.35,
        inputs=random.choice(INPUTS),
        head=head,
        layout=random.choice(SHARED_LAYOUTS if head in PARAMETER_LAYOUTS else LAYOUTS),
        explicit=random.random() < 0.7,
        condition=random.choice(tuple(CONDITIONS)),
        blocks=blocks,
        first=seeing_window(random, order, size),
        leak=Leak(random.randrange(10), random.randrange(1000)) if leaky else None,
        order=order,
        turns=random.random() < 0.5 or any(block.kind in ONE_WAY for block in blocks),
        double=not plain and random.random() < 0.2,
        keyword=random.random() < 0.5,
        start=random_constant(random) if not plain and random.random() < 0.5 else Constant(),
    )
