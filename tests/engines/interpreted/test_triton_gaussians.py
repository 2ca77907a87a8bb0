"""Draws from discretized Gaussians by the Triton engine, against the formulas in float64."""

from __future__ import annotations

import pytest
from gaussian_cases import agrees, some_parameters

from pixelfast import Gaussian, MixtureOfGaussians
from pixelfast.engines.triton.engine import TritonEngine

HEADS = [
    MixtureOfGaussians(256, 3, -128),
    MixtureOfGaussians(17, 10, 5, "weight-mean-scale", log_scales=True, scale_min=1e-3),
    MixtureOfGaussians(2, 2),
    Gaussian(33, -16, "mean-scale", scale_min=1e-3),
]


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0, 1e3, 1e30])
@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_draws(head: MixtureOfGaussians, temperature: float) -> None:
    agrees(lambda program, call: TritonEngine(program).run(call), head, some_parameters(head, 25), temperature)
