"""Mixtures of logistics in the engines: whole models against the naive loop, single draws against the formulas in Python."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from mixture_cases import Masked, Pixels, extremes, pixel_program, some_parameters
from native import ISAS, needs_engine
from oracle import ENGINES, LOG_PROB, compare, trace
from programs import request
from torch import Tensor

import pixelfast
from pixelfast import MixtureOfLogistics, NotAutoregressive, NumericalError
from pixelfast.distributions.mixture import PARAMETER_LAYOUTS
from pixelfast.engines import reference
from pixelfast.engines.base import Request
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.ir.program import Draw, Slot

MIXTURE = MixtureOfLogistics(5, 2, 3).mixture


@pytest.mark.parametrize("order", PARAMETER_LAYOUTS)
@pytest.mark.parametrize(("channels", "levels", "mixtures"), [(1, 2, 1), (1, 256, 5), (3, 7, 3), (3, 256, 10)])
def test_engines_draw_what_the_naive_loop_draws(channels: int, levels: int, mixtures: int, order: str) -> None:
    head = MixtureOfLogistics(levels, mixtures, channels, order)  # type: ignore[arg-type]
    traced = trace(Masked(head), (channels, 7, 5), head)
    given = np.random.default_rng(0).integers(-1, levels, (3, 7, 5, channels)).astype(np.int32)
    given[:, 5:] = -1
    assert compare(traced, 3) == 0
    assert compare(traced, 3, 1, given=given, temperature=0.6) == 0
    assert compare(traced, 1, 2, temperature=1.7) == 0


def test_all_channels_draw_from_the_same_numbers() -> None:
    """Parameters that stand in two pieces are copied once for a pixel, not once for each channel."""

    class InTwoPieces(Masked):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.cat([y[:, 9:], y[:, :9]], 1)

    head = MixtureOfLogistics(5, 2, 3)
    traced = trace(InTwoPieces(head), (3, 7, 5), head)
    program = traced.compiled.program
    assert len({draw.source for draw in program.draws}) == 1
    assert not program.steps[1]
    assert not program.steps[2]
    assert compare(traced, 3) == 0


@pytest.mark.parametrize("engine", [*ENGINES, "naive"])
def test_public_way(engine: str) -> None:
    sampler = pixelfast.compile(Masked(MixtureOfLogistics(256, 10, 3)), (3, 7, 5), engine=engine)
    images, log_prob = sampler.sample(3, seed=1, return_log_prob=True)
    assert sampler.verify(images, seed=1).ok
    torch.testing.assert_close(sampler.log_prob(images), log_prob, rtol=LOG_PROB, atol=LOG_PROB)


@pytest.mark.parametrize("seen", [1, 2, 3])
def test_parameters_may_see_no_colour_of_their_own_pixel(seen: int) -> None:
    """Though green could be told red: the parameters are red's, too."""
    head = MixtureOfLogistics(5, 2, 3)
    with pytest.raises(NotAutoregressive) as caught:
        trace(Masked(head, see_colours=seen), (3, 7, 5), head)
    assert caught.value.layer == "first"
    assert caught.value.offset == (0, 0)
    assert not pixelfast.check(Masked(head, see_colours=seen), (3, 7, 5)).autoregressive


# Single draws.


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("width", [0.3, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize("order", PARAMETER_LAYOUTS)
@pytest.mark.parametrize(("channels", "levels", "mixtures"), [(1, 256, 10), (3, 256, 10), (3, 2, 3), (3, 17, 1)])
def test_draws_of_the_native_engine(
    channels: int, levels: int, mixtures: int, order: str, width: float, temperature: float, isa: str
) -> None:
    """Every value is that of the formulas, or its noise lies at an edge of their distribution; so is its log-probability."""
    pixels = 200
    head = MixtureOfLogistics(levels, mixtures, channels, order)  # type: ignore[arg-type]
    parameters = some_parameters(head, pixels, width)
    noise = np.random.default_rng(1).random((1, 1, pixels, channels), dtype=np.float32)
    noise[0, 0, :3] = np.array([0.0, 1.0 - 2.0**-24, 0.5], np.float32)[:, None]
    for col in range(0, pixels, 40):
        # One pixel's sum of log-probabilities at a time tells which of them is wrong.
        part = slice(col, col + 40)
        program = pixel_program(head, 40)
        call = Request(noise[:, :, part], None, (parameters[:, :, part],), temperature, want_log_prob=True)
        found = CpuEngine(program, isa=isa).run(call)
        assert found.log_prob is not None
        values = torch.from_numpy(found.values).long()
        own = head.conditionals(torch.from_numpy(parameters[:, :, part]).unsqueeze(-2).expand(-1, -1, -1, channels, -1), values)
        uniform = torch.from_numpy(noise[:, :, part]).double()
        assert float(head.edge_distance(own, uniform, values, temperature).max()) <= 1e-7
        expected = head.log_prob(own, values, temperature).sum()
        np.testing.assert_allclose(found.log_prob[0], float(expected), rtol=1e-8, atol=1e-8)


@needs_engine
@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 0.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("mean", [-1000.0, -1.0, 0.1, 1.0, 1000.0])
def test_extremes(mean: float, log_scale: float) -> None:
    program, calls = extremes(mean, log_scale)
    for call in calls:
        found, expected = CpuEngine(program).run(call), reference.run(program, call)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-9)


@needs_engine
@pytest.mark.parametrize("order", PARAMETER_LAYOUTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 9, 19])
def test_parameters_without_distribution_are_reported(bad: float, place: int, order: str) -> None:
    head = MixtureOfLogistics(5, 2, 3, order)  # type: ignore[arg-type]
    parameters = some_parameters(head, 4, 1.0)
    parameters[0, 0, 2, place] = bad
    program = pixel_program(head, 4)
    call = request(program, np.random.default_rng(0), 1, fields=(parameters,))
    given = np.full((1, 1, 4, 3), -1, np.int32)
    given[0, 0, 2, 0] = 3
    for asked, channel in ((call, 0), (dataclasses.replace(call, given=given), 1)):
        for run in (CpuEngine(program).run, lambda request: reference.run(program, request)):
            with pytest.raises(NumericalError, match=f"image 0, row 0, column 2, channel {channel}"):
                run(asked)


def test_the_naive_loop_reports_them_too() -> None:
    class Infinite(Pixels):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.cat([y[:, :5], y[:, 5:6] / 0 * 0 - torch.inf, y[:, 6:]], 1)

    head = MixtureOfLogistics(5, 2, 3)
    with pytest.raises(NumericalError, match="row 0, column 0, channel 0"):
        pixelfast.sample(Infinite(head), shape=(3, 7, 5), head=head, engine="naive")


@needs_engine
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": MixtureOfLogistics(5, 3, 3).mixture}, "a mixture has places beyond its 20 parameters"),
        ({"mixture": dataclasses.replace(MIXTURE, components=0)}, "number of a mixture's components is 0"),
        ({"mixture": dataclasses.replace(MIXTURE, log_scale_min=math.inf)}, "least log-scale of a mixture must be finite"),
        ({"draws": tuple(Draw(channel, Slot(0, 0, 20)) for channel in (1, 0, 2))}, "channels of a pixel in order"),
        ({"head": "categorical", "mixture": None}, "as many parameters as levels"),
    ],
)
def test_malformed_programs_are_refused(change: dict[str, object], message: str) -> None:
    program = pixel_program(MixtureOfLogistics(5, 2, 3), 4)
    with pytest.raises(ValueError, match=message):
        CpuEngine(dataclasses.replace(program, **change))  # type: ignore[arg-type]


@needs_engine
def test_two_channels_are_refused() -> None:
    program = pixel_program(MixtureOfLogistics(5, 2, 3), 4)
    two = dataclasses.replace(program, shape=(2, 1, 4), steps=program.steps[:2], draws=program.draws[:2], encodes=((), ()))
    with pytest.raises(ValueError, match="1 or 3 image channels"):
        CpuEngine(two)
