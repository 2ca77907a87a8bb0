"""Instruction by instruction, the Triton engine against the reference interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from native import close
from programs import normal, probe, request, with_body
from tolerances import INSTRUCTION, PROGRAM

from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.arrangement import NAMES
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.engines.triton.stages import Stage, stages
from pixelfast.ir import program as contract
from pixelfast.ir.program import (
    Buffer,
    Instruction,
    Map,
    Norm,
    Op,
    Product,
    Program,
    Rect,
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


def test_every_operation_has_a_line() -> None:
    assert tuple(sorted(expressions.SOURCE)) == tuple(sorted(contract.OPERATIONS))


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
