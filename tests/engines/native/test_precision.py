"""Lower precisions: instructions against the reference engine with rounded weights, then samplers and their errors."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from native import ARRANGEMENTS, ISAS, close, needs_engine
from programs import Builder, normal, probe, request, wide_rows, with_body
from tolerances import INSTRUCTION, PROGRAM

import pixelfast
from pixelfast.engines import registry
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.errors import EngineUnavailable, InvalidInput, VerificationError
from pixelfast.ir.program import Instruction, Map, Op, Product, Program, Rect, Slot
from pixelfast.models import PixelCNN
from pixelfast.precision import PRECISIONS

pytestmark = needs_engine

IMAGE = Rect(0, 7, 0, 5)


def halves(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)


def with_halves(program: Program) -> Program:
    """The program whose products have the weights that fp16w keeps."""

    def rounded(instructions):
        products = (with_body(i, weights=halves(i.body.weights)) if isinstance(i.body, Product) else i for i in instructions)
        return tuple(products)

    return dataclasses.replace(program, row=rounded(program.row), steps=tuple(map(rounded, program.steps)))


# fp16w: float32 arithmetic with rounded weights.


@pytest.mark.parametrize("images", [1, 3, 13])
@pytest.mark.parametrize("outputs", [1, 3, 17, 33, 70, 130])
def test_products_with_halves(outputs: int, images: int) -> None:
    rng = np.random.default_rng(outputs + images)
    inputs = [normal(rng, images, 7, 5, 17), normal(rng, images, 7, 5, 5)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(2, 0, 5, -1, -2))
    weights = normal(rng, 26, outputs) * np.exp(rng.uniform(-16, 0, (26, outputs))).astype(np.float32)  # subnormal ones too
    weights[0] = 1.0
    made = [
        Instruction(Slot(0, 0, outputs), Product(taps, weights, normal(rng, outputs)), IMAGE),
        Instruction(
            Slot(0, outputs // 2, outputs - outputs // 2),
            Product(taps[1:3], normal(rng, 4, outputs - outputs // 2), None),
            IMAGE,
        ),
    ]
    program, fields = probe(inputs, made, max(outputs, 2))
    expected = with_halves(program)
    for known in (0.0, 1.0):
        call = request(program, np.random.default_rng(0), images, known=known, fields=fields)
        truth = reference(expected, call).parameters[..., :outputs]
        for isa in ISAS:
            engine = CpuEngine(program, isa=isa, precision="fp16w")
            assert engine.low_products == 2
            close(engine.run(call).parameters[..., :outputs], truth, INSTRUCTION, isa)


@pytest.mark.parametrize("images", [1, 3, 13])
def test_program_with_halves(images: int) -> None:
    builder = Builder(np.random.default_rng(images), shape=(2, 7, 14))
    program, fields = builder.build(), builder.field_values(images)
    call = request(program, np.random.default_rng(7), images, known=0.3, fields=fields)
    expected = reference(with_halves(program), call, poison=True)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa, precision="fp16w").run(call)
        np.testing.assert_array_equal(found.values, expected.values, err_msg=isa)
        close(found.parameters, expected.parameters, PROGRAM, isa)


@pytest.mark.parametrize("cell", [0, 2, 4])
@pytest.mark.parametrize("images", [1, 13])
def test_rows_with_halves(images: int, cell: int) -> None:
    program = wide_rows(np.random.default_rng(images))
    call = request(program, np.random.default_rng(7), images)
    expected = reference(with_halves(program), call)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa, cell=cell, precision="fp16w")
        assert engine.fast_products == (cell > 0)
        found = engine.run(call)
        np.testing.assert_array_equal(found.values, expected.values, err_msg=isa)
        close(found.parameters, expected.parameters, PROGRAM, isa)


@pytest.mark.parametrize("weight", [65520.0, 1e30, 5e-5, -1e-30])
def test_what_a_half_cannot_hold_stays_float32(weight: float) -> None:
    """65504 is the largest float16; weights below 6e-5 are rounded to multiples of 6e-8."""
    rng = np.random.default_rng(0)
    weights = normal(rng, 9, 17)
    weights[:, 4] = 0.0
    fine = Instruction(Slot(0, 0, 17), Product((Slot(1, 0, 9),), weights.copy(), None), IMAGE)
    weights[0, 4] = weight
    bad = Instruction(Slot(0, 0, 17), Product((Slot(1, 0, 9),), weights, None), IMAGE)
    program, fields = probe([normal(rng, 3, 7, 5, 9)], [fine, bad], 17)
    call = request(program, rng, 3, known=1.0, fields=fields)
    kept = with_body(fine, weights=halves(fine.body.weights))
    truth = reference(dataclasses.replace(program, steps=((program.steps[0][0], kept, program.steps[0][2]),)), call)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa, precision="fp16w")
        assert engine.low_products == 1
        close(engine.run(call).parameters, truth.parameters, INSTRUCTION, isa)


# All precisions.


@pytest.mark.parametrize("precision", cpu.CAPABILITIES.precisions)
def test_every_batch_and_arrangement_computes_the_same_bits(precision: str) -> None:
    rng = np.random.default_rng(3)
    builder = Builder(rng, shape=(2, 5, 9), features=21)
    program, fields = builder.build(), builder.field_values(5)
    call = request(program, rng, 5, fields=fields)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa, precision=precision)
        whole = engine.run(call)
        for first, arrangement in itertools.product((0, 2, 4), [None, *ARRANGEMENTS[:3]]):
            some = tuple(field if len(field) == 1 else field[first:] for field in call.fields)
            part = dataclasses.replace(call, noise=call.noise[first:], fields=some)
            found = engine.run(part, arrangement=arrangement).parameters
            np.testing.assert_array_equal(found, whole.parameters[first:], err_msg=f"{isa} {first} {arrangement}")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return PixelCNN((1, 9, 7), levels=8, features=19, blocks=2)


@pytest.mark.parametrize("precision", cpu.CAPABILITIES.precisions)
@pytest.mark.parametrize("n", [1, 3, 13])
def test_samples_verify(model: torch.nn.Module, n: int, precision: str) -> None:
    sampler = pixelfast.compile(model, engine="cpu", precision=precision)
    assert sampler.precision == precision
    report = sampler.verify(sampler.sample(n, seed=3), seed=3)
    assert report.ok
    assert report.precision == precision
    assert report.tolerance == PRECISIONS[precision].tolerance
    if precision != "fp32":
        assert f"within the tolerance of {precision}" in str(report)
        assert report.parameter_error > 1e-6  # it is not float32
        with pytest.raises(VerificationError, match="NOT within the tolerance"):
            sampler.verify(sampler.sample(n, seed=3), seed=4)


def test_sample_keeps_one_sampler_for_each_precision(model: torch.nn.Module) -> None:
    exact, low = (pixelfast.sample(model, 3, seed=1, precision=precision) for precision in ("fp32", "fp16w"))
    assert torch.equal(low, pixelfast.compile(model, precision="fp16w").sample(3, seed=1))
    assert torch.equal(exact, pixelfast.sample(model, 3, seed=1))


def test_refusals(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="there is no precision 'int8'; precisions are fp32, fp16w"):
        pixelfast.compile(model, precision="int8")
    for engine in ("reference", "naive"):
        with pytest.raises(EngineUnavailable, match=f"the engine '{engine}' has no precision 'fp16w': use engine='cpu'"):
            pixelfast.sample(model, engine=engine, precision="fp16w")
        assert pixelfast.compile(model, engine=engine, precision="fp32").precision == "fp32"
    assert pixelfast.compile(model, precision="fp16w").engine == "cpu"
    entry = dataclasses.replace(registry.ENGINES["cpu"], unavailable_reason=lambda: "it was not built")
    monkeypatch.setitem(registry.ENGINES, "cpu", entry)
    with pytest.raises(EngineUnavailable, match="no engine that has the precision 'fp16w' can run here: cpu: it was not built"):
        pixelfast.compile(model, precision="fp16w")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_not_finite_spoils_its_own_row_only(count: int) -> None:
    rng = np.random.default_rng(count)
    x = normal(rng, 3, 7, 5, count)
    x[1, 2, 3, -1], x[2, 4, 4, 0] = np.inf, np.nan
    weights = np.abs(normal(rng, count, 19)) + np.float32(0.1)
    product = Instruction(Slot(0, 0, 19), Product((Slot(1, 0, count),), weights, normal(rng, 19)), IMAGE)
    program, fields = probe([x], [product], 19)
    call = request(program, rng, 3, known=1.0, fields=fields)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa, precision="fp16w").run(call).parameters[..., 0, :]
        assert np.isposinf(found[1, 2, 3]).all(), isa
        assert np.isnan(found[2, 4, 4]).all(), isa
        found[1, 2, 3] = found[2, 4, 4] = 0.0
        assert np.isfinite(found).all(), isa


def test_only_products_are_rounded() -> None:
    rng = np.random.default_rng(4)
    x = normal(rng, 3, 7, 5, 17)
    made = [
        Instruction(Slot(0, 0, 17), Product((Slot(1, 0, 17),), np.zeros((17, 17), np.float32), normal(rng, 17)), IMAGE),
        Instruction(Slot(0, 0, 17), Map((Slot(0, 0, 17), Slot(1, 0, 17)), (Op("add", (0, 1)),)), IMAGE),
    ]
    program, fields = probe([x], made, 17)
    call = request(program, rng, 3, known=1.0, fields=fields)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa, precision="fp16w").run(call).parameters[..., 0, :]
        np.testing.assert_array_equal(found, x + made[0].body.bias, err_msg=isa)
