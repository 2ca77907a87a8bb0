"""The Triton engine on a GPU: models a to d, shrunk, against the naive loop and the native engine; graphs against launches."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Traced, agree, first, spread_error, trace
from torch import nn
from triton_runs import same_bits

import pixelfast
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.triton.arrangement import OWNED, refuses
from pixelfast.engines.triton.engine import TritonEngine, lacks, unavailable_reason
from pixelfast.errors import NumericalError
from pixelfast.inputs.conditions import Conditions
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelSNAIL
from pixelfast.precision import PRECISIONS

MISSING = unavailable_reason() or ("TRITON_INTERPRET=1 is set" if os.environ.get("TRITON_INTERPRET") == "1" else None)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no GPU to test on: {MISSING}")]

MODELS = {
    "a": lambda: (PixelCNN((1, 9, 7), levels=256, features=64, blocks=2, norm=True), None),
    "b": lambda: (GatedPixelCNN((3, 7, 5), levels=256, features=128, layers=3, classes=10), torch.arange(5)),
    "c": lambda: (PixelCNNpp((3, 8, 4), levels=256, features=160, blocks=1, mixtures=10), None),
    "d": lambda: (PixelSNAIL((1, 7, 5), 512, features=256, blocks=2, residuals=1, key=16, heads=8, embed=64), None),
    "odd": lambda: (GatedPixelCNN((3, 5, 7), levels=5, features=17, layers=2, classes=3), torch.arange(5) % 3),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[Traced, Any]:
    torch.manual_seed(0)
    module, cond = MODELS[request.param]()
    return trace(module.eval(), module.config["shape"], module.head, cond), cond


@pytest.mark.parametrize("n", [1, 5])
def test_what_the_naive_loop_and_the_native_engine_draw(case: tuple[Traced, Any], n: int) -> None:
    traced, cond = case
    few = first(cond, n)
    call = traced.request(n, 0, few)
    found = TritonEngine(traced.compiled.program, arrangement="graph").run(call)
    naive = traced.run("naive", call, few)
    assert agree(traced, found, naive, call, few, "triton") <= 1
    if cpu.unavailable_reason() is None:
        assert agree(traced, found, traced.run("cpu", call), call, few, "triton against cpu") <= 1


@pytest.mark.parametrize("most", [1, 20_000])
def test_captured_graphs_and_plain_launches(case: tuple[Traced, Any], most: int) -> None:
    """Row by row, pixel by pixel, and called again when all graphs exist: the same bits."""
    traced, cond = case
    call = traced.request(5, 1, cond)
    plain = TritonEngine(traced.compiled.program, most_issues=0, arrangement="graph").run(call)
    engine = TritonEngine(traced.compiled.program, most_issues=most, arrangement="graph")
    for _ in range(3):
        same_bits(engine.run(call), plain)
    (session,) = engine._sessions.values()
    assert session._graphs


@pytest.fixture
def walked(case: tuple[Traced, Any]) -> tuple[Traced, Any]:
    if (reason := refuses(case[0].compiled.program)) is not None:
        pytest.skip(reason)
    return case


def test_a_persistent_kernel(walked: tuple[Traced, Any]) -> None:
    """One program that owns all images and several; in graphs, and called again; the naive loop agrees."""
    traced, cond = walked
    call = traced.request(5, 1, cond)
    naive = traced.run("naive", call, cond)
    engine = TritonEngine(traced.compiled.program, arrangement="persistent")
    found = engine.run(call)
    assert agree(traced, found, naive, call, cond, "persistent") <= 1
    for _ in range(2):
        same_bits(engine.run(call), found)
    same_bits(TritonEngine(traced.compiled.program, arrangement="persistent", most_issues=0).run(call), found)
    n = 2 * OWNED[0] + 1
    many = None if cond is None else torch.arange(n) % 3
    call = traced.request(n, 1, many)
    found = TritonEngine(traced.compiled.program, arrangement="persistent").run(call)
    assert agree(traced, found, traced.run("naive", call, many), call, many, "persistent, several programs") <= 2


def test_a_persistent_kernel_in_float16(walked: tuple[Traced, Any]) -> None:
    """Against one forward in float32."""
    traced, cond = walked
    call = traced.request(5, 1, cond)
    found = TritonEngine(traced.compiled.program, "fp16", arrangement="persistent").run(call)
    forced = traced.oracle.parameters(torch.from_numpy(found.values).long(), Conditions.parse(cond)).numpy()
    assert spread_error(found.parameters, forced) <= PRECISIONS["fp16"].tolerance


def test_poison(case: tuple[Traced, Any]) -> None:
    traced, cond = case
    call = traced.request(5, 2, cond)
    same_bits(TritonEngine(traced.compiled.program, poison=True).run(call), TritonEngine(traced.compiled.program).run(call))


def test_known_rows_and_rows_handed_out(case: tuple[Traced, Any]) -> None:
    traced, cond = case
    call = traced.request(5, 3, cond)
    engine = TritonEngine(traced.compiled.program)
    drawn = engine.run(call)
    given = np.full_like(drawn.values, -1)
    given[:, :3] = drawn.values[:, :3]
    rows: list[int] = []
    again = engine.run(dataclasses.replace(call, given=given, on_row=lambda row, _: rows.append(row)))
    np.testing.assert_array_equal(again.values, drawn.values)
    np.testing.assert_allclose(again.parameters, drawn.parameters, rtol=1e-4, atol=1e-4)
    assert rows == list(range(traced.shape[1]))


@pytest.mark.parametrize("stream", [False, True])
def test_the_caller_s_stream(case: tuple[Traced, Any], stream: bool) -> None:
    traced, cond = case
    call = traced.request(5, 4, cond)
    engine = TritonEngine(traced.compiled.program)
    expected = engine.run(call)
    with torch.cuda.stream(torch.cuda.Stream() if stream else None):
        for _ in range(2):
            same_bits(engine.run(call), expected)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precisions(case: tuple[Traced, Any], precision: str) -> None:
    if (reason := lacks(precision)) is not None:
        pytest.skip(reason)
    traced, cond = case
    module = traced.module
    sampler = pixelfast.compile(module, traced.shape, traced.head, cond=cond, engine="triton", precision=precision)
    images = sampler.sample(5, seed=1, cond=cond)
    assert sampler.verify(images, seed=1, cond=cond).ok


def test_a_module_on_the_gpu_is_sampled_there() -> None:
    torch.manual_seed(0)
    module = PixelCNN((1, 7, 5), levels=4, features=17, blocks=1).eval()
    expected = pixelfast.sample(module, 3, seed=1, engine="reference")
    sampler = pixelfast.compile(module.cuda())
    assert sampler.engine == "triton"
    assert torch.equal(sampler.sample(3, seed=1), expected)


def test_bad_parameters_are_found() -> None:
    module = PixelCNN((1, 7, 5), levels=4, features=17, blocks=1).eval()
    nn.init.constant_(next(iter(module.parameters())), float("inf"))
    with pytest.raises(NumericalError):
        pixelfast.sample(module, 3, seed=1, engine="triton")
