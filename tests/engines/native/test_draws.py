"""Draws of the native engine against float64, and parameters that give no distribution."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from native import HEIGHT, IMAGE, ISAS, WIDTH, needs_engine
from programs import normal, probe, request

from pixelfast.engines.base import Request, Result
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.errors import NumericalError
from pixelfast.ir.program import Instruction, Map, Program, Rect, Slot

pytestmark = needs_engine


def draws(logits: np.ndarray, noise: np.ndarray, isa: str, temperature: float = 1.0) -> tuple[Result, Program, Request]:
    """One draw an image, from logits (N, K) with noise (N,)."""
    program, fields = probe([logits[:, None, None, :]], [], logits.shape[1], padding=0)
    copy = Instruction(Slot(0, 0, logits.shape[1]), Map((Slot(1, 0, logits.shape[1]),), ()), Rect(0, 1, 0, 1))
    program = dataclasses.replace(program, steps=((*program.steps[0], copy),))
    call = Request(noise.astype(np.float32).reshape(-1, 1, 1, 1), None, fields, temperature, want_log_prob=True)
    return CpuEngine(program, isa=isa).run(call), program, call


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("levels", [2, 5, 64, 65, 256, 1000, 65536])
def test_categorical_draws(levels: int, isa: str) -> None:
    """Against float64: every value is right, or its noise lies within 1e-6 of the edge that it missed."""
    rng = np.random.default_rng(levels)
    images = 64 if levels > 1000 else 500
    logits, noise = normal(rng, images, levels, scale=2.0), rng.random(images, dtype=np.float32)
    noise[:3] = 0.0, 1.0 - 2.0**-24, 0.5
    result, _, _ = draws(logits, noise, isa, temperature=1.3)
    log_probabilities = torch.from_numpy(logits).double().div(1.3).log_softmax(-1).numpy()
    edges = np.pad(np.exp(log_probabilities).cumsum(-1), ((0, 0), (1, 0)))
    edges[:, -1] = 1.0
    values, image = result.values.reshape(-1), np.arange(images)
    assert (edges[image, values] <= noise + 1e-6).all()
    assert (edges[image, values + 1] >= noise - 1e-6).all()
    np.testing.assert_allclose(result.log_prob, log_probabilities[image, values], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("levels", [3, 65, 300])
def test_impossible_categories_are_never_drawn(levels: int, isa: str) -> None:
    rng = np.random.default_rng(6)
    logits = np.where(rng.random((400, levels)) < 0.7, -np.inf, normal(rng, 400, levels)).astype(np.float32)
    logits[:, levels // 2] = 0.0
    noise = rng.random(400, dtype=np.float32)
    noise[::2] = np.where(rng.random(200) < 0.5, 0.0, 1.0 - 2.0**-24)
    result, program, call = draws(logits, noise, isa)
    np.testing.assert_array_equal(result.values, reference(program, call).values)
    assert np.isfinite(logits[np.arange(400), result.values.reshape(-1)]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_parameters_without_distribution_are_reported(bad: float, isa: str) -> None:
    rng = np.random.default_rng(8)
    array = normal(rng, 5, HEIGHT, WIDTH, 19)
    array[3, 4, 2] = bad  # -infinity is fine for some categories, not for all
    array[2, 5, 1, 18] = -math.inf
    copy = Instruction(Slot(0, 0, 19), Map((Slot(1, 0, 19),), ()), IMAGE)
    program, fields = probe([array], [copy], 19)
    call = request(program, rng, 5, fields=fields, threads=2)
    for run in (CpuEngine(program, isa=isa).run, lambda call: reference(program, call)):
        with pytest.raises(NumericalError, match="image 3, row 4, column 2, channel 0") as caught:
            run(call)
        assert caught.value.position == (3, 4, 2, 0)
