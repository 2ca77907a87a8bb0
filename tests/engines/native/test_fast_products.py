"""Products with fewer multiplications: against the reference, and bit for bit against themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import ISAS, needs_engine
from programs import normal, request
from tolerances import FAST_PRODUCT

from pixelfast.engines.base import Request
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.ir.program import Buffer, Draw, Field, FieldSlot, Instruction, Map, Product, Program, Rect, Slot

pytestmark = needs_engine

CELLS = (2, 4)
HEIGHT, PADDING = 6, 9


def row_program(products: list[Product], features: list[int], outputs: int, width: int) -> Program:
    """`products` into buffer 0 for whole rows, from buffers 1, 2, .. that are copied from fields 0, 1, ..."""
    image, columns = Rect(0, HEIGHT, 0, width), (-PADDING, width + PADDING)
    sources = tuple(Buffer(f"in{i}", count, 4, columns, image) for i, count in enumerate(features))
    copies = [Instruction(Slot(i + 1, 0, count), Map((FieldSlot(i, 0, count),), ()), image) for i, count in enumerate(features)]
    return Program(
        shape=(1, HEIGHT, width),
        levels=outputs,
        parameters=outputs,
        head="categorical",
        buffers=(Buffer("out", outputs, 1, (0, width), image), *sources),
        fields=tuple(Field(count, 0, 0, HEIGHT, width, None) for count in features),
        row=tuple(products),
        steps=(tuple(copies),),
        draws=(Draw(0, Slot(0, 0, outputs)),),
        encodes=((),),
    )


def product(rng: np.random.Generator, taps: list[Slot], outputs: int, rect: Rect, *, bias: bool = True) -> Product:
    weights = normal(rng, sum(tap.count for tap in taps), outputs)
    return Instruction(Slot(0, 0, outputs), Product(tuple(taps), weights, normal(rng, outputs) if bias else None), rect)


def runs(rng: np.random.Generator, slot: Slot, lengths: tuple[int, ...]) -> list[Slot]:
    """Run i on row -1 - i, from any column on."""
    firsts = rng.integers(-5, 1, len(lengths))
    return [
        Slot(slot.buffer, slot.channel, slot.count, -1 - i, int(first) + k)
        for i, (first, length) in enumerate(zip(firsts, lengths, strict=True))
        for k in range(length)
    ]


@pytest.mark.parametrize("images", [1, 3, 13])
@pytest.mark.parametrize(
    ("lengths", "width"),
    [((3,), 11), ((3, 2), 13), ((2, 3, 3), 11), ((4, 1), 11), ((5,), 9), ((6, 2), 11), ((7, 7, 7), 11), ((9, 3), 13)],
)
def test_runs_of_any_width(lengths: tuple[int, ...], width: int, images: int) -> None:
    """Odd numbers of columns, odd numbers of channels, taps in any order, one product added to another."""
    rng = np.random.default_rng(sum(lengths) + images)
    outputs, features = int(rng.integers(80, 100)), [int(rng.integers(120, 140)) for _ in range(2)]
    ordered = [tap for i in range(2) for tap in runs(rng, Slot(i + 1, 1, features[i] - 3), lengths)]
    taps = [ordered[i] for i in rng.permutation(len(ordered))]
    products = [
        product(rng, taps, outputs, Rect(0, HEIGHT, 0, width)),
        product(rng, taps, outputs, Rect(1, HEIGHT, 0, width - 1), bias=False),
    ]
    program = row_program(products, features, outputs, width)
    fields = [normal(rng, images, HEIGHT, width, count) for count in features]
    call = request(program, rng, images, fields=fields)
    expected = reference(program, call, poison=True).parameters
    for isa in ISAS:
        for cell in CELLS:
            engine = CpuEngine(program, isa=isa, cell=cell)
            assert engine.fast_products == 2
            atol = FAST_PRODUCT * float(np.abs(expected).max())
            found = engine.run(call).parameters
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=f"{isa}, {cell}")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("outputs", "cell"), [(16, 4), (40, 2), (40, 4), (90, 2), (90, 4)])
def test_outputs_depend_on_their_own_place_alone(outputs: int, isa: str, cell: int) -> None:
    """Bit for bit: whatever the number of images and threads, and wherever the columns of a product end."""
    rng, width, features = np.random.default_rng(outputs), 22, 61
    taps = [Slot(1, 0, features, row, col) for row in (-3, -2, -1) for col in range(-3, 4)]
    made = product(rng, taps, outputs, Rect(0, HEIGHT, 0, width))
    field = normal(rng, 65, HEIGHT, width, features)
    noise = rng.random((65, HEIGHT, width, 1), dtype=np.float32)

    def parameters(images: slice, columns: int, threads: int = 1) -> np.ndarray:
        cut = replace(made, rect=Rect(0, HEIGHT, 0, columns))
        engine = CpuEngine(row_program([cut], [features], outputs, width), isa=isa, cell=cell)
        assert engine.fast_products == 1
        call = Request(noise[images], None, (field[images],), threads=threads, want_parameters=True)
        return engine.run(call).parameters[:, :, :columns]

    whole = parameters(slice(0, 65), width, threads=2)
    for images in (slice(0, 1), slice(7, 9), slice(3, 16), slice(0, 65)):
        np.testing.assert_array_equal(parameters(images, width), whole[images])
    for columns in (16, 17, 21) if cell == 2 else (16, 20):
        np.testing.assert_array_equal(parameters(slice(0, 5), columns), whole[:5, :, :columns])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("outputs", "cell"), [(16, 4), (40, 2)])
def test_a_team_of_more_threads_than_cells(outputs: int, isa: str, cell: int) -> None:
    rng, width, features = np.random.default_rng(7), 11, 61
    taps = [Slot(1, 0, features, row, col) for row in (-3, -2, -1) for col in range(-3, 4)]
    made = product(rng, taps, outputs, Rect(0, HEIGHT, 0, width))
    engine = CpuEngine(row_program([made], [features], outputs, width), isa=isa, cell=cell)
    assert engine.fast_products == 1
    noise, field = rng.random((2, HEIGHT, width, 1), dtype=np.float32), normal(rng, 2, HEIGHT, width, features)
    call = Request(noise, None, (field,), want_parameters=True)
    whole = engine.run(call)
    for team in (2, 5, 16):
        found = engine.run(call, arrangement=(1, team, "parts", 1))
        np.testing.assert_array_equal(found.parameters, whole.parameters)
        np.testing.assert_array_equal(found.values, whole.values)


def test_a_product_that_would_not_gain_stays_plain() -> None:
    rng = np.random.default_rng(0)
    image = Rect(0, HEIGHT, 0, 8)
    separate = [Slot(1, 0, 64, -1, col) for col in (-4, -2, 0, 2)]
    narrow = [Slot(2, 0, 2, -1, col) for col in (-1, 0, 1)]
    program = row_program([product(rng, taps, 64, image) for taps in (separate, narrow)], [64, 2], 64, 8)
    assert CpuEngine(program).fast_products == 0


def test_cells_can_be_turned_off() -> None:
    rng = np.random.default_rng(0)
    taps = [Slot(1, 0, 64, -1, col) for col in (-1, 0, 1)]
    program = row_program([product(rng, taps, 64, Rect(0, HEIGHT, 0, 8))], [64], 64, 8)
    assert [CpuEngine(program, cell=cell).fast_products for cell in (0, 2, 4)] == [0, 1, 1]
    with pytest.raises(ValueError, match="cell"):
        CpuEngine(program, cell=3)
