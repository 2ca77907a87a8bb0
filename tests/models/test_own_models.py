"""Our own models, grey and RGB, conditional or not, odd sizes, N = 1, 3, 64: every engine draws what the naive loop draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import ENGINES, Traced, agree, first, images_of, trace
from torch import nn

from pixelfast.inputs.conditions import Conditions
from pixelfast.models import GatedPixelCNN, PixelCNN

GREY, RGB = (1, 7, 5), (3, 7, 5)
MOST = 64


def labels() -> torch.Tensor:
    return torch.arange(MOST) % 10


def vectors() -> torch.Tensor:
    return torch.randn(MOST, 6, generator=torch.Generator().manual_seed(0))


def maps() -> dict[str, torch.Tensor]:
    return {"s": torch.randn(MOST, 2, 7, 5, generator=torch.Generator().manual_seed(0))}


def label_and_map() -> dict[str, torch.Tensor]:
    return {"h": labels(), **maps()}


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], object] | None]] = {
    "pixelcnn grey": (lambda: PixelCNN(GREY, levels=4, features=16, blocks=2), None),
    "pixelcnn grey norm skips": (lambda: PixelCNN(GREY, levels=5, features=16, blocks=2, norm=True, skips=True), None),
    "pixelcnn grey original": (lambda: PixelCNN(GREY, levels=256, features=12, blocks=2, residual="original"), None),
    "pixelcnn rgb": (lambda: PixelCNN(RGB, levels=4, features=17, blocks=2), None),
    "pixelcnn rgb norm skips": (lambda: PixelCNN(RGB, levels=4, features=18, blocks=2, norm=True, skips=True), None),
    "pixelcnn rgb no colour": (lambda: PixelCNN(RGB, levels=4, features=16, blocks=2, colour=False), None),
    "pixelcnn rgb original": (lambda: PixelCNN(RGB, levels=4, features=18, blocks=1, residual="original"), None),
    "gated grey": (lambda: GatedPixelCNN(GREY, levels=4, features=16, layers=3), None),
    "gated grey class": (lambda: GatedPixelCNN(GREY, levels=2, features=16, layers=2, classes=10), labels),
    "gated grey vector": (lambda: GatedPixelCNN(GREY, levels=4, features=17, layers=2, vector=6), vectors),
    "gated rgb": (lambda: GatedPixelCNN(RGB, levels=4, features=17, layers=3), None),
    "gated rgb class map": (
        lambda: GatedPixelCNN(RGB, levels=4, features=17, layers=2, classes=10, map_channels=2),
        label_and_map,
    ),
    "gated rgb one stack class": (
        lambda: GatedPixelCNN(RGB, levels=4, features=17, layers=2, classes=10, stacks=1),
        labels,
    ),
    "gated rgb no colour": (lambda: GatedPixelCNN(RGB, levels=4, features=16, layers=2, colour=False), None),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Traced, object]:
    build, cond = CASES[request.param]
    torch.manual_seed(0)
    model = build()
    # Fresh models predict nearly uniform distributions; larger weights make every sub-pixel depend on the others.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    conditions = None if cond is None else cond()
    return trace(model, model.shape, model.head, conditions), conditions  # type: ignore[arg-type]


def test_engines_equal_the_naive_loop(case: tuple[Traced, object]) -> None:
    traced, cond = case
    naive = traced.run("naive", traced.request(MOST, 0, cond), cond)
    for n in (1, 3, MOST):
        part = first(cond, n)
        request = traced.request(n, 0, part)
        for engine in ENGINES:
            found = traced.run(engine, request, part)
            assert agree(traced, found, images_of(naive, n), request, part, f"{engine}, {n} images") == 0


def test_conditions_matter(case: tuple[Traced, object]) -> None:
    traced, cond = case
    if cond is None:
        pytest.skip("an unconditional model")
    turned = Conditions.parse(cond).map(lambda tensor: tensor.roll(1, 0))
    results = [traced.run("reference", traced.request(MOST, 0, c), c) for c in (cond, turned)]
    first_pixels = [result.parameters[:, 0, 0, 0] for result in results if result.parameters is not None]
    # Nothing is drawn before the first pixel, so only the condition can make a difference there.
    assert abs(first_pixels[0] - first_pixels[1]).max() > 1e-3
