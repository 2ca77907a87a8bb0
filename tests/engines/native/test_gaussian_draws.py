"""Draws from discretized Gaussians by the native engine, against the formulas in float64."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from gaussian_cases import agrees, some_parameters, subpixel_program
from native import ISAS, needs_engine
from programs import request

from pixelfast import Gaussian, MixtureOfGaussians, NumericalError
from pixelfast.distributions.gaussian import LAYOUTS
from pixelfast.engines.native.engine import CpuEngine

pytestmark = needs_engine

HEADS = [
    MixtureOfGaussians(256, 3, -128),
    MixtureOfGaussians(17, 10, 5, "weight-mean-scale", log_scales=True, scale_min=1e-3),
    MixtureOfGaussians(2, 2),
    Gaussian(256, -128, "mean-scale"),
    Gaussian(33, log_scales=True, scale_min=1e-3),
]
TEMPERATURES = [1e-30, 0.05, 1.0, 3.0, 50.0, 1e3, 1e30]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_draws(head: MixtureOfGaussians, temperature: float, isa: str) -> None:
    agrees(lambda program, call: CpuEngine(program, isa=isa).run(call), head, some_parameters(head, 300), temperature)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    head = MixtureOfGaussians(17, 3, -8, layout)
    agrees(lambda program, call: CpuEngine(program).run(call), head, some_parameters(head, 100), 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_parameters_without_distribution_are_reported(bad: float, place: int) -> None:
    head = MixtureOfGaussians(5, 2)
    parameters = np.ones((1, 1, 4, 6), np.float32)
    parameters[0, 0, 2, place] = bad
    program = subpixel_program(head, 4)
    call = request(program, np.random.default_rng(0), 1, fields=(parameters,))
    with pytest.raises(NumericalError, match="image 0, row 0, column 2, channel 0"):
        CpuEngine(program).run(call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": 6}, "a place of means is 6"),
        ({"component_step": 3}, "a mixture has places beyond its 6 parameters"),
        ({"offset": 2**25}, "an offset of values is"),
        ({"log_scale_min": math.nan}, "least log-scale of a mixture must be finite"),
    ],
)
def test_malformed_programs_are_refused(change: dict[str, object], message: str) -> None:
    program = subpixel_program(MixtureOfGaussians(5, 2), 4)
    assert program.mixture is not None
    with pytest.raises(ValueError, match=message):
        CpuEngine(dataclasses.replace(program, mixture=dataclasses.replace(program.mixture, **change)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs to know where its parameters stand"):
        CpuEngine(dataclasses.replace(program, mixture=None))
