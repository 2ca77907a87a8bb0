"""A table of instructions for all engines: one or a few of them on random inputs, of all sizes and at all edges.

Each case exists for images of 7x5 pixels; those that interpreters and emulators run, for images of 4x3, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import attention_cases
import numpy as np
from attention_cases import fields_of, program_of
from conformance import Case
from expression_cases import FUSED, numbers, random_map
from programs import Generator, normal, probe, request, swept
from tolerances import ATTENTION, INSTRUCTION, PROGRAM

from pixelfast.engines.base import Request
from pixelfast.ir import program as contract
from pixelfast.ir.program import (
    BINARY,
    UNARY,
    Buffer,
    FieldSlot,
    Instruction,
    Lattice,
    Lookup,
    Map,
    Norm,
    Op,
    Pixel,
    PixelRuns,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)


@dataclass(frozen=True)
class Size:
    height: int
    width: int
    images: int

    @property
    def image(self) -> Rect:
        return Rect(0, self.height, 0, self.width)

    def numbers(self, rng: Generator, features: int, scale: float = 1.0) -> np.ndarray:
        return normal(rng, self.images, self.height, self.width, features, scale=scale)


LARGE, SMALL = Size(7, 5, 3), Size(4, 3, 3)
Made = tuple[Sequence[np.ndarray], Sequence[Instruction], int]
"""Inputs, instructions, and how many features they write."""
CASES: dict[str, Case] = {}


def add(name: str, make: Callable[[], Made], known: float, tolerance: float = INSTRUCTION, **flags: bool) -> None:
    """A case whose values are a fraction ``known`` of all given: row by row if they are, pixel by pixel if they are not."""

    def made() -> tuple[Program, Request]:
        inputs, instructions, outputs = make()
        program, fields = probe(inputs, instructions, outputs)
        return program, request(program, np.random.default_rng(0), len(inputs[0]), known=known, fields=fields)

    how = {0.0: "drawn", 1.0: "given"}.get(known, "partly given")
    CASES[f"{name}, {how}"] = Case(made, tolerance, drawn=known < 1.0, **flags)


def add_all(name: str, make: Callable[[Size], Made], known: Sequence[float] = (0.0, 1.0)) -> None:
    """The case in both sizes."""
    for fraction in known:
        add(name, lambda: make(LARGE), fraction)
    add(f"{name}, small", lambda: make(SMALL), known[-1], small=True)


# Expressions.


def operation(name: str) -> Made:
    rng = np.random.default_rng(1)
    arity = 1 if name in UNARY else 2 if name in BINARY else 3
    inputs = [numbers(rng, 17) for _ in range(arity)]
    if name in ("log", "sqrt", "rsqrt", "pow"):
        inputs[0] = np.abs(inputs[0])
    if name in ("eq", "ne", "where"):
        inputs[0] = inputs[-1].round() if name == "where" else np.where(rng.random(inputs[0].shape) < 0.5, *inputs)
    body = Map(tuple(Slot(i + 1, 0, 17) for i in range(arity)), (Op(name, tuple(range(arity))),))
    return inputs, [Instruction(Slot(0, 0, 17), body, LARGE.image)], 17


def group(name: str, size: Size) -> Made:
    rng = np.random.default_rng(2)
    body = Map((Slot(1, 0, 17), Slot(2, 0, 17), 0.0, 1.0), FUSED[name])
    return [size.numbers(rng, 17, 2.0) for _ in range(2)], [Instruction(Slot(0, 0, 17), body, size.image)], 17


def expression(seed: int, features: int, size: Size) -> Made:
    """Random operations on leaves of every kind: broadcast slots, fields, vectors, numbers."""
    rng = np.random.default_rng(seed)
    inputs = [size.numbers(rng, features + 6) for _ in range(2)]
    return inputs, [replace(random_map(rng, features), rect=size.image)], features


for operation_name in contract.OPERATIONS:
    add(f"operation {operation_name}", lambda name=operation_name: operation(name), 1.0, small=True)
for group_name in FUSED:
    add_all(group_name, lambda size, name=group_name: group(name, size), (1.0,))
for seed in range(12):
    wide = (2, 3, 16, 17, 70, 1500)[seed % 6]
    add_all(f"expression {seed}", lambda size, seed=seed, wide=wide: expression(seed, min(wide, 10 * size.height**2), size))


# Products and look-ups.


def product(outputs: int, images: int, size: Size) -> Made:
    """Taps beside the image, channels in the middle, sums without a bias, and products of no taps."""
    rng, size = np.random.default_rng(outputs + images), replace(size, images=images)
    inputs = [size.numbers(rng, features) for features in (17, 5, outputs + 3)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(1, 2, 8, -1, 1), Slot(2, 0, 5, -1, -2))
    weights = normal(rng, sum(tap.count for tap in taps), outputs)
    none = np.zeros((0, 1), np.float32)
    made = [
        Instruction(Slot(0, 0, outputs), Product(taps, weights, normal(rng, outputs)), size.image),
        Instruction(Slot(0, 1, outputs - 1), Product(taps[1:3], weights[17:21, 1:].copy(), None), Rect(1, 3, 1, 2)),
        Instruction(Slot(0, 0, 1), Product((), none, normal(rng, 1)), Rect(2, 3, 0, size.width)),
        Instruction(Slot(0, 0, 1), Product((), none, None), size.image),
    ]
    return inputs, made, outputs


def lookup(size: Size) -> Made:
    rng = np.random.default_rng(5)
    whole, taps = Slot(0, 0, 17), (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0), Pixel(-1, -1, 0))
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), size.image),
        Instruction(whole, Lookup(taps, normal(rng, 4, 17, 17)), Rect(0, size.height - 1, 0, size.width - 1)),
    ]
    return [size.numbers(rng, 17)], made, 17


for wide in (2, 16, 17, 33, 70, 130):
    for count in (1, 3, 13, 64):
        for fraction in (0.0, 1.0):
            add(
                f"product {wide} x {count}",
                lambda wide=wide, count=count: product(wide, count, LARGE),
                fraction,
                multiplies=True,
            )
for wide, count in ((2, 1), (17, 3), (130, 2), (33, 19)):
    for fraction in (0.0, 1.0):
        make_small = lambda wide=wide, count=count: product(wide, count, SMALL)  # noqa: E731
        add(f"product {wide} x {count}, small", make_small, fraction, small=True, multiplies=True)
add_all("lookup", lookup, (1.0, 0.0))


# Reductions and norms.


def reduction(kind: str, size: Size) -> Made:
    rng = np.random.default_rng(3)
    inputs = [size.numbers(rng, features, 4.0) for features in (17, 70)]
    inputs[0][0, 0, 0, 3], inputs[1][1, 1, 1, 5] = math.nan, -math.inf
    inputs[0][2, 2, 2], inputs[1][2, 2, 2] = -math.inf, -math.inf
    sources = (Slot(1, 0, 17), Slot(2, 3, 66), Slot(2, 0, 1, -1, 1))
    made = [Instruction(Slot(0, i, 1), Reduce(kind, sources[: i + 1], 1.0 - i), size.image) for i in range(3)]
    return inputs, made, 3


def variance_of_one(size: Size) -> Made:
    made = [Instruction(Slot(0, i, 1), Reduce("var", (Slot(1, 0, 1),), float(i)), size.image) for i in range(2)]
    return [size.numbers(np.random.default_rng(3), 2)], made, 2


def norm(features: int, size: Size, spread: float = 1.0) -> Made:
    """Of numbers around 2. Those that hardly differ are multiples of 2**-20: no rounding of theirs is taken for the norm's."""
    rng = np.random.default_rng(4)
    inputs = 2 + size.numbers(rng, features + 1, spread)
    inputs = np.round(inputs * 2**20) / 2**20 if spread < 1 else inputs
    body = Norm(Slot(1, 1, features), normal(rng, features), normal(rng, features), 1e-5 if spread == 1 else 1e-12)
    return [inputs.astype(np.float32)], [Instruction(Slot(0, 0, features), body, size.image)], features


def in_place(size: Size) -> Made:
    rng, whole = np.random.default_rng(4), Slot(0, 0, 17)
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), size.image),
        Instruction(whole, Norm(whole, normal(rng, 17), normal(rng, 17), 1e-3), size.image),
        Instruction(whole, Map((whole, Slot(1, 0, 17)), (Op("mul", (0, 1)), Op("sub", (2, 0)))), size.image),
    ]
    return [size.numbers(rng, 17)], made, 17


for reduction_name in contract.REDUCTIONS:
    add_all(f"reduce {reduction_name}", lambda size, kind=reduction_name: reduction(kind, size), (1.0,))
add_all("variance of one channel", variance_of_one, (1.0,))
for wide in (2, 8, 16, 17, 32, 64, 70, 128):
    add_all(f"norm {wide}", lambda size, wide=wide: norm(wide, size), (1.0,))
for wide in (7, 16, 64):
    add_all(f"norm {wide} of numbers that hardly differ", lambda size, wide=wide: norm(wide, size, 2e-3), (0.0, 1.0))
add_all("in place", in_place)


# Domains.


def beside(size: Size, domain: Rect, make: Callable[[Generator], list[Instruction]], known: float) -> tuple[Program, Request]:
    """Instructions that share a buffer, number 2, which is stored in a domain only."""
    rng = np.random.default_rng(4)
    program, fields = probe([size.numbers(rng, 17)], make(rng), 17)
    buffers = (*program.buffers, Buffer("between", 17, 1, (0, size.width), domain))
    return replace(program, buffers=buffers), request(program, rng, size.images, known=known, fields=fields)


def normed_and_cut(rect: Rect, again: bool) -> Callable[[Generator], list[Instruction]]:
    """A norm and a ReLU, one instruction if nothing else reads what stands between."""
    out, source, middle = Slot(0, 0, 17), Slot(1, 0, 17), Slot(2, 0, 17)

    def make(rng: Generator) -> list[Instruction]:
        made = [
            Instruction(middle, Norm(source, normal(rng, 17), normal(rng, 17), 1e-5), rect),
            Instruction(out, Map((middle,), (Op("relu", (0,)),)), rect),
        ]
        return [*made, Instruction(out, Map((out, middle), (Op("sub", (0, 1)),)), rect)] if again else made

    return make


def zeros_beside(rect: Rect, domain: Rect) -> Callable[[Generator], list[Instruction]]:
    out, source, middle = Slot(0, 0, 17), Slot(1, 0, 17), Slot(2, 0, 17)
    return lambda rng: [
        Instruction(middle, Map((source,), (Op("neg", (0,)),)), domain),
        Instruction(out, Map((source, middle), (Op("add", (0, 1)),)), rect),
    ]


def outside(size: Size, known: float) -> tuple[Program, Request]:
    """Rows below the domain come after rows inside it in the same slots."""
    rng, domain = np.random.default_rng(9), Rect(1, size.height - 2, 1, size.width - 1)
    taps = tuple(Slot(1, 2, 9, row, col) for row in (-2, -1, 0) for col in (-2, -1, 0, 1, 2) if row < 0 or col <= 0)
    ops = (Op("add", (0, 1)), Op("add", (2, 3)))
    made = [
        Instruction(Slot(0, 0, 17), Product(taps, normal(rng, len(taps) * 9, 17), normal(rng, 17)), size.image),
        Instruction(Slot(0, 0, 9), Map((Slot(0, 0, 9), taps[3], taps[9]), ops), size.image),
        Instruction(Slot(0, 16, 1), Reduce("sum", taps, 0.0), size.image),
    ]
    program, fields = probe([size.numbers(rng, 17)], made, 17)
    out, source = program.buffers
    copy, *rest = program.steps[0]
    steps = ((replace(copy, rect=domain), *rest),)
    program = replace(program, buffers=(out, replace(source, domain=domain)), steps=steps)
    return program, request(program, rng, size.images, known=known, fields=fields)


for fraction in (0.0, 0.5, 1.0):
    for size, small in ((LARGE, False), (SMALL, True)):
        of, inner = f"{fraction} given{', small' * small}", Rect(1, size.height - 1, 1, size.width - 1)
        make_outside = lambda size=size, known=fraction: outside(size, known)  # noqa: E731
        CASES[f"zeros outside the domain, {of}"] = Case(make_outside, PROGRAM, small, multiplies=True, drawn=fraction < 1.0)
        flags, made_beside = {"small": small}, zeros_beside(size.image, inner)
        CASES[f"zeros beside what a pixel hands on, {of}"] = Case(
            lambda size=size, inner=inner, make=made_beside, known=fraction: beside(size, inner, make, known),
            PROGRAM,
            small=small,
        )
        for again in (False, True):
            made_normed = normed_and_cut(size.image, again)
            CASES[f"norm and ReLU{', read again' * again}, {of}"] = Case(
                lambda size=size, make=made_normed, known=fraction: beside(size, size.image, make, known), PROGRAM, small=small
            )


# Lattices and sweeps.

STEPS = (Lattice(2, 1, 2, 1), Lattice(3, 2, 1, 0), Lattice(1, 0, 3, 1), Lattice(9, 8, 1, 0))


def on_lattice(kind: str, lattice: Lattice, size: Size) -> Made:
    """Over what was there before."""
    rng, image = np.random.default_rng(3), size.image
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(2, 0, 5, -1, -2))
    leaves = (Slot(1, 0, 17), Slot(2, 4, 1, -1, 1), FieldSlot(0, 0, 17))
    pixels = (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0))
    kinds = {
        "product": (Slot(0, 0, 17), Product(taps, normal(rng, 26, 17), normal(rng, 17))),
        "added": (Slot(0, 2, 15), Product(taps, normal(rng, 26, 15), None)),
        "bias": (Slot(0, 0, 3), Product((), np.zeros((0, 3), np.float32), normal(rng, 3))),
        "lookup": (Slot(0, 0, 17), Lookup(pixels, normal(rng, 3, 17, 17))),
        "map": (Slot(0, 0, 17), Map(leaves, (Op("mul", (0, 1)), Op("add", (3, 2))))),
        "reduce": (Slot(0, 5, 1), Reduce("var", (Slot(1, 0, 17), Slot(2, 0, 5, -1, -1)), 1.0)),
        "norm": (Slot(0, 0, 17), Norm(Slot(1, 0, 17), normal(rng, 17), normal(rng, 17), 1e-5)),
    }
    before = Instruction(Slot(0, 0, 17), Map((Slot(1, 0, 17),), (Op("neg", (0,)),)), image)
    out, body = kinds[kind]
    rect = Rect(1, size.height - 1, 0, size.width - 1) if kind in ("added", "bias") else image
    return [size.numbers(rng, 17), size.numbers(rng, 5)], [before, Instruction(out, body, rect, lattice=lattice)], 17


for kind in ("product", "added", "bias", "lookup", "map", "reduce", "norm"):
    for number, lattice in enumerate(STEPS):
        for fraction in (0.0, 0.5, 1.0):
            name = f"{kind} on a lattice of {lattice.row_step} x {lattice.col_step}"
            make_on = lambda kind=kind, on=lattice: on_lattice(kind, on, LARGE)  # noqa: E731
            add(name, make_on, fraction, PROGRAM, multiplies=kind in ("product", "added"))
        if number == 0:
            add(f"{name}, small", lambda kind=kind, on=lattice: on_lattice(kind, on, SMALL), 0.5, PROGRAM, small=True)

for sweep in (1, -1):
    side = "left" if sweep == 1 else "right"
    for height, width in ((7, 5), (5, 7), (2, 1)):
        for images in (1, 3, 13):
            CASES[f"sweep from the {side}, {height}x{width}, {images} images"] = Case(
                lambda h=height, w=width, s=sweep, n=images: swept(np.random.default_rng(n), h, w, s, n),
                PROGRAM,
                composed=True,
                multiplies=True,
            )
    CASES[f"sweep from the {side}, small"] = Case(
        lambda s=sweep: swept(np.random.default_rng(2), 3, 4, s, 2), PROGRAM, small=True, composed=True
    )


# Attention.


def attention(name: str, known: float, images: int) -> tuple[Program, Request]:
    rng = np.random.default_rng(4)
    program = program_of(attention_cases.CASES[name], rng)
    return program, request(program, rng, images, known=known, fields=fields_of(program, rng, images))


def steep(biases: int) -> tuple[Program, Request]:
    """Scores of thousands, of which one counts; or biases that exclude most pixels."""
    rng = np.random.default_rng(6)
    program = program_of(attention_cases.Case(prefix=True, biases=biases), rng)
    fields = tuple(field * np.float32(1 if biases else 30) for field in fields_of(program, rng, 2))
    *before, last = program.steps[0]
    if biases:
        seen: PixelRuns = last.body.seen
        bias = np.where(rng.random(last.body.bias.shape) < 0.7, -np.inf, last.body.bias).astype(np.float32)
        bias[:, np.cumsum(seen.counts())[seen.counts() > 0] - 1] = 0.0
        program = replace(program, steps=((*before, replace(last, body=replace(last.body, bias=bias))),))
    return program, request(program, rng, 2, known=1.0, fields=fields)


DRAWN = ("some of the pixels before", "a bias for each head", "keys a pixel late", "a part of the image")
"""Pixel by pixel takes an interpreter seconds each."""
HALVED = ("wide", "whole vectors", "a mask and a bias for each head", "one channel")
"""So do keys and values in float16."""
for name in attention_cases.CASES:
    for fraction in (0.0, 0.5, 1.0):
        make_attention = lambda name=name, known=fraction: attention(name, known, 3)  # noqa: E731
        CASES[f"attention, {name}, {fraction} given"] = Case(make_attention, ATTENTION, multiplies=True)
    for fraction in (1.0, 0.0) if name in DRAWN else (1.0,):
        make_attention = lambda name=name, known=fraction: attention(name, known, 2)  # noqa: E731
        flags = {"small": True, "multiplies": name in HALVED and fraction == 1.0, "drawn": fraction < 1.0}
        CASES[f"attention, {name}, {fraction} given, small"] = Case(make_attention, ATTENTION, **flags)
for biases in (0, 1):
    CASES[f"attention, {'biases that exclude' if biases else 'steep'}"] = Case(
        lambda biases=biases: steep(biases), ATTENTION, small=True, drawn=False
    )
