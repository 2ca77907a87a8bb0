"""The wavefront: rows that overlap compute the same, and rely on nothing that is not there yet."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracle import Traced, trace
from random_models import conditions_of, random_config
from random_trials import traced_model

from pixelfast.distributions.categorical import Categorical
from pixelfast.engines import reference
from pixelfast.lowering.wavefront import Wave, Work, wavefront
from pixelfast.models import GatedPixelCNN, PixelCNN

IMAGES = 2


@dataclass(frozen=True)
class Scrambled(Wave):
    """Work in an order that only the lag forbids from being any other: as threads at different speeds would do it."""

    seed: int = 0

    def order(self) -> list[Work]:
        choose = random.Random(self.seed)
        # A thread runs the work of its rows in order.
        queues: dict[int, deque[Work]] = {}
        for work in super().order():
            queues.setdefault(work.row % 3, deque()).append(work)
        order = []
        while queues:
            last = min(queue[0].step for queue in queues.values())
            ready = [key for key, queue in queues.items() if queue[0].step - last < self.lag]
            key = choose.choice(ready)
            order.append(queues[key].popleft())
            if not queues[key]:
                del queues[key]
        return order


class TooClose(Scrambled):
    """Each row one column too close to the row above."""

    @property
    def skew(self) -> int:
        return super().skew - 1


def compare(traced: Traced, wave: Wave, images: int = IMAGES, cond: object = None) -> None:
    """A wave against row after row: what is read too early is NaN."""
    request = traced.request(images, 0, cond)
    expected = reference.run(traced.compiled.program, request, poison=True)
    found = reference.run(traced.compiled.program, request, poison=True, wave=wave)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.parameters is not None
    assert expected.parameters is not None
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(30))
def test_random_models_run_as_a_wave(number: int) -> None:
    draw = random.Random(number)
    config = random_config(draw, small=True, plain=True)
    chunk, lag = draw.randint(1, 5), draw.randint(1, 4)
    cond = conditions_of(config, IMAGES)
    traced = traced_model(config, cond)
    program = traced.compiled.program
    if program.sweeps:
        return
    compare(traced, Scrambled(program, wavefront(program), chunk, lag, number), cond=cond)


@pytest.fixture(scope="module")
def single_stack() -> Traced:
    torch.manual_seed(0)
    return trace(PixelCNN((1, 9, 12), levels=4, features=8, blocks=2, norm=True).eval(), (1, 9, 12), Categorical(4))


def test_a_7x7_kernel_follows_4_columns_behind(single_stack: Traced) -> None:
    front = wavefront(single_stack.compiled.program)
    assert front.skew() == 4
    assert front.skew(chunk=3) == 6
    assert front.skew(chunk=3, lag=2) == 7


@pytest.mark.parametrize(("chunk", "lag"), [(1, 1), (2, 1), (3, 4)])
def test_any_closer_reads_what_is_not_there(single_stack: Traced, chunk: int, lag: int) -> None:
    program = single_stack.compiled.program
    compare(single_stack, Scrambled(program, wavefront(program), chunk, lag))
    with pytest.raises((AssertionError, IndexError, Exception)):
        compare(single_stack, TooClose(program, wavefront(program), chunk, lag))


def test_two_stacks_need_the_reach_of_all_their_layers() -> None:
    torch.manual_seed(0)
    few, many = (GatedPixelCNN((1, 6, 30), levels=4, features=4, layers=layers).eval() for layers in (2, 6))
    skews = []
    for model in (few, many):
        traced = trace(model, (1, 6, 30), Categorical(4))
        program = traced.compiled.program
        skews.append(wavefront(program).skew())
        compare(traced, Wave(program, wavefront(program)))
    assert skews[1] - skews[0] == 4  # a column for each layer more
