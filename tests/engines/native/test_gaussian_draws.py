"""Programs of discretized Gaussians that do not fit are refused by the native engine; its draws: test_conformance_draws.py."""

from __future__ import annotations

import dataclasses
import math

import pytest
from mixture_cases import pixel_program
from native import needs_engine

from pixelfast import MixtureOfGaussians
from pixelfast.engines.native.engine import CpuEngine

pytestmark = needs_engine


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
    program = pixel_program(MixtureOfGaussians(5, 2), 4)
    assert program.mixture is not None
    with pytest.raises(ValueError, match=message):
        CpuEngine(dataclasses.replace(program, mixture=dataclasses.replace(program.mixture, **change)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs to know where its parameters stand"):
        CpuEngine(dataclasses.replace(program, mixture=None))
