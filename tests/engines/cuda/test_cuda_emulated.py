"""The cluster kernel, run on a processor by the shim, against the reference interpreter."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_cuda import NO_FAILURE, ORDERS, Emulated, Refused, Shape, emulate, missing
from native import close
from oracle import Traced, trace
from programs import normal, probe, request, swept, with_body
from tolerances import LOG_PROB, PROGRAM

from pixelfast.distributions.mixture import MixtureOfLogistics
from pixelfast.engines.base import Request, why_not
from pixelfast.engines.cuda.engine import CAPABILITIES
from pixelfast.engines.reference import run as reference
from pixelfast.ir import program as contract
from pixelfast.ir.contract import limit
from pixelfast.ir.program import Instruction, Map, Op, Product, Program, Rect, Slot
from pixelfast.models import GatedPixelCNN, PixelCNN

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SMALL = (4, 3)  # rows and columns: every switch of a fiber costs


def compare(program: Program, call: Request, shape: Shape, folder: Path, tolerance: float = PROGRAM) -> Emulated:
    expected, result = reference(program, call, poison=True), emulate(program, call, shape, folder)
    assert result.failure == NO_FAILURE
    np.testing.assert_array_equal(result.result.values, expected.values)
    close(result.result.parameters, expected.parameters, tolerance, str(shape))
    np.testing.assert_allclose(result.result.log_prob, expected.log_prob, rtol=LOG_PROB, atol=1e-4)
    return result


@functools.lru_cache
def traced(name: str) -> Traced:
    torch.manual_seed(0)
    if name == "pixelcnn":
        model = PixelCNN((1, *SMALL), levels=5, features=7, blocks=1, norm=True)
    else:
        model = GatedPixelCNN((2, *SMALL), levels=3, features=4, layers=1)
    return trace(model.eval(), model.shape, model.head)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [Shape(), Shape(ranks=3, images=2, threads=64)], ids=["a block", "a cluster"])
@pytest.mark.parametrize("name", ["pixelcnn", "gated"])
def test_model(name: str, shape: Shape, order: str, tmp_path: Path) -> None:
    model = traced(name)
    found = compare(model.compiled.program, model.request(3, seed=1), replace(shape, order=order, seed=4), tmp_path)
    assert found.resident == found.products > 0
    assert found.replica == 0
    assert (found.asyncs > 0) == (shape.ranks > 1)


def test_images_are_the_same_to_the_last_bit_in_any_cluster(tmp_path: Path) -> None:
    model = traced("pixelcnn")
    call = model.request(3, seed=2)
    base = emulate(model.compiled.program, call, Shape(), tmp_path).result
    for shape in (
        Shape(ranks=2, images=2, order="random"), Shape(ranks=5, images=4, threads=96), Shape(images=8, threads=64),
        Shape(ranks=2, shared=2000, order="last"), Shape(ranks=2, images=2, shared=600),
    ):  # fmt: skip
        found = emulate(model.compiled.program, call, shape, tmp_path).result
        np.testing.assert_array_equal(found.parameters, base.parameters, err_msg=str(shape))
        np.testing.assert_array_equal(found.log_prob, base.log_prob, err_msg=str(shape))
    alone = emulate(model.compiled.program, replace(call, noise=call.noise[2:]), Shape(), tmp_path).result
    np.testing.assert_array_equal(alone.parameters, base.parameters[2:])


@pytest.mark.parametrize("order", ORDERS)
def test_what_does_not_fit_stays_in_device_memory(order: str, tmp_path: Path) -> None:
    model = traced("gated")
    found = compare(model.compiled.program, model.request(2, seed=3), Shape(ranks=2, shared=350, order=order), tmp_path)
    assert found.shared_bytes <= 350
    assert found.resident < found.products
    assert found.replica > 0


def test_a_missing_guard_is_found(tmp_path: Path) -> None:
    """The waits that the planner puts before products are needed: without them some order draws other images."""
    program, call = overwriting()
    for order in ORDERS:
        shape = Shape(ranks=2, order=order, threads=64)
        assert compare(program, call, shape, tmp_path).guards > 0
    wrong = 0
    expected = reference(program, call).parameters
    for order in ORDERS:
        found = emulate(program, call, Shape(ranks=2, order=order, threads=64, unguarded=True), tmp_path).result.parameters
        wrong += not np.allclose(found, expected, atol=1e-4)
    assert wrong > 0


def overwriting() -> tuple[Program, Request]:
    """Products that write, again and again, where slow work has still to read."""
    rng = np.random.default_rng(8)
    image, f = Rect(0, 2, 0, 3), 6
    x, y, total = Slot(1, 0, f), Slot(2, 0, f), Slot(3, 0, f)
    instructions: list = [Instruction(total, Map((0.0,), ()), image), Instruction(x, Map((1.0,), ()), image)]
    for _ in range(4):
        instructions.append(Instruction(y, Product((x,), normal(rng, f, f, scale=0.4), normal(rng, f)), image))
        instructions.append(Instruction(total, Map((y, total), (Op("tanh", (0,)), Op("add", (1, 2)))), image))
        instructions.append(Instruction(x, Map((total,), (Op("tanh", (0,)),)), image))
    instructions.append(Instruction(Slot(0, 0, f), Product((total,), normal(rng, f, f), normal(rng, f)), image))
    buffers = tuple(contract.Buffer(name, f, 1, (0, 3), image) for name in ("out", "x", "y", "total"))
    draws = (contract.Draw(0, Slot(0, 0, f)),)
    program = Program((1, 2, 3), f, f, "categorical", buffers, (), (), (tuple(instructions),), draws, ((),))
    return program, request(program, rng, 2)


def test_programs_of_other_kinds_are_refused_on_both_sides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, x = Rect(0, SMALL[0], 0, SMALL[1]), np.zeros((2, *SMALL, 4), np.float32)
    plain = Instruction(Slot(0, 0, 4), Map((Slot(1, 0, 4),), ()), image, "blocks.3")
    strided, fields = probe([x], [plain, replace(plain, lattice=contract.Lattice(2, 0, 1, 0))], 4)
    recurrence, call = swept(rng, *SMALL, 1)
    long, _ = probe([x], [with_body(plain, ops=tuple(Op("neg", (i,)) for i in range(limit("MostOperands"))))], 4)
    for program, given, native, named in (
        (strided, request(strided, rng, 2, fields=fields), "a strided map", "at some rows or columns only"),
        (recurrence, call, "a recurrence along a row", "it has no recurrences along a row"),
        (long, request(long, rng, 2, fields=fields), "49 leaves and operations", "at most 48 operands"),
    ):
        assert named in str(why_not(program, CAPABILITIES))
        with pytest.raises(Refused, match=native):
            emulate(program, given, Shape(), tmp_path)
    assert why_not(probe([x], [plain], 4)[0], CAPABILITIES) is None
    assert "not from mixture_of_logistics" in str(why_not(MixtureOfLogistics(4), CAPABILITIES))


def test_shapes_of_clusters_that_cannot_be(tmp_path: Path) -> None:
    image = Rect(0, SMALL[0], 0, SMALL[1])
    x = np.zeros((2, *SMALL, 4), np.float32)
    program, fields = probe([x], [Instruction(Slot(0, 0, 4), Map((Slot(1, 0, 4),), ()), image)], 4)
    call = request(program, np.random.default_rng(0), 2, fields=fields)
    with pytest.raises(Refused, match="1 to 16 blocks"):
        emulate(program, call, Shape(ranks=17), tmp_path)
    with pytest.raises(Refused, match="too little shared memory"):
        emulate(program, call, Shape(shared=64), tmp_path)
