"""What a random autoregressive model is made of: a `Config` says everything about one, `configs()` draws them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from pixelfast.mixture import ORDERS

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
