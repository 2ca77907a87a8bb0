"""What the native engine fuses, and where what it hands on from one instruction to the next may lie."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from native import ARRANGEMENTS, HEIGHT, IMAGE, IMAGES, ISAS, WIDTH, close, needs_engine
from programs import normal, probe, request
from tolerances import PROGRAM

from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.ir.program import Buffer, Draw, Encode, Instruction, Map, Op, Product, Program, Slot
from pixelfast.lowering.given_rows import known_order

pytestmark = needs_engine


def agrees(program: Program, call, isa: str) -> int:
    """Run a program in every arrangement; gives how many instructions run after fusing."""
    expected = reference(program, call, poison=True)
    engine = CpuEngine(program, isa=isa)
    for arrangement in ARRANGEMENTS:
        found = engine.run(call, arrangement=arrangement)
        np.testing.assert_array_equal(found.values, expected.values, err_msg=str(arrangement))
        close(found.parameters, expected.parameters, PROGRAM, f"{isa} {arrangement}")
    return engine.instructions


def ending(kind: str, x: Slot, y: Slot) -> tuple[tuple[Slot, ...], tuple[Op, ...]]:
    """Leaves and operations of a map that ends a product into ``x``."""
    return {
        "relu": ((x,), (Op("relu", (0,)),)),
        "add": ((x, y), (Op("add", (0, 1)),)),
        "added to": ((y, x), (Op("add", (0, 1)),)),
        "add and relu": ((x, y), (Op("add", (1, 0)), Op("relu", (2,)))),
        "twice": ((x, y), (Op("add", (0, 0)),)),
        "relu of one": ((x, y), (Op("add", (0, 1)), Op("relu", (1,)))),
        "difference": ((x, y), (Op("sub", (0, 1)),)),
    }[kind]


FUSED = ("relu", "add", "added to", "add and relu")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("known", [0.0, 0.5])
@pytest.mark.parametrize("features", [2, 17, 43, 96])
@pytest.mark.parametrize("kind", [*FUSED, "twice", "relu of one", "difference"])
def test_product_and_its_ending(kind: str, features: int, known: float, isa: str) -> None:
    rng = np.random.default_rng(1)
    arrays = [normal(rng, IMAGES, HEIGHT, WIDTH, 21), normal(rng, IMAGES, HEIGHT, WIDTH, features)]
    out, middle, other = Slot(0, 0, features), Slot(3, 1, features), Slot(2, 0, features)
    taps = (Slot(1, 0, 21), Slot(1, 4, 9, 0, -1))
    product = Instruction(middle, Product(taps, normal(rng, 30, features, scale=0.2), normal(rng, features)), IMAGE)
    program, fields = probe(arrays, [product, Instruction(out, Map(*ending(kind, middle, other)), IMAGE)], features)
    buffers = (*program.buffers, Buffer("middle", features + 2, 1, (0, WIDTH), IMAGE))
    program = dataclasses.replace(program, buffers=buffers)
    instructions = agrees(program, request(program, rng, IMAGES, known=known, fields=fields), isa)
    assert instructions == 4 - (kind in FUSED)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("change", ["read again", "another place", "adds"])
def test_endings_that_must_stay(change: str, isa: str) -> None:
    """Something else reads the sums, only a part is rectified, or the product adds to what is there."""
    rng, features = np.random.default_rng(2), 12
    arrays = [normal(rng, IMAGES, HEIGHT, WIDTH, 21), normal(rng, IMAGES, HEIGHT, WIDTH, features)]
    out, middle = Slot(0, 0, features), Slot(3, 0, features)
    weights, bias = normal(rng, 21, features, scale=0.2), normal(rng, features)
    made = [
        Instruction(middle, Product((Slot(1, 0, 21),), weights, bias), IMAGE),
        Instruction(out, Map((middle,), (Op("relu", (0,)),)), IMAGE),
    ]
    if change == "read again":
        made.append(Instruction(out, Map((out, middle), (Op("sub", (0, 1)),)), IMAGE))
    if change == "another place":
        part = Slot(3, 1, features - 1)
        made[1:] = [Instruction(Slot(0, 0, features - 1), Map((part,), (Op("relu", (0,)),)), IMAGE)]
        made.append(Instruction(Slot(0, features - 1, 1), Map((Slot(3, 0, 1),), ()), IMAGE))
    if change == "adds":
        made[:1] = [
            Instruction(middle, Map((Slot(2, 0, features),), ()), IMAGE),
            Instruction(middle, Product((Slot(1, 0, 21),), weights, None), IMAGE),
        ]
    program, fields = probe(arrays, made, features)
    program = dataclasses.replace(program, buffers=(*program.buffers, Buffer("middle", features, 1, (0, WIDTH), IMAGE)))
    call = request(program, rng, IMAGES, fields=fields)
    assert agrees(program, call, isa) == 2 + len(made)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_known_rows_do_not_mix_up_what_is_handed_on(known: float, isa: str) -> None:
    """In a known row ``b`` is written before ``a`` is read, though pixel by pixel their lives do not overlap."""
    rng, levels = np.random.default_rng(3), 6
    names = ["x", "y", "a", "b", "c", "d", "out"]
    sizes = [2, 8, 8, 8, 8, 8, levels]
    buffers = tuple(Buffer(name, size, 1, (-1, WIDTH), IMAGE) for name, size in zip(names, sizes, strict=True))
    x, y, a, b, c, d, out = (Slot(i, 0, size) for i, size in enumerate(sizes))

    def product(to: Slot, *taps: Slot) -> Product:
        rows = sum(tap.count for tap in taps)
        return Instruction(to, Product(taps, normal(rng, rows, to.count, scale=rows**-0.5), normal(rng, to.count)), IMAGE)

    before = dataclasses.replace(x, col=-1)
    first = (
        product(a, before),
        product(c, a, dataclasses.replace(y, col=-1)),  # waits for step 1, which writes y
        product(b, before),
        product(d, b),
        product(out, c, d),
    )
    second = (product(y, Slot(0, 0, 1), before), product(out, y, d))
    encodes = tuple((Encode(Slot(0, k, 1), k, normal(rng, 1, levels)),) for k in range(2))
    draws = (Draw(0, out), Draw(1, out))
    program = Program((2, HEIGHT, WIDTH), levels, levels, "categorical", buffers, (), (), (first, second), draws, encodes)
    order = known_order(program)
    assert order is not None
    assert order.index((0, 2)) < order.index((0, 1))
    agrees(program, request(program, rng, IMAGES, known=known), isa)
