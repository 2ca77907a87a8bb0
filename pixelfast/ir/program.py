"""The program: sampling as plain data, which every engine reads.

A program is a few lists of instructions and a table of buffers. Nothing model-specific is compiled into an engine: sizes,
weights, offsets and expressions all travel in here. `pixelfast.engines.reference` is the living definition of what each
instruction does; other engines are compared with it.

Time. For each image row R, from the first row of any buffer to H-1:
    the `row` instructions run once, over all columns of their destination; consecutive ones with the same sweep of 1 (-1) run
    together, column by column from the left (right), so that each may read what the others wrote in columns before;
    columns left of the image: the instructions of every step, without drawing;
    for each column 0 .. W-1, for each channel k: the instructions of `steps[k]` at that column, `draws[k]`, `encodes[k]`;
    columns right of the image: the instructions of every step, without drawing.
Rows above the image, and rows whose values are all given, run each instruction over all columns at once, in the order of
`pixelfast.lowering.given_rows`: a step may read, one column back, what a later step writes there.
An instruction that runs at (R, c) writes element (R, c) of its destination. It runs only on its lattice: what a strided
model computes for every second row and column is computed at those. No instruction reads what none has written.

Space. A buffer holds features of N images as [ring row][column][image][feature]; it reads as zero outside its domain.

Letters: N images, C channels, H rows, W columns, K levels, F features, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..distributions.base import CUSTOM
from ..distributions.components import Mixture
from .bodies import (
    BINARY,
    BODIES,
    OPERATIONS,
    REDUCTIONS,
    TERNARY,
    UNARY,
    Attention,
    Body,
    Cache,
    FieldSlot,
    Leaf,
    Lookup,
    Map,
    Norm,
    Op,
    Pixel,
    Place,
    Product,
    Reduce,
    Slot,
    unknown_body,
)
from .geometry import EVERYWHERE, Lattice, Rect
from .pixel_runs import PixelRuns
from .text import counted

__all__ = [
    "BINARY",
    "BODIES",
    "CUSTOM",
    "EVERYWHERE",
    "HEADS",
    "OPERATIONS",
    "REDUCTIONS",
    "TERNARY",
    "UNARY",
    "Attention",
    "Body",
    "Buffer",
    "Cache",
    "Draw",
    "Encode",
    "Field",
    "FieldSlot",
    "Instruction",
    "Lattice",
    "Leaf",
    "Lookup",
    "Map",
    "Mixture",
    "Norm",
    "Op",
    "Pixel",
    "PixelRuns",
    "Place",
    "Product",
    "Program",
    "Rect",
    "Reduce",
    "Slot",
    "unknown_body",
]  # fmt: skip
"""A program and all that it is made of."""

HEADS = ("categorical", "bernoulli_logit", "bernoulli_probability", "mixture_of_logistics", "mixture_of_gaussians")


@dataclass(frozen=True)
class Buffer:
    """Features of N images: float32 [rows][columns][N][features].

    Row r lives in ring slot r mod rows. Columns [columns.start, columns.stop) are stored. Outside `domain` it reads as
    zero: engines clear storage at first and, at the start of row R, the slot of row R if R lies outside the domain.
    """

    name: str
    features: int
    rows: int
    columns: tuple[int, int]
    domain: Rect

    @property
    def col0(self) -> int:
        return self.columns[0]

    @property
    def col1(self) -> int:
        return self.columns[1]


@dataclass(frozen=True)
class Field:
    """Numbers that do not depend on the image: float32, broadcast over the axes where the size is 1.

    Shape (N or 1, rows or 1, cols or 1, F); element (r, c) is read at index (r - row0, c - col0). `value` is None when
    the numbers depend on the conditions of a call: they then come with each call, with all N images.
    """

    features: int
    row0: int
    col0: int
    rows: int
    cols: int
    value: np.ndarray | None


@dataclass(frozen=True)
class Draw:
    """Draw channel `channel` of the running pixel from the parameters in `source` (count P), by inverse CDF.

    categorical: logits divided by the temperature; value = number of k < K-1 whose cumulative probability is <= noise.
    bernoulli: value = 1 if noise >= P(0).
    mixture_of_...: as categorical, of the probabilities that the parameters give, and of logistics the pixel's channels before
    (`pixelfast.distributions`), to the power 1/temperature and normalised.
    custom: what the functions of the request's head give.
    """

    channel: int
    source: Slot


@dataclass(frozen=True)
class Encode:
    """out[f] = table[f, value of image channel `channel` at the running pixel]; table is (out.count, K)."""

    out: Slot
    channel: int
    table: np.ndarray


@dataclass(frozen=True)
class Instruction:
    """A body that runs on a lattice within a rectangle, and the place that gets its result.

    Attributes:
        layer: the module of the user's that it comes from, for messages.
        sweep: of a `row` instruction: 1 (-1) if it runs column by column from the left (right), 0: all columns at once.
    """

    out: Slot
    body: Body
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0

    def __str__(self) -> str:
        """One line."""
        sweep = {0: "", 1: "left to right: ", -1: "right to left: "}[self.sweep]
        on = self.lattice
        at = f" on rows {on.row_phase} mod {on.row_step}, columns {on.col_phase} mod {on.col_step}"
        return f"{sweep}{self.out.text} {self.body.text}{'' if on.everywhere else at}  # {self.layer}"


@dataclass(frozen=True)
class Program:
    """See the head of this file."""

    shape: tuple[int, int, int]
    levels: int
    parameters: int
    head: str
    buffers: tuple[Buffer, ...]
    fields: tuple[Field, ...]
    row: tuple[Instruction, ...]
    steps: tuple[tuple[Instruction, ...], ...]
    draws: tuple[Draw, ...]
    encodes: tuple[tuple[Encode, ...], ...]
    macs: int = field(default=0)
    mixture: Mixture | None = None

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def rows(self) -> range:
        """The rows that an engine runs: from the first row of any buffer, which may lie above the image, to H - 1."""
        return range(min([0, *(buffer.domain.row0 for buffer in self.buffers)]), self.shape[1])

    @property
    def columns(self) -> tuple[int, int]:
        """The columns [lo, hi) in which any instruction runs; contains 0 .. W."""
        lo = min([0, *(buffer.domain.col0 for buffer in self.buffers)])
        return lo, max([self.shape[2], *(buffer.domain.col1 for buffer in self.buffers)])

    def bytes_per_image(self) -> int:
        """Bytes of buffers for one image."""
        sizes = (b.rows * (b.columns[1] - b.columns[0]) * b.features for b in self.buffers)
        return 4 * sum(sizes)

    def weight_bytes(self) -> int:
        """Bytes of weights, biases, tables and vectors."""
        arrays = [array for instruction in self.instructions() for array in instruction.body.arrays()]
        arrays += [encode.table for encodes in self.encodes for encode in encodes]
        return sum(array.nbytes for array in arrays)

    @property
    def sweeps(self) -> bool:
        """Whether some instructions of a row run column by column."""
        return any(instruction.sweep for instruction in self.row)

    def instructions(self) -> list[Instruction]:
        return [*self.row, *(instruction for step in self.steps for instruction in step)]

    def __str__(self) -> str:
        lines = ["buffers:"]
        for i, b in enumerate(self.buffers):
            ring = f"ring of {counted(b.rows, 'row')}, columns {b.columns[0]} .. {b.columns[1] - 1}"
            lines.append(f"  b{i} {b.name}: {ring}, {counted(b.features, 'feature')}")
        lines += ["each row:", *(f"  {instruction}" for instruction in self.row)]
        for channel, step in enumerate(self.steps):
            lines += [f"each pixel, step {channel}:", *(f"  {instruction}" for instruction in step)]
            lines.append(f"  draw channel {channel} from {self.draws[channel].source.text}")
            lines += [f"  {encode.out.text} = table of channel {channel}" for encode in self.encodes[channel]]
        return "\n".join(lines)
