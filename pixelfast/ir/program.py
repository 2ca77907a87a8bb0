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
`engines.known_rows`: a step may read, one column back, what a later step writes there.
An instruction that runs at (R, c) writes element (R, c) of its destination. It runs only on its lattice: what a strided
model computes for every second row and column is computed at those. No instruction reads what none has written.

Space. A buffer holds features of N images as [ring row][column][image][feature]; it reads as zero outside its domain.

Letters: N images, C channels, H rows, W columns, K levels, F features, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .geometry import EVERYWHERE, Lattice, Rect
from .pixel_runs import Keys

if TYPE_CHECKING:
    from ..distributions.mixture import Order

UNARY = (
    "neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "erf", "sin", "cos",
    "floor", "trunc", "relu", "logical_not",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "maximum", "minimum", "pow", "eq", "ne", "lt", "le", "gt", "ge",
)  # fmt: skip
TERNARY = ("where",)
OPERATIONS: tuple[str, ...] = UNARY + BINARY + TERNARY
"""What a `Map` can compute; comparisons give 0 or 1, and `where` takes its second argument where the first is not 0."""

REDUCTIONS = ("mean", "sum", "var", "amax", "amin", "logsumexp")
"""What a `Reduce` can compute over channels; `var` divides by count - correction."""

HEADS = ("categorical", "bernoulli_logit", "bernoulli_probability", "mixture_of_logistics")
CUSTOM = "custom"
"""A head that is no data: its functions come with each request (`Request.head`), for engines that can call them."""


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
class Slot:
    """Channels [channel, channel + count) of a buffer, read or written at (row, col) from the running position."""

    buffer: int
    channel: int
    count: int
    row: int = 0
    col: int = 0


@dataclass(frozen=True)
class FieldSlot:
    """Channels [channel, channel + count) of a field at the running position; count 1 is broadcast."""

    field: int
    channel: int
    count: int


@dataclass(frozen=True)
class Product:
    """out = (bias, or what `out` holds) + sum over taps of weights_tap^T · source_tap.

    `weights` is (sum of the taps' counts, out.count), in the taps' order.
    """

    out: Slot
    taps: tuple[Slot, ...]
    weights: np.ndarray
    bias: np.ndarray | None
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0


@dataclass(frozen=True)
class Pixel:
    """Channel `channel` of the image at (row, col) from the running position."""

    row: int
    col: int
    channel: int


@dataclass(frozen=True)
class Lookup:
    """out += sum over taps of tables[tap, value of the image there]; pixels outside the image add nothing.

    `tables` is (taps, K, out.count). It replaces a product over one-hot or embedded inputs.
    """

    out: Slot
    taps: tuple[Pixel, ...]
    tables: np.ndarray
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0


Leaf = Slot | FieldSlot | np.ndarray | float
"""What an expression reads: channels of a buffer or field (count 1 is broadcast), a vector (out.count,), or a number."""


@dataclass(frozen=True)
class Op:
    """One operation of an expression. Argument i < len(leaves) is a leaf, otherwise the result of op i - len(leaves)."""

    name: str
    args: tuple[int, ...]


@dataclass(frozen=True)
class Map:
    """out = expression of the leaves, channel by channel; the value of the last op (of the only leaf if there are none)."""

    out: Slot
    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0


@dataclass(frozen=True)
class Reduce:
    """out (one channel) = kind over all channels of the sources."""

    out: Slot
    kind: str
    sources: tuple[Slot, ...]
    correction: float
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0


@dataclass(frozen=True)
class Norm:
    """Layer normalisation over channels: out = (x - mean) / sqrt(var + eps) * scale + shift, with the biased variance."""

    out: Slot
    source: Slot
    scale: np.ndarray
    shift: np.ndarray
    eps: float
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0


@dataclass(frozen=True)
class Mixture:
    """What the parameters of a discretized mixture of logistics mean: M components, one of
    `pixelfast.distributions.mixture.ORDERS`, and the least log-scale.

    One set of P = 3M (one channel) or 10M (three) parameters describes all channels of a pixel, which are drawn in order.
    """

    components: int
    order: Order
    log_scale_min: float


@dataclass(frozen=True)
class Cache:
    """Channels [channel, channel + count) of a buffer that keeps every row: pixel (r, c)'s stand at (r + row, c + col)."""

    buffer: int
    channel: int
    count: int
    row: int
    col: int


@dataclass(frozen=True)
class Attention:
    """out = for each head, the mean of the values at some pixels, weighted by the softmax of their scores.

    The score of pixel k is scale * (query . keys at k) + bias. Query and keys have heads * E channels, out and values
    heads * D; head h takes the h-th E or D of each. At the i-th element of `rect`, in raster order, head h sees the pixels
    seen[h * elements + i], or seen[i] if there is one mask for all heads. Without any, out is 0.

    `bias` is (1 or heads, keys of all lists one after another), or None; 1 if the heads have masks of their own.
    """

    out: Slot
    query: Slot
    keys: Cache
    values: Cache
    heads: int
    scale: float
    seen: Keys
    bias: np.ndarray | None
    rect: Rect
    layer: str = ""
    lattice: Lattice = EVERYWHERE
    sweep: int = 0

    @property
    def elements(self) -> int:
        return (self.rect.row1 - self.rect.row0) * (self.rect.col1 - self.rect.col0)

    @property
    def masks(self) -> int:
        """1 if all heads see the same, otherwise heads."""
        return len(self.seen) // self.elements

    def reach(self, width: int) -> int:
        """How many columns to the right of the running one anything stands that it reads, at most, on whatever row."""
        return max(self.keys.col, self.values.col) + width - 1 - self.rect.col0

    def reach_in_row(self, width: int) -> int | None:
        """The same on the running row alone, for programs that read no later rows; None: nothing there."""
        row, col = np.divmod(np.arange(len(self.seen)) % self.elements, self.rect.col1 - self.rect.col0)
        last = self.seen.last()
        reaches = [
            last[here] % width + cache.col - (col[here] + self.rect.col0)
            for cache in (self.keys, self.values)
            if (here := (last >= 0) & (last // width + cache.row == row + self.rect.row0)).any()
        ]
        return max((int(reach.max()) for reach in reaches), default=None)


@dataclass(frozen=True)
class Draw:
    """Draw channel `channel` of the running pixel from the parameters in `source` (count P), by inverse CDF.

    categorical: logits divided by the temperature; value = number of k < K-1 whose cumulative probability is <= noise.
    bernoulli: value = 1 if noise >= P(0).
    mixture_of_logistics: as categorical, of the probabilities that the parameters and the pixel's channels before give
    (`pixelfast.distributions.mixture`), to the power 1/temperature and normalised.
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


Instruction = Product | Lookup | Map | Reduce | Norm | Attention


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
        total = 0
        for instruction in self.instructions():
            for name in ("weights", "bias", "tables", "scale", "shift"):
                array = getattr(instruction, name, None)
                total += array.nbytes if isinstance(array, np.ndarray) else 0
        return total + sum(encode.table.nbytes for encodes in self.encodes for encode in encodes)

    @property
    def sweeps(self) -> bool:
        """Whether some instructions of a row run column by column."""
        return any(instruction.sweep for instruction in self.row)

    def instructions(self) -> list[Instruction]:
        return [*self.row, *(instruction for step in self.steps for instruction in step)]

    def __str__(self) -> str:
        lines = ["buffers:"]
        for i, b in enumerate(self.buffers):
            lines.append(f"  b{i} {b.name}: {b.rows} rows x {b.columns[1] - b.columns[0]} columns x {b.features} features")
        lines += ["each row:", *(f"  {_text(instruction)}" for instruction in self.row)]
        for channel, step in enumerate(self.steps):
            lines += [f"each pixel, step {channel}:", *(f"  {_text(instruction)}" for instruction in step)]
            lines.append(f"  draw channel {channel} from {_place(self.draws[channel].source)}")
            lines += [f"  {_place(encode.out)} = table of channel {channel}" for encode in self.encodes[channel]]
        return "\n".join(lines)


def _place(slot: Slot) -> str:
    offset = f"@({slot.row:+d},{slot.col:+d})" if slot.row or slot.col else ""
    return f"b{slot.buffer}[{slot.channel}:{slot.channel + slot.count}]{offset}"


def _text(instruction: Instruction) -> str:
    """One instruction on one line."""
    match instruction:
        case Product():
            start = "+=" if instruction.bias is None else "= bias +"
            body = f"{start} product of {len(instruction.taps)} taps, {instruction.weights.shape[0]} inputs"
        case Lookup():
            body = f"+= {len(instruction.taps)} table look-ups"
        case Map():
            values = [_place(leaf) if isinstance(leaf, Slot) else _leaf_text(leaf) for leaf in instruction.leaves]
            for op in instruction.ops:
                values.append(f"{op.name}({', '.join(values[i] for i in op.args)})")
            body = f"= {values[-1]}"
        case Reduce():
            body = f"= {instruction.kind} of {', '.join(map(_place, instruction.sources))}"
        case Norm():
            body = f"= layer norm of {_place(instruction.source)}"
        case Attention():
            keys = instruction.seen.counts()
            body = f"= attention of {_place(instruction.query)} to b{instruction.keys.buffer}, up to {keys.max()} pixels"
    sweep = {0: "", 1: "left to right: ", -1: "right to left: "}[instruction.sweep]
    at = "" if instruction.lattice.everywhere else f" on {_lattice_text(instruction.lattice)}"
    return f"{sweep}{_place(instruction.out)} {body}{at}  # {instruction.layer}"


def _lattice_text(lattice: Lattice) -> str:
    return f"rows {lattice.row_phase} mod {lattice.row_step}, columns {lattice.col_phase} mod {lattice.col_step}"


def _leaf_text(leaf: Leaf) -> str:
    if isinstance(leaf, FieldSlot):
        return f"field{leaf.field}[{leaf.channel}:{leaf.channel + leaf.count}]"
    return "vector" if isinstance(leaf, np.ndarray) else f"{leaf:g}"
