"""Every instruction set and number of threads: what the naive loop draws, and the same bits for an image wherever it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Traced, agree, first, trace

import pixelfast
from pixelfast.distributions.mixture import MixtureOfLogistics
from pixelfast.engines.base import Request, Result
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.models import GatedPixelCNN, PixelCNN

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))

ISAS = cpu.native().isas() if cpu.unavailable_reason() is None else []
COUNTS = (1, 3, 64, 257)
MOST = max(COUNTS)
THREADS = (1, 2, 3)
NAIVE = 4  # images; each costs the naive loop a forward for every sub-pixel
ARRANGEMENTS = [
    (1, 0, "none", 1), (1, 1, "none", 3), (2, 1, "none", 1), (1, 2, "rows", 1), (1, 3, "rows", 2), (2, 2, "parts", 1),
    (1, 2, "parts", 1), (2, 3, "parts", 1),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    traced: Traced
    cond: Any
    request: Request  # of all images
    naive: Result  # of the first few


class Colours(torch.nn.Module):
    """Mixtures of logistics for pixels of three channels, from the rows above and the pixels before."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.config = MixtureOfLogistics(256, 5, 3), {"shape": (3, 4, 3)}
        self.above, self.left = torch.nn.Conv2d(3, 9, (2, 3)), torch.nn.Conv2d(3, 9, (1, 2))
        self.out = torch.nn.Conv2d(9, self.head.parameters, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad = torch.nn.functional.pad
        above, left = self.above(pad(x, (1, 1, 2, 0))[:, :, :-1]), self.left(pad(x, (2, 0))[..., :-1])
        return 4 * self.out(torch.relu(above + left))


def norm() -> tuple[PixelCNN, Any]:
    return PixelCNN((1, 5, 4), levels=4, features=17, blocks=2, norm=True), None


def colour() -> tuple[GatedPixelCNN, Any]:
    return GatedPixelCNN((3, 4, 3), levels=5, features=9, layers=2, classes=3), torch.arange(MOST) % 3


def wide() -> tuple[PixelCNN, Any]:
    """Many rows of it overlap."""
    return PixelCNN((1, 3, 19), levels=3, features=8, blocks=1), None


def mixture() -> tuple[Colours, Any]:
    return Colours(), None


@pytest.fixture(scope="module", params=[norm, colour, wide, mixture], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    module, cond = request.param()
    module.eval()
    traced = trace(module, module.config["shape"], module.head, cond)
    few = first(cond, NAIVE)
    naive = traced.run("naive", traced.request(NAIVE, 0, few), few)
    return Case(traced, cond, traced.request(MOST, 0, cond), naive)


def some(call: Request, images: slice, threads: int = 1) -> Request:
    """Some images of a request."""
    fields = tuple(field[images] if len(field) == len(call.noise) else field for field in call.fields)
    return replace(call, noise=call.noise[images], fields=fields, threads=threads)


def assert_same_bits(found: Result, whole: Result, images: slice, what: object) -> None:
    for name in ("values", "parameters", "log_prob"):
        ours, theirs = getattr(found, name), getattr(whole, name)[images]
        assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes(), f"{name} of images {images}, {what}"


@pytest.mark.parametrize("isa", ISAS)
def test_bits_are_an_image_s_own(case: Case, isa: str) -> None:
    """Whatever the number of images and of threads, and wherever in the batch an image stands."""
    engine = CpuEngine(case.traced.compiled.program, isa=isa)
    whole = engine.run(case.request, arrangement=(1, 0, "none", 1))
    for n in COUNTS:
        for begin in sorted({0, (MOST - n) // 2, MOST - n}):
            images = slice(begin, begin + n)
            for threads in THREADS:
                assert_same_bits(engine.run(some(case.request, images, threads)), whole, images, f"{threads} threads")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", COUNTS[:3])
def test_bits_do_not_depend_on_the_arrangement(case: Case, n: int, isa: str) -> None:
    engine = CpuEngine(case.traced.compiled.program, isa=isa)
    images = slice(5, 5 + n)
    whole = engine.run(case.request)
    for arrangement in ARRANGEMENTS:
        found = engine.run(some(case.request, images, threads=3), arrangement=arrangement)
        assert_same_bits(found, whole, images, arrangement)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", THREADS)
def test_what_the_naive_loop_draws(case: Case, threads: int, isa: str) -> None:
    few = first(case.cond, NAIVE)
    call = some(case.request, slice(0, NAIVE), threads)
    found = CpuEngine(case.traced.compiled.program, isa=isa).run(call)
    assert agree(case.traced, found, case.naive, call, few, f"{isa}, {threads} threads") == 0


@pytest.mark.parametrize("isa", ISAS)
def test_samplers_agree_with_themselves(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by the public way: n, first, batch_size, threads."""
    monkeypatch.setenv("PIXELFAST_ISA", isa)
    torch.manual_seed(0)
    module, labels = colour()
    sampler = pixelfast.compile(module.eval(), cond=labels[:2], engine="cpu")
    whole, log_prob = sampler.sample(MOST, seed=3, cond=labels, threads=1, return_log_prob=True)
    for n, start, size, threads in [(1, 256, None, 1), (3, 100, 2, 2), (64, 7, 13, 3), (257, 0, 64, 2), (257, 0, 257, 3)]:
        part = slice(start, start + n)
        images, found = sampler.sample(
            n, seed=3, first=start, cond=labels[part], batch_size=size, threads=threads, return_log_prob=True
        )
        assert torch.equal(images, whole[part])
        assert torch.equal(found, log_prob[part])
