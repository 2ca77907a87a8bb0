"""What an instruction computes: one body for each kind of instruction, and the places that it reads.

A body says nothing about where its result goes, nor where and when it runs: that is the `Instruction` around it
(`pixelfast.ir.program`). What a body reads follows from the types of its fields, so a new kind answers `slots`, `caches`,
`pixels`, `arrays` and `with_slots` by having fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import numpy as np

from .geometry import Rect
from .pixel_runs import PixelRuns
from .text import at, listed

UNARY = (
    "neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "erf", "sin", "cos",
    "atan", "floor", "trunc", "relu", "logical_not",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "maximum", "minimum", "pow", "eq", "ne", "lt", "le", "gt", "ge",
)  # fmt: skip
TERNARY = ("where",)
OPERATIONS: tuple[str, ...] = UNARY + BINARY + TERNARY
"""What a `Map` can compute; comparisons give 0 or 1, and `where` takes its second argument where the first is not 0."""

REDUCTIONS = ("mean", "sum", "var", "amax", "amin", "logsumexp")
"""What a `Reduce` can compute over channels; `var` divides by count - correction."""


@dataclass(frozen=True)
class Slot:
    """Channels [channel, channel + count) of a buffer, read or written at (row, col) from the running position."""

    buffer: int
    channel: int
    count: int
    row: int = 0
    col: int = 0

    @property
    def text(self) -> str:
        return f"b{self.buffer}[{self.channel}:{self.channel + self.count}]{at(self.row, self.col)}"


@dataclass(frozen=True)
class FieldSlot:
    """Channels [channel, channel + count) of a field at the running position; count 1 is broadcast."""

    field: int
    channel: int
    count: int

    @property
    def text(self) -> str:
        return f"field{self.field}[{self.channel}:{self.channel + self.count}]"


@dataclass(frozen=True)
class Pixel:
    """Channel `channel` of the image at (row, col) from the running position."""

    row: int
    col: int
    channel: int

    @property
    def text(self) -> str:
        return f"channel {self.channel}{at(self.row, self.col)}"


@dataclass(frozen=True)
class Cache:
    """Channels [channel, channel + count) of a buffer that keeps every row: pixel (r, c)'s stand at (r + row, c + col)."""

    buffer: int
    channel: int
    count: int
    row: int
    col: int


Place = TypeVar("Place", bound=Slot | Cache)


class Move(Protocol):
    """Maps each place of a buffer to another one of its kind."""

    def __call__(self, place: Place, /) -> Place: ...


Leaf = Slot | FieldSlot | np.ndarray | float
"""What an expression reads: channels of a buffer or field (count 1 is broadcast), a vector (out.count,), or a number."""


@dataclass(frozen=True)
class Op:
    """One operation of an expression. Argument i < len(leaves) is a leaf, otherwise the result of op i - len(leaves)."""

    name: str
    args: tuple[int, ...]


Kind = TypeVar("Kind")
Same = TypeVar("Same", bound="Body")


class Body(ABC):
    """What an instruction computes of what it reads. Each subclass is a frozen dataclass."""

    @property
    @abstractmethod
    def adds(self) -> bool:
        """Whether it adds to what its destination holds."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What stands behind the destination in a printed program."""

    @abstractmethod
    def macs(self, elements: int) -> int:
        """Multiply-adds with weights, or of attention, for so many elements of its destination."""

    def slots(self) -> tuple[Slot, ...]:
        """What it reads at an offset from the running position."""
        return self._values(Slot)

    def caches(self) -> tuple[Cache, ...]:
        """What it reads at other pixels, wherever they are: on all rows."""
        return self._values(Cache)

    def buffers(self) -> set[int]:
        """The buffers that it reads."""
        return {slot.buffer for slot in self.slots()} | {cache.buffer for cache in self.caches()}

    def pixels(self) -> tuple[Pixel, ...]:
        """What it reads of the image."""
        return self._values(Pixel)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Its weights, biases, tables and vectors."""
        return self._values(np.ndarray)

    def with_slots(self: Same, move: Move) -> Same:
        """The same body, with each slot and cache moved."""
        return replace(self, **{field.name: _moved(getattr(self, field.name), move) for field in fields(self)})  # type: ignore[arg-type,type-var]

    def _values(self, kind: type[Kind]) -> tuple[Kind, ...]:
        return tuple(value for value in self._opened() if isinstance(value, kind))

    def _opened(self) -> Iterator[object]:
        """The values of its fields, those of tuples one by one."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                yield from value
            else:
                yield value


def _moved(value: object, move: Move) -> object:
    if isinstance(value, tuple):
        return tuple(_moved(item, move) for item in value)
    return move(value) if isinstance(value, (Slot, Cache)) else value


@dataclass(frozen=True)
class Product(Body):
    """out = (bias, or what `out` holds) + sum over taps of weights_tap^T · source_tap.

    `weights` is (sum of the taps' counts, out.count), in the taps' order.
    """

    taps: tuple[Slot, ...]
    weights: np.ndarray
    bias: np.ndarray | None

    @property
    def adds(self) -> bool:
        return self.bias is None

    @property
    def text(self) -> str:
        return f"{'+=' if self.adds else '= bias +'} weights · ({listed([tap.text for tap in self.taps])})"

    def macs(self, elements: int) -> int:
        return self.weights.size * elements


@dataclass(frozen=True)
class Lookup(Body):
    """out += sum over taps of tables[tap, value of the image there]; pixels outside the image add nothing.

    `tables` is (taps, K, out.count). It replaces a product over one-hot or embedded inputs.
    """

    taps: tuple[Pixel, ...]
    tables: np.ndarray

    @property
    def adds(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return f"+= tables of the image ({listed([tap.text for tap in self.taps])})"

    def macs(self, elements: int) -> int:
        return 0


@dataclass(frozen=True)
class Map(Body):
    """out = expression of the leaves, channel by channel; the value of the last op (of the only leaf if there are none)."""

    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...]

    @property
    def adds(self) -> bool:
        return False

    @property
    def text(self) -> str:
        values = [_leaf_text(leaf) for leaf in self.leaves]
        for op in self.ops:
            values.append(f"{op.name}({', '.join(values[i] for i in op.args)})")
        return f"= {values[-1]}"

    def macs(self, elements: int) -> int:
        return 0


@dataclass(frozen=True)
class Reduce(Body):
    """out (one channel) = kind over all channels of the sources."""

    kind: str
    sources: tuple[Slot, ...]
    correction: float

    @property
    def adds(self) -> bool:
        return False

    @property
    def text(self) -> str:
        return f"= {self.kind} of {listed([source.text for source in self.sources])}"

    def macs(self, elements: int) -> int:
        return 0


@dataclass(frozen=True)
class Norm(Body):
    """Layer normalisation over channels: out = (x - mean) / sqrt(var + eps) * scale + shift, with the biased variance."""

    source: Slot
    scale: np.ndarray
    shift: np.ndarray
    eps: float

    @property
    def adds(self) -> bool:
        return False

    @property
    def text(self) -> str:
        return f"= layer norm of {self.source.text}"

    def macs(self, elements: int) -> int:
        return 0


@dataclass(frozen=True)
class Attention(Body):
    """out = for each head, the mean of the values at some pixels, weighted by the softmax of their scores.

    The score of pixel k is scale * (query . keys at k) + bias. Query and keys have heads * E channels, out and values
    heads * D; head h takes the h-th E or D of each. At the i-th element of the instruction's rectangle, in raster order, head
    h sees the pixels seen[h * elements + i], or seen[i] if all heads share one mask (masks = 1). Without any, out is 0.

    `bias` is (1 or heads, keys of all lists one after another), or None; 1 if the heads have masks of their own.
    """

    query: Slot
    keys: Cache
    values: Cache
    heads: int
    masks: int
    scale: float
    seen: PixelRuns
    bias: np.ndarray | None

    @property
    def adds(self) -> bool:
        return False

    @property
    def text(self) -> str:
        most = self.seen.counts().max()
        return f"= attention of {self.query.text} to b{self.keys.buffer}, up to {most} pixels"

    def macs(self, elements: int) -> int:
        """By its lists, which are those of all its elements."""
        return int(self.seen.counts().sum()) * ((self.keys.count + self.values.count) // self.masks)

    @property
    def biases(self) -> int:
        """0 without a bias, 1 if all heads share it, otherwise heads."""
        return 0 if self.bias is None else len(self.bias)

    @property
    def elements(self) -> int:
        """How many elements its instruction's rectangle has."""
        return len(self.seen) // self.masks

    def reach_in_row(self, rect: Rect, width: int) -> int | None:
        """How many columns to the right of the running one, at most, anything stands that it reads on the running row.

        None: it reads nothing there. Programs that read later rows have no answer.
        """
        row, col = np.divmod(np.arange(len(self.seen)) % self.elements, rect.col1 - rect.col0)
        last = self.seen.last()
        reaches = [
            last[here] % width + cache.col - (col[here] + rect.col0)
            for cache in self.caches()
            if (here := (last >= 0) & (last // width + cache.row == row + rect.row0)).any()
        ]
        return max((int(reach.max()) for reach in reaches), default=None)


BODIES: tuple[type[Body], ...] = (Product, Lookup, Map, Reduce, Norm, Attention)
"""All kinds of body."""


def unknown_body(body: object, where: str) -> TypeError:
    """What to raise where a body is none of those that are known."""
    return TypeError(f"{where} knows no body of an instruction that is a {type(body).__name__}: give it a case of its own")


def _leaf_text(leaf: Leaf) -> str:
    if isinstance(leaf, (Slot, FieldSlot)):
        return leaf.text
    return "vector" if isinstance(leaf, np.ndarray) else f"{leaf:g}"
