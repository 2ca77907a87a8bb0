"""Instructions that run on a lattice: cut by phases of rows and columns, a program does what it did before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from native import ARRANGEMENTS, HEIGHT, IMAGE, ISAS, WIDTH, close, compare, needs_engine, some_images
from programs import Builder, by_phases, normal, probe, request
from tolerances import INSTRUCTION, PROGRAM

from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.ir.program import FieldSlot, Instruction, Lattice, Lookup, Map, Norm, Op, Pixel, Product, Rect, Reduce, Slot
from pixelfast.lowering.wavefront import Wave, wavefront

pytestmark = needs_engine

STEPS = [(2, 2), (3, 1), (1, 3), (4, 4)]
RNG = np.random.default_rng(3)
PIXELS = (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0))
LEAVES = (Slot(1, 0, 17), Slot(2, 4, 1, -1, 1), FieldSlot(0, 0, 17))
TAPS = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(2, 0, 5, -1, -2))
KINDS: dict[str, Instruction] = {
    "product": Instruction(Slot(0, 0, 17), Product(TAPS, normal(RNG, 26, 17), normal(RNG, 17)), IMAGE),
    "added": Instruction(Slot(0, 2, 15), Product(TAPS, normal(RNG, 26, 15), None), Rect(1, 6, 1, 5)),
    "bias": Instruction(Slot(0, 0, 3), Product((), np.zeros((0, 3), np.float32), normal(RNG, 3)), Rect(2, 5, 0, 4)),
    "lookup": Instruction(Slot(0, 0, 17), Lookup(PIXELS, normal(RNG, 3, 17, 17)), IMAGE),
    "map": Instruction(Slot(0, 0, 17), Map(LEAVES, (Op("mul", (0, 1)), Op("add", (3, 2)))), IMAGE),
    "reduce": Instruction(Slot(0, 5, 1), Reduce("var", (Slot(1, 0, 17), Slot(2, 0, 5, -1, -1)), 1.0), IMAGE),
    "norm": Instruction(Slot(0, 0, 17), Norm(Slot(1, 0, 17), normal(RNG, 17), normal(RNG, 17), 1e-5), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("images", [1, 3, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_instruction(kind: str, images: int) -> None:
    """On a lattice of odd steps and phases over what was there, pixel by pixel and whole rows at a time."""
    rng = np.random.default_rng(images)
    inputs = [normal(rng, images, HEIGHT, WIDTH, features) for features in (17, 5)]
    before = Instruction(Slot(0, 0, 17), Map((Slot(1, 0, 17),), (Op("neg", (0,)),)), IMAGE)
    for lattice in (Lattice(2, 1, 2, 1), Lattice(3, 2, 1, 0), Lattice(1, 0, 3, 1), Lattice(9, 8, 1, 0)):
        program, fields = probe(inputs, [before, dataclasses.replace(KINDS[kind], lattice=lattice)], 17)
        everywhere, _ = probe(inputs, [before, KINDS[kind]], 17)
        for known in (0.0, 0.5, 1.0):
            call = request(program, np.random.default_rng(1), images, known=known, fields=fields)
            expected = compare(program, call, PROGRAM).parameters[..., 0, :]
            given = dataclasses.replace(call, given=reference(program, call).values)
            whole = reference(everywhere, given).parameters[..., 0, :]
            on = np.zeros((HEIGHT, WIDTH), bool)
            for row in lattice.rows(0, HEIGHT):
                on[row, list(lattice.columns(0, WIDTH))] = True
            close(expected, np.where(on[..., None], whole, -inputs[0]), INSTRUCTION, "reference")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("images", "known"), [(1, 0.0), (3, 0.4), (33, 0.0), (5, 1.0)])
def test_program(images: int, known: float, steps: tuple[int, int]) -> None:
    builder = Builder(np.random.default_rng(images))
    program, fields = builder.build(), builder.field_values(images)
    call = request(program, np.random.default_rng(7), images, known=known, fields=fields)
    expected = reference(program, call)
    found = compare(by_phases(program, *steps), call, PROGRAM)
    np.testing.assert_array_equal(found.values, expected.values)
    close(found.parameters, expected.parameters, PROGRAM, "reference")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steps", STEPS)
def test_every_arrangement_computes_the_same_bits(isa: str, steps: tuple[int, int]) -> None:
    builder = Builder(np.random.default_rng(3), shape=(2, 9, 14))
    program = by_phases(builder.build(), *steps)
    engine, images = CpuEngine(program, isa=isa), 5
    call = request(program, np.random.default_rng(1), images, known=0.3, fields=builder.field_values(images))
    whole = engine.run(call)
    for arrangement in ARRANGEMENTS:
        found = engine.run(call, arrangement=arrangement)
        for name in ("values", "parameters", "log_prob"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=f"{name} {arrangement}")
    call = dataclasses.replace(call, given=None)
    whole = engine.run(call)
    for chosen in (slice(0, 1), slice(2, 5)):
        np.testing.assert_array_equal(engine.run(some_images(call, chosen)).parameters, whole.parameters[chosen])


@pytest.mark.parametrize(("chunk", "lag"), [(1, 1), (3, 1), (2, 2)])
def test_waves(chunk: int, lag: int) -> None:
    builder = Builder(np.random.default_rng(5))
    program, fields = by_phases(builder.build(), 2, 3), builder.field_values(2)
    call = request(program, np.random.default_rng(7), 2, fields=fields)
    expected = reference(program, call)
    found = reference(program, call, poison=True, wave=Wave(program, wavefront(program), chunk, lag))
    np.testing.assert_array_equal(found.values, expected.values)
    close(found.parameters, expected.parameters, PROGRAM, "wave")
