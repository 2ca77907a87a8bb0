"""Mixtures of logistics in the engines: whole models against the naive loop, single draws against the formulas in Python."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from mixture_cases import Masked, Pixels, pixel_program
from native import needs_engine
from oracle import ENGINES, LOG_PROB, compare, trace
from torch import Tensor

import pixelfast
from pixelfast import MixtureOfLogistics, NotAutoregressive, NumericalError
from pixelfast.distributions.mixture import PARAMETER_LAYOUTS
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
