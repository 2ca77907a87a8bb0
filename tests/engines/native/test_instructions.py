"""Instruction by instruction, the native engine against the reference interpreter."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from expression_cases import FUSED, exact, numbers, random_map
from native import ARRANGEMENTS, HEIGHT, IMAGE, IMAGES, ISAS, WIDTH, close, compare, needs_engine
from programs import normal, probe, request, swept
from tolerances import INSTRUCTION, OPERATION, PROGRAM, ROUNDED

from pixelfast import NumericalError
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.ir import program as contract
from pixelfast.ir.program import (
    BINARY,
    UNARY,
    Buffer,
    Instruction,
    Lookup,
    Map,
    Norm,
    Op,
    Pixel,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)

pytestmark = needs_engine


def compare_instructions(
    inputs: list[np.ndarray], instructions: list, outputs: int, *, drawn: bool = False, tolerance: float = INSTRUCTION
) -> dict[str, np.ndarray]:
    """The same for buffer 0 after some instructions, (N, H, W, outputs); gives back what each instruction set made."""
    program, fields = probe(inputs, instructions, outputs)
    images = inputs[0].shape[0]
    call = request(program, np.random.default_rng(0), images, known=0.0 if drawn else 1.0, fields=fields)
    expected = reference(program, call, poison=True).parameters[..., 0, :]
    result = {isa: CpuEngine(program, isa=isa).run(call).parameters[..., 0, :] for isa in ISAS}
    for isa in ISAS:
        close(result[isa], expected, tolerance, isa)
    return result


# Maps.


@pytest.mark.parametrize("name", contract.OPERATIONS)
def test_operation(name: str) -> None:
    rng = np.random.default_rng(1)
    arity = 1 if name in UNARY else 2 if name in BINARY else 3
    inputs = [numbers(rng, 17) for _ in range(arity)]
    if name in ("log", "sqrt", "rsqrt", "pow"):
        inputs[0] = np.abs(inputs[0])
    if name in ("eq", "ne", "where"):
        inputs[0] = inputs[-1].round() if name == "where" else np.where(rng.random(inputs[0].shape) < 0.5, *inputs)
    leaves = tuple(Slot(i + 1, 0, 17) for i in range(arity))
    made = Instruction(Slot(0, 0, 17), Map(leaves, (Op(name, tuple(range(arity))),)), IMAGE)
    with np.errstate(all="ignore"):
        truth = exact(name, *inputs).astype(np.float32)
    for isa, found in compare_instructions(inputs, [made], 17).items():
        np.testing.assert_allclose(found, truth, rtol=OPERATION.get(name, ROUNDED), atol=2e-38, err_msg=isa)


@pytest.mark.parametrize("name", FUSED)
def test_groups_of_operations(name: str) -> None:
    rng = np.random.default_rng(2)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, 17, scale=2.0) for _ in range(2)]
    made = Instruction(Slot(0, 0, 17), Map((Slot(1, 0, 17), Slot(2, 0, 17), 0.0, 1.0), FUSED[name]), IMAGE)
    compare_instructions(inputs, [made], 17)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_expression(seed: int, drawn: bool) -> None:
    rng = np.random.default_rng(seed)
    features = (2, 3, 16, 17, 70, 1500)[seed]
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 6) for _ in range(2)]
    for _ in range(8):
        compare_instructions(inputs, [random_map(rng, features)], features, drawn=drawn)


# Other instructions.


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("images", [1, 3, 13, 64])
@pytest.mark.parametrize("outputs", [2, 16, 17, 33, 70, 130])
def test_product(outputs: int, images: int, drawn: bool) -> None:
    rng = np.random.default_rng(outputs + images)
    inputs = [normal(rng, images, HEIGHT, WIDTH, features) for features in (17, 5, outputs + 3)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(1, 2, 8, -1, 1), Slot(2, 0, 5, -1, -2))
    weights = normal(rng, sum(tap.count for tap in taps), outputs)
    made = [
        Instruction(Slot(0, 0, outputs), Product(taps, weights, normal(rng, outputs)), IMAGE),
        # Some channels in the middle, added to what is there.
        Instruction(Slot(0, 1, outputs - 1), Product(taps[1:3], weights[17:21, 1:].copy(), None), Rect(1, 6, 1, 4)),
        Instruction(Slot(0, 0, 1), Product((), np.zeros((0, 1), np.float32), normal(rng, 1)), Rect(2, 3, 0, 5)),
        Instruction(Slot(0, 0, 1), Product((), np.zeros((0, 1), np.float32), None), IMAGE),
    ]
    compare_instructions(inputs, made, outputs, drawn=drawn)


@pytest.mark.parametrize("images", [3, 13])
def test_zeros_outside_the_domain(images: int) -> None:
    """Rows below the domain come after rows inside it in the same slots."""
    rng, domain = np.random.default_rng(9), Rect(1, 4, 1, 4)
    taps = tuple(Slot(1, 2, 9, row, col) for row in (-2, -1, 0) for col in (-2, -1, 0, 1, 2) if row < 0 or col <= 0)
    made = [
        Instruction(Slot(0, 0, 17), Product(taps, normal(rng, len(taps) * 9, 17), normal(rng, 17)), IMAGE),
        Instruction(Slot(0, 0, 9), Map((Slot(0, 0, 9), taps[3], taps[9]), (Op("add", (0, 1)), Op("add", (2, 3)))), IMAGE),
        Instruction(Slot(0, 16, 1), Reduce("sum", taps, 0.0), IMAGE),
    ]
    program, fields = probe([normal(rng, images, HEIGHT, WIDTH, 17)], made, 17)
    out, source = program.buffers
    copy, *rest = program.steps[0]
    program = dataclasses.replace(
        program,
        buffers=(out, dataclasses.replace(source, domain=domain)),
        steps=((dataclasses.replace(copy, rect=domain), *rest),),
    )
    for known in (0.0, 0.5, 1.0):
        compare(program, request(program, rng, images, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("kind", contract.REDUCTIONS)
def test_reduction(kind: str) -> None:
    rng = np.random.default_rng(3)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features, scale=4.0) for features in (17, 70)]
    inputs[0][0, 0, 0, 3], inputs[1][1, 1, 1, 5] = math.nan, -math.inf
    inputs[0][2, 2, 2], inputs[1][2, 2, 2] = -math.inf, -math.inf
    sources = (Slot(1, 0, 17), Slot(2, 3, 66), Slot(2, 0, 1, -1, 1))
    made = [Instruction(Slot(0, i, 1), Reduce(kind, sources[: i + 1], 1.0 - i), IMAGE) for i in range(3)]
    compare_instructions(inputs, made, 3)


@pytest.mark.filterwarnings("ignore:var")
def test_variance_of_one_channel() -> None:
    inputs = [normal(np.random.default_rng(3), IMAGES, HEIGHT, WIDTH, 2)]
    made = [Instruction(Slot(0, i, 1), Reduce("var", (Slot(1, 0, 1),), float(i)), IMAGE) for i in range(2)]
    compare_instructions(inputs, made, 2)


@pytest.mark.parametrize("features", [2, 8, 16, 17, 32, 64, 70, 128])
def test_norm(features: int) -> None:
    rng = np.random.default_rng(4)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 1) + 2]
    made = [
        Instruction(Slot(0, 0, features), Norm(Slot(1, 1, features), normal(rng, features), normal(rng, features), 1e-5), IMAGE)
    ]
    compare_instructions(inputs, made, features)


def test_norm_and_map_in_place() -> None:
    rng = np.random.default_rng(4)
    whole = Slot(0, 0, 17)
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), IMAGE),
        Instruction(whole, Norm(whole, normal(rng, 17), normal(rng, 17), 1e-3), IMAGE),
        Instruction(whole, Map((whole, Slot(1, 0, 17)), (Op("mul", (0, 1)), Op("sub", (2, 0)))), IMAGE),
    ]
    compare_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17)


def between(array: np.ndarray, domain: Rect, instructions: list, outputs: int) -> tuple[Program, tuple[np.ndarray, ...]]:
    """The probe with one more buffer, number 2, that only `instructions` use."""
    program, fields = probe([array], instructions, outputs)
    return dataclasses.replace(program, buffers=(*program.buffers, Buffer("between", outputs, 1, (0, WIDTH), domain))), fields


@pytest.mark.parametrize("known", [0.0, 1.0])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("features", [17, 32, 64])
def test_norm_and_relu(features: int, again: bool, known: float) -> None:
    """Which are one instruction if nothing else reads the normalised numbers."""
    rng = np.random.default_rng(4)
    array = normal(rng, IMAGES, HEIGHT, WIDTH, features)
    if known:
        array[1, 2, 3, 4] = math.nan
    out, source, middle = Slot(0, 0, features), Slot(1, 0, features), Slot(2, 0, features)
    made = [
        Instruction(middle, Norm(source, normal(rng, features), normal(rng, features), 1e-5), IMAGE),
        Instruction(out, Map((middle,), (Op("relu", (0,)),)), IMAGE),
    ]
    if again:
        made.append(Instruction(out, Map((out, middle), (Op("sub", (0, 1)),)), IMAGE))
    program, fields = between(array, IMAGE, made, features)
    compare(program, request(program, rng, IMAGES, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_zeros_beside_what_a_pixel_hands_on(known: float) -> None:
    rng, domain = np.random.default_rng(4), Rect(1, 4, 1, 4)
    out, source, middle = Slot(0, 0, 17), Slot(1, 0, 17), Slot(2, 0, 17)
    made = [
        Instruction(middle, Map((source,), (Op("neg", (0,)),)), domain),
        Instruction(out, Map((source, middle), (Op("add", (0, 1)),)), IMAGE),
    ]
    program, fields = between(normal(rng, IMAGES, HEIGHT, WIDTH, 17), domain, made, 17)
    compare(program, request(program, rng, IMAGES, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("drawn", [False, True])
def test_lookup(drawn: bool) -> None:
    rng = np.random.default_rng(5)
    whole, taps = Slot(0, 0, 17), (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0), Pixel(-1, -1, 0))
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), IMAGE),
        Instruction(whole, Lookup(taps, normal(rng, 4, 17, 17)), Rect(0, 6, 0, 4)),
    ]
    compare_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17, drawn=drawn)


# Sweeps.


@pytest.mark.parametrize("images", [1, 3, 13])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 1)])
@pytest.mark.parametrize("sweep", [1, -1])
def test_sweep(sweep: int, shape: tuple[int, int], images: int) -> None:
    """Column by column from either side, and the same bits however the row's other instructions are shared."""
    program, call = swept(np.random.default_rng(images), *shape, sweep, images)
    drawn = compare(program, call, PROGRAM)
    given = np.where(np.arange(shape[0])[:, None, None] < 2, drawn.values, -1).astype(np.int32)
    compare(program, dataclasses.replace(call, given=given), PROGRAM)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa)
        whole = engine.run(call)
        for arrangement in ARRANGEMENTS:
            teams, team, split, _ = arrangement
            if team and split != "parts":
                with pytest.raises(ValueError, match="no such arrangement"):
                    engine.run(call, arrangement=arrangement)
                continue
            found = engine.run(dataclasses.replace(call, threads=teams * max(team, 1)), arrangement=arrangement)
            np.testing.assert_array_equal(found.parameters, whole.parameters, err_msg=f"{isa} {arrangement}")


def test_the_order_of_a_sweep_counts() -> None:
    """The other way round, the same instructions read what is not there."""
    program, call = swept(np.random.default_rng(0), 7, 5, 1)
    turned = tuple(dataclasses.replace(instruction, sweep=-instruction.sweep) for instruction in program.row)
    with pytest.raises(NumericalError):
        reference(dataclasses.replace(program, row=turned), call, poison=True)
    with pytest.raises(ValueError, match="not come to yet"):
        CpuEngine(dataclasses.replace(program, row=turned))
