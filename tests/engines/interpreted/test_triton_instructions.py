"""Instruction by instruction, the Triton engine against the reference interpreter."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from expression_cases import FUSED, exact, numbers, random_map
from native import close
from programs import normal, probe, request, with_body
from tolerances import INSTRUCTION, OPERATION, PROGRAM, ROUNDED, TRITON_OPERATION

from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.arrangement import NAMES
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.engines.triton.stages import Stage, stages
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
from pixelfast.kernels import expressions

# Few enough that a test whose pixels are drawn one by one takes seconds: each launch takes milliseconds.
HEIGHT, WIDTH, IMAGES = 4, 3, 3
IMAGE = Rect(0, HEIGHT, 0, WIDTH)


def check(
    program: Program, fields: tuple[np.ndarray, ...], known: float, tolerance: float = INSTRUCTION, precision: str = "fp32"
) -> np.ndarray:
    """The engine against the reference: values, and parameters, which are given back."""
    images = len(fields[0])
    call = request(program, np.random.default_rng(0), images, known=known, fields=fields)
    expected = reference(program, call, poison=True)
    for arrangement in NAMES if known < 1.0 else ("graph",):  # no pixel of a known row is run by itself
        result = TritonEngine(program, precision, poison=True, arrangement=arrangement).run(call)
        close(result.parameters, expected.parameters, tolerance, arrangement)
        np.testing.assert_array_equal(result.values, expected.values)
        np.testing.assert_allclose(result.log_prob, expected.log_prob, rtol=1e-5, atol=1e-4)
    return result.parameters[..., 0, :]


def check_instructions(
    inputs: list[np.ndarray], instructions: list, outputs: int, *, drawn: bool = False, tolerance: float = INSTRUCTION
) -> np.ndarray:
    return check(*probe(inputs, instructions, outputs), known=0.0 if drawn else 1.0, tolerance=tolerance)


def test_every_operation_has_a_line() -> None:
    assert tuple(sorted(expressions.SOURCE)) == tuple(sorted(contract.OPERATIONS))


@pytest.mark.parametrize("name", contract.OPERATIONS)
def test_operation(name: str) -> None:
    rng = np.random.default_rng(1)
    arity = 1 if name in UNARY else 2 if name in BINARY else 3
    inputs = [numbers(rng, 17) for _ in range(arity)]
    if name in ("log", "sqrt", "rsqrt"):
        inputs[0] = np.abs(inputs[0])
    if name == "pow":
        inputs[1][2] = inputs[1][2].round()  # negative numbers have whole powers
        inputs[0][2, 0, 0, :5] = [0, -0.0, 1, -1, math.inf]
    if name in ("eq", "ne", "where"):
        inputs[0] = inputs[-1].round() if name == "where" else np.where(rng.random(inputs[0].shape) < 0.5, *inputs)
    height, width = inputs[0].shape[1:3]
    made = Instruction(
        Slot(0, 0, 17), Map(tuple(Slot(i + 1, 0, 17) for i in range(arity)), (Op(name, tuple(range(arity))),)),
        Rect(0, height, 0, width),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        truth = exact(name, *inputs).astype(np.float32)
    found = check_instructions(inputs, [made], 17)
    tolerance = TRITON_OPERATION if name in OPERATION else ROUNDED
    np.testing.assert_allclose(found, truth, rtol=tolerance, atol=2e-38)


@pytest.mark.parametrize("name", FUSED)
def test_groups_of_operations(name: str) -> None:
    rng = np.random.default_rng(2)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, 17, scale=2.0) for _ in range(2)]
    check_instructions(
        inputs, [Instruction(Slot(0, 0, 17), Map((Slot(1, 0, 17), Slot(2, 0, 17), 0.0, 1.0), FUSED[name]), IMAGE)], 17
    )


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_expression(seed: int, drawn: bool) -> None:
    rng = np.random.default_rng(seed)
    features = (2, 3, 17, 150)[seed]
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 6) for _ in range(2)]
    for _ in range(1 if drawn else 3):
        made = dataclasses.replace(random_map(rng, features), rect=IMAGE)
        check_instructions(inputs, [made], features, drawn=drawn)


def product_case(rng: np.random.Generator, images: int, outputs: int, tail: list) -> tuple[list[np.ndarray], list]:
    inputs = [normal(rng, images, HEIGHT, WIDTH, features) for features in (17, 5, outputs + 3)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(1, 2, 8, -1, 1), Slot(2, 0, 5, -1, -2))
    weights = normal(rng, sum(tap.count for tap in taps), outputs)
    made = [
        Instruction(Slot(0, 0, outputs), Product(taps, weights, normal(rng, outputs)), IMAGE),
        # Some channels in the middle, added to what is there.
        Instruction(Slot(0, 1, outputs - 1), Product(taps[1:3], weights[17:21, 1:].copy(), None), Rect(1, 3, 1, 2)),
        Instruction(Slot(0, 0, 1), Product((), np.zeros((0, 1), np.float32), normal(rng, 1)), Rect(2, 3, 0, 3)),
        Instruction(Slot(0, 0, 1), Product((), np.zeros((0, 1), np.float32), None), IMAGE),
    ]
    return inputs, [*made, *tail]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(("outputs", "images"), [(2, 1), (17, 3), (130, 2), (33, 19)])
def test_product(outputs: int, images: int, drawn: bool) -> None:
    inputs, made = product_case(np.random.default_rng(outputs + images), images, outputs, [])
    check_instructions(inputs, made, outputs, drawn=drawn)


@pytest.mark.parametrize("drawn", [False, True])
def test_product_in_float16(drawn: bool) -> None:
    """The same as float32 products of numbers that are rounded to float16 beforehand."""
    rng = np.random.default_rng(1)
    inputs, made = product_case(rng, 3, 17, [])
    inputs = [array.astype(np.float16).astype(np.float32) for array in inputs]
    made = [with_body(p, weights=p.body.weights.astype(np.float16).astype(np.float32)) for p in made]
    check(*probe(inputs, made, 17), known=0.0 if drawn else 1.0, precision="fp16")
    large = with_body(made[0], weights=made[0].body.weights * 1e6)  # which float16 does not hold
    exact_weights = [large, *made[1:]]
    check(*probe(inputs, exact_weights, 17), known=0.0 if drawn else 1.0, precision="fp16")


ENDINGS = {
    "relu": ([Op("relu", (0,))], 17, 1),
    "residual": ([Op("add", (0, 1))], 17, 1),
    "gate": ([Op("tanh", (0,)), Op("sigmoid", (2,)), Op("mul", (3, 4)), Op("mul", (5, 1))], 34, 2),
}


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("name", ENDINGS)
def test_stage(name: str, add: bool, normed: bool) -> None:
    """A product and what follows it are one launch; what nobody else reads is not stored."""
    rng = np.random.default_rng(3)
    ops, width, parts = ENDINGS[name]
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features) for features in (17, width)]
    between, out = Slot(3, 0, width), Slot(0, 0, 17)
    taps = (Slot(1, 0, 17), Slot(1, 0, 17, 0, -1))
    first = [Instruction(between, Map((Slot(2, 0, width),), ()), IMAGE)] if add else []
    leaves = (Slot(3, 0, 17), Slot(1, 0, 17), Slot(3, 17, 17)) if parts == 2 else (between, Slot(1, 0, 17))
    ending: list = [Instruction(out, Map(leaves, tuple(ops)), IMAGE)]
    if normed:
        ending.append(Instruction(out, Norm(out, normal(rng, 17), normal(rng, 17), 1e-5), IMAGE))
        if parts == 1:
            ending.insert(0, Instruction(between, Norm(between, normal(rng, 17), normal(rng, 17), 1e-5), IMAGE))
    bias = None if add else normal(rng, width)
    made = [*first, Instruction(between, Product(taps, normal(rng, 34, width), bias), IMAGE), *ending]
    program, fields = probe(inputs, made, 17)
    program = dataclasses.replace(program, buffers=(*program.buffers, Buffer("between", width, 1, (0, WIDTH), IMAGE)))
    found = [stage for stage in stages(program, program.steps[0]) if isinstance(stage, Stage)]
    assert len(found) == 1
    assert len(found[0].parts) == parts
    assert len(found[0].tail) == (1 if normed and parts == 2 else len(ending))
    assert not any(value.startswith("y") for value in found[0].stored)
    check(program, fields, known=0.0, tolerance=PROGRAM)


def test_stage_whose_product_is_read_again() -> None:
    rng = np.random.default_rng(4)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, 17)]
    between, out, taps = Slot(2, 0, 17), Slot(0, 0, 17), (Slot(1, 0, 17),)
    made = [
        Instruction(between, Product(taps, normal(rng, 17, 17), normal(rng, 17)), IMAGE),
        Instruction(out, Map((between,), (Op("relu", (0,)),)), IMAGE),
        Instruction(out, Product((between, Slot(2, 0, 9, 0, -1)), normal(rng, 26, 17), None), IMAGE),
    ]
    program, fields = probe(inputs, made, 17)
    columns = (-1, WIDTH)
    program = dataclasses.replace(program, buffers=(*program.buffers, Buffer("between", 17, 1, columns, IMAGE)))
    first, second = (stage for stage in stages(program, program.steps[0]) if isinstance(stage, Stage))
    assert first.stored == ("y0", "z0")
    assert second.stored == ("y0",)
    check(program, fields, known=0.0)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_zeros_outside_the_domain(known: float) -> None:
    """Rows below the domain come after rows inside it in the same slots."""
    rng, domain, image = np.random.default_rng(9), Rect(1, 3, 1, 2), Rect(0, 6, 0, WIDTH)
    taps = tuple(Slot(1, 2, 9, row, col) for row in (-2, -1, 0) for col in (-2, -1, 0, 1, 2) if row < 0 or col <= 0)
    made = [
        Instruction(Slot(0, 0, 17), Product(taps, normal(rng, len(taps) * 9, 17), normal(rng, 17)), image),
        Instruction(Slot(0, 0, 9), Map((Slot(0, 0, 9), taps[3], taps[9]), (Op("add", (0, 1)), Op("add", (2, 3)))), image),
        Instruction(Slot(0, 16, 1), Reduce("sum", taps, 0.0), image),
    ]
    program, fields = probe([normal(rng, 2, 6, WIDTH, 17)], made, 17)
    out, source = program.buffers
    copy, *rest = program.steps[0]
    program = dataclasses.replace(
        program,
        buffers=(out, dataclasses.replace(source, domain=domain)),
        steps=((dataclasses.replace(copy, rect=domain), *rest),),
    )
    check(program, fields, known, PROGRAM)


@pytest.mark.parametrize("kind", contract.REDUCTIONS)
def test_reduction(kind: str) -> None:
    rng = np.random.default_rng(3)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features, scale=4.0) for features in (17, 150)]
    inputs[0][0, 0, 0, 3], inputs[1][1, 1, 1, 5] = math.nan, -math.inf
    inputs[0][2, 2, 2], inputs[1][2, 2, 2] = -math.inf, -math.inf
    sources = (Slot(1, 0, 17), Slot(2, 3, 146), Slot(2, 0, 1, -1, 1))
    made = [Instruction(Slot(0, i, 1), Reduce(kind, sources[: i + 1], 1.0 - i), IMAGE) for i in range(3)]
    check_instructions(inputs, made, 3)


@pytest.mark.filterwarnings("ignore:var")
def test_variance_of_one_channel() -> None:
    inputs = [normal(np.random.default_rng(3), IMAGES, HEIGHT, WIDTH, 2)]
    check_instructions(
        inputs, [Instruction(Slot(0, i, 1), Reduce("var", (Slot(1, 0, 1),), float(i)), IMAGE) for i in range(2)], 2
    )


@pytest.mark.parametrize("features", [2, 17, 64, 130])
def test_norm(features: int) -> None:
    rng = np.random.default_rng(4)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 1) + 2]
    made = [
        Instruction(Slot(0, 0, features), Norm(Slot(1, 1, features), normal(rng, features), normal(rng, features), 1e-5), IMAGE)
    ]
    check_instructions(inputs, made, features)


def test_norm_and_map_in_place() -> None:
    rng = np.random.default_rng(4)
    whole = Slot(0, 0, 17)
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), IMAGE),
        Instruction(whole, Norm(whole, normal(rng, 17), normal(rng, 17), 1e-3), IMAGE),
        Instruction(whole, Map((whole, Slot(1, 0, 17)), (Op("mul", (0, 1)), Op("sub", (2, 0)))), IMAGE),
    ]
    check_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17)


@pytest.mark.parametrize("drawn", [False, True])
def test_lookup(drawn: bool) -> None:
    rng = np.random.default_rng(5)
    whole, taps = Slot(0, 0, 17), (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0), Pixel(-1, -1, 0))
    made = [
        Instruction(whole, Map((Slot(1, 0, 17),), ()), IMAGE),
        Instruction(whole, Lookup(taps, normal(rng, 4, 17, 17)), Rect(0, 3, 0, 2)),
    ]
    check_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17, drawn=drawn)
