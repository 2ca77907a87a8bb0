"""The contract between Python and C++: what a program is as a stream, written once.

A stream is an array of 64-bit words, and the arrays of float32 that the words refer to. It begins with `MAGIC` and `DIGEST`,
then comes `PROGRAM`, field by field, as the lists of this file say. `pixelfast.ir.stream` writes a program by them;
`pixelfast.ir.contract_cpp` writes the C++ of them, csrc/contract*.h: names, limits, structs, and the functions that read them.
Both sides know a digest of all this, so a program that was built from another contract refuses.

After a change: `python -m pixelfast.ir.contract_cpp`, and build again.

Ranges and sizes are C++ expressions over `LIMITS`, the fields of the struct that stand before, `program`, and, within a body,
the instruction's `out` and `rect`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from .program import BINARY, BODIES, HEADS, OPERATIONS, REDUCTIONS, UNARY

MAGIC = int.from_bytes(b"PIXFAST1", "big")

LIMITS: dict[str, tuple[int, str]] = {
    "Reach": (1 << 20, "rows, columns and offsets lie within +-kReach"),
    "Margin": (1 << 12, "rows and columns beyond the image in which anything runs: a run visits all of them"),
    "MostChannels": (1024, "of an image"),
    "MostLevels": (1 << 16, "values of a sub-pixel, parameters of its distribution, components of a mixture"),
    "MostOffset": (1 << 24, "of values from the integers that they stand for: float32 has all of them"),
    "MostFeatures": (1 << 22, "of a buffer or a field"),
    "MostFloats": (1 << 40, "of all buffers, for one image"),
    "MostPixels": (1 << 30, "that attention can number, and lists or runs of them"),
    "MostKeys": (1 << 40, "of all lists of an attention"),
    "MostThreads": (4096, "of a call"),
    "MostOperands": (48, "leaves and operations of an expression, in the kernel for GPUs"),
}
"""What no program exceeds: in C++ each is a constant with a k before its name."""

NAMES: dict[str, tuple[str, ...]] = {
    "Operation": OPERATIONS,
    "Reduction": REDUCTIONS,
    "Distribution": HEADS,
    "Precision": ("fp32", "fp16w"),
    "Split": ("none", "rows", "parts"),
    "Opcode": tuple(body.__name__ for body in BODIES),
}
"""Enumerations of C++: a name's position is its code in the stream."""

ARGUMENTS = tuple(1 if name in UNARY else 2 if name in BINARY else 3 for name in OPERATIONS)
"""How many arguments each operation has."""


def limit(name: str) -> int:
    """The number of a limit."""
    return LIMITS[name][0]


@dataclass(frozen=True)
class Field:
    """A part of a struct.

    Attributes:
        name: in C++, and in Python unless `path` says otherwise.
        what: for errors: the noun with its article.
        path: the attribute in Python, of an attribute where it has a dot.
    """

    name: str
    what: str = ""
    path: str = ""

    @property
    def attribute(self) -> str:
        return self.path or self.name


@dataclass(frozen=True)
class Word(Field):
    """A whole number of [low, high], in one word."""

    low: str = "-kReach"
    high: str = "kReach"


@dataclass(frozen=True)
class Code(Field):
    """A name's position in one of `NAMES`, in one word."""

    names: str = ""


@dataclass(frozen=True)
class Number(Field):
    """A float32, as the bits of one word."""


@dataclass(frozen=True)
class Array(Field):
    """An array of float32, in two words: its number, and how many floats it has: `count`, or none if it is `optional`."""

    count: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Words(Field):
    """Whole numbers of [low, high]: how many, and they, a word each; `each` is the noun for one of them."""

    each: str = ""

    low: str = "-kReach"
    high: str = "kReach"


@dataclass(frozen=True)
class Arguments(Field):
    """The arguments of an operation, as many as it has, of [0, high]: a word each."""

    high: str = "kMostFeatures"


@dataclass(frozen=True)
class One(Field):
    """Another struct, in place; if it is `optional`, behind a word that says whether it is there."""

    struct: Struct | Variant | None = None
    optional: bool = False


@dataclass(frozen=True)
class Many(Field):
    """Structs: how many (`count`, or any number), and they, one after another; with `nested`, so many such lists."""

    struct: Struct | Variant | None = None
    count: str = ""
    nested: bool = False


@dataclass(frozen=True)
class Check(Field):
    """No part of the stream: a function of C++ that refuses what ranges cannot, once the fields before are read."""


@dataclass(frozen=True)
class Struct:
    """A struct of C++ and its fields in the stream's order.

    Attributes:
        about: a comment.
        later: members that are not in the stream: engines fill them in.
    """

    name: str
    fields: tuple[Field, ...]
    about: str = ""
    later: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One of several structs, arrays or numbers, behind a word that says which: its position here."""

    name: str
    what: str
    options: tuple[Struct | Array | Number, ...]
    about: str = ""


RECT = Struct("Rect", (
    Word("row0", "a first row"), Word("row1", "a last row"), Word("col0", "a first column"), Word("col1", "a last column"),
), "Rows [row0, row1) and columns [col0, col1).")  # fmt: skip
LATTICE = Struct("Lattice", (
    Word("row_step", "a step of rows", low="1"), Word("row_phase", "a phase of rows", low="0", high="row_step - 1"),
    Word("col_step", "a step of columns", low="1"), Word("col_phase", "a phase of columns", low="0", high="col_step - 1"),
), "Rows r with r mod row_step = row_phase, and columns likewise.")  # fmt: skip
BUFFER = Struct("Buffer", (
    Word("features", "a number of features", low="1", high="kMostFeatures"),
    Word("rows", "a number of rows", low="1"),
    Word("col0", "a first column"), Word("col1", "a last column", low="col0"),
    One("domain", struct=RECT),
), "Columns [col0, col1) are stored.")  # fmt: skip
FIELD = Struct("Field", (
    Word("features", "a number of features", low="1", high="kMostFeatures"),
    Word("row0", "a first row"), Word("col0", "a first column"),
    Word("rows", "a number of rows", low="1", high="2 * kReach"),
    Word("cols", "a number of columns", low="1", high="2 * kReach"),
))  # fmt: skip
_CHANNELS = (
    Word("buffer", "a buffer", low="0", high="program.buffers.size() - 1"),
    Word("channel", "a first channel", low="0", high="program.buffers[buffer].features - 1"),
    Word("count", "a number of channels", low="1", high="program.buffers[buffer].features - channel"),
    Word("row", "a row offset"), Word("col", "a column offset"),
)  # fmt: skip
SLOT = Struct("Slot", _CHANNELS)
CACHE = Struct("Cache", _CHANNELS, "Pixel (r, c) stands at (r + row, c + col).")
FIELD_SLOT = Struct("FieldSlot", (
    Word("field", "a field", low="0", high="program.fields.size() - 1"),
    Word("channel", "a first channel", low="0", high="program.fields[field].features - 1"),
    Word("count", "a number of channels", low="1", high="program.fields[field].features - channel"),
))  # fmt: skip
PIXEL = Struct("Pixel", (
    Word("row", "a row offset", high="0"), Word("col", "a column offset"),
    Word("channel", "an image channel", low="0", high="program.channels - 1"),
))  # fmt: skip
OP = Struct("Op", (
    Code("name", "an operation", names="Operation"), Arguments("args", "an argument"),
), "Arguments below the number of leaves are leaves, the others earlier operations.")  # fmt: skip
RUN = Struct("Run", (
    Word("first", "a first pixel", low="0", high="pixels_of(program) - 1"),
    Word("last", "a last pixel", low="first + 1", high="pixels_of(program)"),
), "Pixels [first, last) in raster order.")  # fmt: skip

PRODUCT = Struct("Product", (
    Many("taps", "the number of taps", struct=SLOT),
    Array("weights", "weights", count="channels_of(taps) * out.count"),
    Array("bias", "a bias", count="out.count", optional=True),
), "Weights are (channels of the taps, out.count). Without a bias it adds to what `out` holds.", (
    "std::optional<Slot> added;  // to the sums: see cpu/fuse.cpp",
    "bool relu = false;          // of all that",
))  # fmt: skip
LOOKUP = Struct("Lookup", (
    Many("taps", "the number of taps", struct=PIXEL),
    Array("tables", "look-up tables", count="taps.size() * program.levels * out.count"),
), "Tables are (taps, K, out.count).")  # fmt: skip
LEAF = Variant("Leaf", "a kind of leaf", (
    SLOT, FIELD_SLOT, Array("vector", "a vector", count="out.count"), Number("number", "a number"),
))  # fmt: skip
MAP = Struct("Map", (
    Many("leaves", "the number of leaves", struct=LEAF),
    Many("ops", "the number of operations", struct=OP), Check("check_expression"),
))  # fmt: skip
REDUCE = Struct("Reduce", (
    Code("kind", "a reduction", names="Reduction"), Many("sources", "the number of sources", struct=SLOT),
    Number("correction", "a correction"), Check("check_sources"),
))  # fmt: skip
NORM = Struct("Norm", (
    One("source", struct=SLOT),
    Array("scale", "a scale", count="source.count"), Array("shift", "a shift", count="source.count"),
    Number("eps", "an epsilon"),
), "", ("bool relu = false;  // of the result: see cpu/fuse.cpp",))  # fmt: skip
ATTENTION = Struct("Attention", (
    One("query", struct=SLOT), One("keys", struct=CACHE), One("values", struct=CACHE),
    Word("heads", "a number of heads", low="1", high="kMostFeatures"),
    Word("masks", "a number of masks", low="1", high="heads"), Number("scale", "a scale"), Check("check_heads"),
    Words("offsets", "the number of lists", "seen.offsets", each="an offset", low="0", high="kMostPixels"),
    Many("runs", "the number of runs", "seen.runs", struct=RUN), Check("check_lists"),
    Word("biases", "a number of biases", low="0", high="masks == 1 ? heads : 1"), Check("check_biases"),
    Array("bias", "a bias", count="biases * keys_of(runs)", optional=True),
), "Of each list its first run: offsets (masks * elements of the rectangle + 1). Masks and biases are one for all heads, or "
   "one for each; the bias is (biases, keys of all lists).")  # fmt: skip
BODY = Variant("Body", "an instruction", (PRODUCT, LOOKUP, MAP, REDUCE, NORM, ATTENTION), "In the order of Opcode.")

INSTRUCTION = Struct("Instruction", (
    One("rect", struct=RECT), One("lattice", struct=LATTICE), One("out", struct=SLOT),
    Word("sweep", "a sweep", low="-1", high="1"), One("body", struct=BODY),
), "A sweep runs column by column: 1: from the left, -1: from the right; 0: all columns at once.")  # fmt: skip
DRAW = Struct("Draw", (
    Word("channel", "an image channel", low="0", high="program.channels - 1"), One("source", struct=SLOT),
))  # fmt: skip
ENCODE = Struct("Encode", (
    One("out", struct=SLOT), Word("channel", "an image channel", low="0", high="program.channels - 1"),
    Array("table", "an encoding table", count="out.count * program.levels"),
), "The table is (out.count, K).")  # fmt: skip
MIXTURE = Struct("Mixture", (
    Word("components", "the number of a mixture's components", low="1", high="kMostLevels"),
    Word("component_step", "a step of components", low="1", high="program.parameters"),
    Word("channel_step", "a step of channels", low="0", high="program.parameters"),
    *(Word(name, f"a place of {name}", low="0", high="program.parameters - 1") for name in ("means", "scales")),
    *(Word(name, f"a place of {name}", low="-1", high="program.parameters - 1") for name in ("weights", "coefficients")),
    Number("log_scale_min", "the least log-scale"), Word("log_scales", "a kind of scales", low="0", high="1"),
    Word("offset", "an offset of values", low="-kMostOffset", high="kMostOffset"), Check("check_places"),
), "What the parameters of a mixture mean: see pixelfast/distributions/components.py.")  # fmt: skip
REACH = Struct("Reach", (
    Word("above", "a number of rows", low="1"),
    *(Word(name, "a reach", high="2 * kReach") for name in ("pixels", "chunks", "rows")),
), "How far to the right instructions read what stands `above` rows higher: see lowering/wavefront.py.")  # fmt: skip

PROGRAM = Struct("Program", (
    *(replace(field, path=f"program.{field.name}") for field in (
        Word("channels", "the number of image channels", low="1", high="kMostChannels"),
        Word("height", "the height", low="1"), Word("width", "the width", low="1"),
        Word("levels", "the number of levels", low="2", high="kMostLevels"),
        Word("parameters", "the number of parameters", low="1", high="kMostLevels"),
        Code("head", "a head", names="Distribution"), One("mixture", "a mixture", struct=MIXTURE, optional=True),
        Many("buffers", "the number of buffers", struct=BUFFER), Many("fields", "the number of fields", struct=FIELD),
        Many("row", "the number of instructions", struct=INSTRUCTION),
        Many("steps", "the number of instructions", struct=INSTRUCTION, count="channels", nested=True),
        Many("draws", "the number of draws", struct=DRAW, count="channels"),
        Many("encodes", "the number of encodings", struct=ENCODE, count="channels", nested=True),
    )),
    Words("known_order", "the length of an order", each="a position", low="0", high="positions_of(steps) - 1"),
    Check("check_order"),
    Words("leads", "the number of leads", each="a lead", low="0", high="kMargin + width"), Check("check_leads"),
    Many("reaches", "the number of reaches", struct=REACH),
), "Steps, draws and encodes are one for each channel. The order is that in which known rows run (lowering/given_rows.py): "
   "positions among the instructions of all steps, where each step's are followed by its draw; without one they run like other "
   "rows, column by column. Leads are of the row instructions, for rows that overlap (lowering/wavefront.py).", (
    "int first_row = 0, col0 = 0, col1 = 0;  // what runs: rows [first_row, height), columns [col0, col1)",
))  # fmt: skip
STRUCTS = (
    RECT, LATTICE, BUFFER, FIELD, SLOT, FIELD_SLOT, PIXEL, CACHE, OP, RUN, LEAF, PRODUCT, LOOKUP, MAP, REDUCE, NORM, ATTENTION,
    BODY, INSTRUCTION, MIXTURE, DRAW, ENCODE, REACH, PROGRAM,
)  # fmt: skip
"""All of them, each after those that it holds."""


def columns_behind(pixels: int, chunks: int, rows: int, chunk: int, lag: int) -> int:
    """How many columns a row stays behind the one that a `Reach` is about."""
    return max(pixels, chunks + chunk - 1, rows + chunk - 1) + lag


def steps_of_row(columns: int, most_lead: int, chunk: int, lag: int) -> int:
    """How many steps of a wave pass from the first chunk of a row to its end, at most."""
    return columns + most_lead + 2 * chunk + lag


FORMULAS = (columns_behind, steps_of_row)
"""What both sides compute: sums, products and maxima of whole numbers, which are written in C++ as they stand here."""


def description() -> str:
    """All that the two sides must agree on, as text: comments and the words of messages are no part of it."""
    limits = {name: number for name, (number, _) in LIMITS.items()}
    parts = [f"{struct.name}: {_layout(struct)}" for struct in STRUCTS]
    return "\n".join([str(MAGIC), str(limits), str(NAMES), str(ARGUMENTS), *parts])


def _layout(struct: Struct | Variant) -> list[object]:
    """What stands in the stream, one part after another."""
    return [_named(part) for part in (struct.fields if isinstance(struct, Struct) else struct.options)]


def _named(part: object) -> object:
    if isinstance(part, (Struct, Variant)):
        return part.name
    if isinstance(part, Field):
        said = {key: _named(value) for key, value in vars(part).items() if key not in ("what", "path", "each")}
        return type(part).__name__, said
    return part


DIGEST = int.from_bytes(hashlib.sha256(description().encode()).digest()[:8], "big") >> 1
"""The contract's version: 63 bits, a word of the stream that is not negative."""


def outdated(module: Any) -> str | None:
    """Why a compiled module cannot read our streams; None if it can: both come from one contract."""
    if getattr(module, "contract", None) == DIGEST:
        return None
    return (
        "the compiled engine was built for another version of pixelfast: build it again with `pip install -e .` in the folder "
        "of its source, or `python setup.py build_ext --inplace`"
    )
