"""Draws of the Triton engine by themselves: mixtures of logistics, and more values than one block holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from mixture_cases import TEMPERATURES, agrees, extremes, far_out, pixel_program, some_parameters
from native import close
from programs import request

from pixelfast import MixtureOfLogistics, NumericalError
from pixelfast.distributions.mixture import PARAMETER_LAYOUTS
from pixelfast.engines.base import Request
from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.errors import EngineUnavailable
from pixelfast.ir.program import Buffer, Draw, Encode, Field, FieldSlot, Instruction, Map, Program, Rect, Slot

PIXELS = 9


@pytest.mark.parametrize("width", [0.3, 30.0, 1000.0])
@pytest.mark.parametrize(
    ("channels", "levels", "mixtures", "temperature", "order"),
    [
        (1, 256, 10, 1.0, "colour-major"), (3, 256, 10, 1.0, "colour-major"), (3, 256, 5, 0.5, "mixture-major"),
        (3, 2, 3, 1.0, "mixture-major"), (3, 17, 1, 1.0, "colour-major"), (3, 17, 1, 3.0, "colour-major"),
        (1, 5000, 2, 1.0, "mixture-major"), (3, 33, 40, 1.0, "mixture-major"), (3, 33, 40, 3.0, "colour-major"),
    ],
)  # fmt: skip
def test_mixtures(channels: int, levels: int, mixtures: int, temperature: float, order: str, width: float) -> None:
    """Every value is that of the formulas, or its noise lies at an edge of their distribution; so is its log-probability."""
    head = MixtureOfLogistics(levels, mixtures, channels, order)  # type: ignore[arg-type]
    parameters = some_parameters(head, PIXELS, width)
    noise = np.random.default_rng(1).random((1, 1, PIXELS, channels), dtype=np.float32)
    noise[0, 0, :3] = np.array([0.0, 1.0 - 2.0**-24, 0.5], np.float32)[:, None]
    given = np.random.default_rng(2).integers(-1, levels, noise.shape).astype(np.int32)
    given[:, :, ::2] = -1
    call = Request(noise, given, (parameters,), temperature, want_log_prob=True, want_parameters=True)
    found = TritonEngine(pixel_program(head, PIXELS)).run(call)
    assert found.parameters is not None
    np.testing.assert_array_equal(found.parameters, np.broadcast_to(parameters[:, :, :, None], found.parameters.shape))
    values = torch.from_numpy(found.values).long()
    own = head.conditionals(torch.from_numpy(parameters).unsqueeze(-2).expand(-1, -1, -1, channels, -1), values)
    drawn = torch.from_numpy(given) < 0
    distance = head.edge_distance(own, torch.from_numpy(noise).double(), values, temperature)
    assert float(distance[drawn].max()) <= 1e-9
    expected = head.log_prob(own, values, temperature)[drawn].sum()
    assert found.log_prob is not None
    np.testing.assert_allclose(found.log_prob[0], float(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 0.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("mean", [-1000.0, 0.1, 1.0])
def test_extremes(mean: float, log_scale: float) -> None:
    program, calls = extremes(mean, log_scale)
    for call in calls:
        found, expected = TritonEngine(program).run(call), reference(program, call)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("channels", "levels", "mixtures", "order"),
    [(1, 256, 10, "colour-major"), (3, 256, 3, "mixture-major"), (3, 2, 3, "colour-major"), (3, 17, 1, "mixture-major")],
)
def test_temperatures(channels: int, levels: int, mixtures: int, order: str, temperature: float) -> None:
    head = MixtureOfLogistics(levels, mixtures, channels, order)  # type: ignore[arg-type]
    agrees(lambda program, call: TritonEngine(program).run(call), head, far_out(head, PIXELS), temperature)


@pytest.mark.parametrize("order", PARAMETER_LAYOUTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 9, 19])
def test_mixtures_without_distribution_are_reported(bad: float, place: int, order: str) -> None:
    head = MixtureOfLogistics(5, 2, 3, order)  # type: ignore[arg-type]
    parameters = some_parameters(head, 4, 1.0)
    parameters[0, 0, 2, place] = bad
    program = pixel_program(head, 4)
    call = request(program, np.random.default_rng(0), 1, fields=(parameters,))
    given = np.full((1, 1, 4, 3), -1, np.int32)
    given[0, 0, 2, 0] = 3
    for asked, channel in ((call, 0), (dataclasses.replace(call, given=given), 1)):
        with pytest.raises(NumericalError, match=f"image 0, row 0, column 2, channel {channel}"):
            TritonEngine(program).run(asked)


def categorical_program(levels: int, pixels: int) -> Program:
    """Logits of a row of pixels come as a field; what is drawn is encoded in 3 features."""
    image, out = Rect(0, 1, 0, pixels), Slot(0, 0, levels)
    table = np.random.default_rng(0).standard_normal((3, levels)).astype(np.float32)
    return Program(
        (1, 1, pixels), levels, levels, "categorical",
        (Buffer("logits", levels, 1, (0, pixels), image), Buffer("x", 3, 1, (0, pixels), image)),
        (Field(levels, 0, 0, 1, pixels, None),), (),
        ((Instruction(out, Map((FieldSlot(0, 0, levels),), ()), image),),), (Draw(0, out),),
        ((Encode(Slot(1, 0, 3), 0, table),),),
    )  # fmt: skip


@pytest.mark.parametrize(("levels", "temperature"), [(2048, 1.0), (2049, 0.3), (5003, 1.0), (5003, 0.3), (65_536, 1.0)])
def test_more_values_than_a_block(levels: int, temperature: float) -> None:
    """Edges everywhere: at the first and the last value, in the last block, and where most values are impossible."""
    rng, pixels = np.random.default_rng(levels), 3
    logits = rng.standard_normal((2, 1, pixels, levels)).astype(np.float32) * 3
    logits[0, 0, 0, 1:] = -math.inf
    logits[0, 0, 1, :-1] = -math.inf
    logits[0, 0, 2, : levels - 3] = -math.inf
    program = categorical_program(levels, pixels)
    call = request(program, rng, 2, fields=(logits,), temperature=temperature)
    call.noise[1, 0, :2, 0] = 0.0, 1.0 - 2.0**-24
    found, expected = TritonEngine(program).run(call), reference(program, call)
    np.testing.assert_array_equal(found.values, expected.values)
    close(found.parameters, expected.parameters, 0.0, "triton")
    np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-9)
    for place, bad in ((levels - 1, math.nan), (0, math.inf), (slice(None), -math.inf))[: 3 if levels < 10_000 else 1]:
        broken = logits.copy()
        broken[1, 0, 0, place] = bad
        with pytest.raises(NumericalError, match="image 1, row 0, column 0"):
            TritonEngine(program).run(dataclasses.replace(call, fields=(broken,)))


def test_bfloat16_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match=r"interpreter multiplies bfloat16 wrongly\. Use precision='fp16' or 'fp32'"):
        TritonEngine(categorical_program(3, 2), "bf16")
