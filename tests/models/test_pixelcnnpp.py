"""PixelCNN++: causal at odd multiples of 4, initialised by data, trained, stored, sampled exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from causal import assert_causal, dependencies, randomise
from oracle import compare, trace

import pixelfast
from learning import assert_initialised, digits, emoji, falls
from pixelfast.errors import InvalidInput
from pixelfast.models import PixelCNNpp
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim, train

SIZE = (8, 12)


def small(channels: int = 3, size: tuple[int, int] = SIZE, **more: object) -> PixelCNNpp:
    torch.manual_seed(0)
    return PixelCNNpp((channels, *size), levels=16, features=5, blocks=1, mixtures=2, **more)


@pytest.mark.parametrize("channels", [1, 3])
def test_sees_the_past_only(channels: int) -> None:
    model = randomise(small(channels, classes=3))
    image = torch.randn(1, channels, *SIZE, dtype=torch.float64)
    seen = dependencies(lambda x: model(x, torch.tensor([2])), image)
    assert_causal(seen, channels, per_pixel=True, width=SIZE[1])


def test_outputs_have_mean_0_and_variance_1_on_the_first_batch() -> None:
    model = small(classes=4, dropout=0.5)
    x, h = torch.randn(17, 3, *SIZE), torch.arange(17) % 4
    model.initialise(x, h)
    assert model.training
    assert_initialised(model, x, h)


def test_training_initialises_once_with_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, levels = digits()
    model = PixelCNNpp((1, 12, 8), levels, features=4, blocks=1, mixtures=2, classes=10)
    batches: list[tuple[int, int]] = []
    monkeypatch.setattr(model, "initialise", lambda x, h: batches.append((len(x), len(h))))
    train(model, images, labels, options=TrainOptions(epochs=2, batch_size=8))
    assert batches == [(8, 8)]


@pytest.mark.parametrize("pixels", [digits, emoji])
def test_learns(pixels: object, tmp_path: Path) -> None:
    images, labels, levels = pixels()  # type: ignore[operator]
    model = PixelCNNpp(tuple(images.shape[1:]), levels, features=8, blocks=1, mixtures=3, dropout=0.1, classes=10)
    falls(model, images, labels, tmp_path)


@pytest.mark.parametrize(("channels", "size"), [(3, (4, 8)), (1, (8, 4)), (3, (8, 12))])
def test_engines_sample_what_the_usual_loop_does(channels: int, size: tuple[int, int]) -> None:
    model = small(channels, size, classes=3)
    labels = torch.tensor([0, 2, 1])
    model.initialise(torch.randn(3, channels, *size), labels)
    traced = trace(model, model.shape, model.head, labels)
    assert compare(traced, 3, cond=labels) == 0
    assert compare(traced, 1, 5, labels[:1], temperature=0.7) == 0
    given = np.full((3, *size, channels), -1, np.int32)
    given[:, : size[0] // 2] = 7
    assert compare(traced, 3, 6, labels, given=given) == 0


def test_log_probabilities_are_those_of_training() -> None:
    model = small(size=(4, 8), classes=3)
    labels = torch.tensor([0, 2])
    model.initialise(torch.randn(2, 3, 4, 8), labels)
    sampler = pixelfast.compile(model)
    images, drawn = sampler.sample(2, seed=0, cond=labels, return_log_prob=True)
    assert sampler.verify(images, seed=0, cond=labels).ok
    scored = sampler.log_prob(images, cond=labels)
    assert drawn.tolist() == pytest.approx(scored.tolist(), rel=1e-5)
    bits = -scored.mean() / math.log(2) / images[0].numel()
    assert bits_per_dim(model, images, labels) == pytest.approx(float(bits), rel=1e-6)


def test_published_size() -> None:
    """160 filters, 5 residual nets at each resolution and one more where the decoder takes the strided output, 10 mixtures."""
    model = PixelCNNpp()
    assert model.head.parameters == 100
    assert [len(layers) for layers in (*model.encoder, *model.decoder)] == [5, 5, 5, 5, 6, 6]
    assert (model.config["features"], model.config["dropout"]) == (160, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (3, 8, 10)}, "4 must divide its rows and columns: got 8 x 10"),
        ({"shape": (2, 8, 8)}, "1 or 3 channels"),
        ({"blocks": 0}, "blocks must be an integer of at least 1"),
        ({"mixtures": 0}, "needs at least 1 mixtures"),
        ({"features": 0}, "features must be"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PixelCNNpp(**arguments)


def test_wrong_inputs() -> None:
    with pytest.raises(InvalidInput, match="got 7 x 5"):
        small()(torch.zeros(1, 3, 7, 5))
    with pytest.raises(InvalidInput, match="conditional on a class and got none"):
        small(classes=3)(torch.zeros(1, 3, *SIZE))
    with pytest.raises(InvalidInput, match="not conditional on h"):
        small()(torch.zeros(1, 3, *SIZE), torch.tensor([0]))
