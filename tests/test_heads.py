"""Heads: draws follow the distribution, log-probabilities are those of the formula, encodings are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import ENGINES

import pixelfast
from pixelfast import Bernoulli, Categorical, InvalidInput, noise

DRAWS = 20_000


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic, and how many standard deviations it lies above its mean (degrees of freedom: K - 1)."""
    expected = probabilities * counts.sum()
    free = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("levels", [2, 7, 40])
def test_categorical_draws_follow_the_softmax(levels: int, temperature: float) -> None:
    logits = torch.randn(levels, generator=torch.Generator().manual_seed(levels))
    uniform = torch.from_numpy(noise.uniforms(3, 0, DRAWS, (1, 1, 1))).flatten()
    drawn = Categorical(levels).draw(logits.expand(DRAWS, levels), uniform, temperature)
    expected = (logits.double() / temperature).softmax(0).numpy()
    assert abs(chi_square(np.bincount(drawn, minlength=levels), expected)) < 4


@pytest.mark.parametrize("probability", [False, True])
def test_bernoulli_draws_follow_the_probability(probability: bool) -> None:
    head = Bernoulli(probability=probability)
    parameter = torch.tensor([0.3]) if probability else torch.tensor([math.log(0.3 / 0.7)])
    uniform = torch.from_numpy(noise.uniforms(4, 0, DRAWS, (1, 1, 1))).flatten()
    drawn = head.draw(parameter.expand(DRAWS, 1), uniform)
    assert abs(chi_square(np.bincount(drawn, minlength=2), np.array([0.7, 0.3]))) < 4


def test_engines_draws_follow_the_distribution_too() -> None:
    """A model without context: every pixel has the distribution of its bias."""

    bias = torch.tensor([0.5, -1.0, 1.5, 0.0])
    model = torch.nn.Conv2d(1, 4, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(bias)  # type: ignore[union-attr]
    for engine in ENGINES:
        images = pixelfast.sample(model, 64, shape=(1, 16, 16), head=Categorical(4), seed=1, engine=engine)
        counts = np.bincount(images.flatten().numpy(), minlength=4)
        assert abs(chi_square(counts, bias.double().softmax(0).numpy())) < 4


def test_draws_by_hand() -> None:
    """P = 1/2, 1/4, 1/4: the value is the number of edges at or below the noise."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log().expand(6, 3)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.9999999], dtype=torch.float64)
    assert Categorical(3).draw(logits, uniform).tolist() == [0, 0, 1, 1, 2, 2]
    assert Bernoulli().draw(torch.zeros(4, 1), torch.tensor([0.0, 0.4, 0.6, 0.99])).tolist() == [0, 0, 1, 1]


def test_impossible_values_are_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    assert Categorical(5).draw(logits, torch.tensor([0.0, 0.5, 1 - 2**-24])).tolist() == [1, 3, 3]


def test_log_prob_by_hand() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0]).log()
    values = torch.tensor([0, 1, 2])
    found = Categorical(3).log_prob(logits.expand(3, 3), values)
    assert torch.allclose(found.exp(), torch.tensor([1 / 7, 2 / 7, 4 / 7], dtype=torch.float64))
    halved = Categorical(3).log_prob(logits.expand(3, 3), values, temperature=0.5)
    assert torch.allclose(halved.exp(), torch.tensor([1 / 21, 4 / 21, 16 / 21], dtype=torch.float64))
    coin = Bernoulli(probability=True).log_prob(torch.tensor([[0.25], [0.25]]), torch.tensor([0, 1]))
    assert torch.allclose(coin.exp(), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_edge_distance_is_zero_inside_and_the_gap_outside() -> None:
    head, logits = Categorical(2), torch.zeros(3, 2)
    uniform = torch.tensor([0.3, 0.3, 0.5 + 1e-6], dtype=torch.float64)
    found = head.edge_distance(logits, uniform, torch.tensor([0, 1, 0]))
    assert found[0] == 0
    assert torch.allclose(found[1:], torch.tensor([0.2, 1e-6], dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("encode", "expected"),
    [
        ("unit", [0.0, 1 / 3, 2 / 3, 1.0]),
        ("symmetric", [-1.0, -1 / 3, 1 / 3, 1.0]),
        ((0.5, -1.0), [-1.0, -0.5, 0.0, 0.5]),
        ([0.0, 5.0, 6.0, 9.0], [0.0, 5.0, 6.0, 9.0]),
        (np.array([0.0, 5.0, 6.0, 9.0]), [0.0, 5.0, 6.0, 9.0]),
        (torch.tensor([[0.0, 5.0, 6.0, 9.0]]), [0.0, 5.0, 6.0, 9.0]),
        (lambda x: x.float().square(), [0.0, 1.0, 4.0, 9.0]),
    ],
)
def test_encodings(encode: object, expected: list[float]) -> None:
    head = Categorical(4, encode=encode)  # type: ignore[arg-type]
    encoded = head.encode_images(torch.arange(4).view(1, 1, 2, 2))
    assert encoded.dtype == torch.float32
    assert torch.allclose(encoded.flatten(), torch.tensor(expected))


def test_integers_stay_integers() -> None:
    encoded = Categorical(4, encode="integer").encode_images(torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2))
    assert encoded.dtype == torch.int64
    assert encoded.flatten().tolist() == [0, 1, 2, 3]


def test_an_encoding_may_differ_between_channels() -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)

    def normalise(images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - mean) / std

    images = torch.randint(256, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Categorical(256, encode=normalise).encode_images(images), normalise(images))


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        ("float", "unknown encoding 'float'"),
        ([0.0, 1.0], r"has shape \(2,\)"),
        (lambda x: x.float() - x.float().mean(), "does not work on each value by itself"),
        (lambda x: x.float()[:, :, :1], "turned images of shape"),
        (object(), "is no encoding"),
    ],
)
def test_wrong_encodings_are_refused(encode: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Categorical(4, encode=encode).table((1, 3, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [1, 0, -3, 2.5, True])
def test_wrong_levels_are_refused(levels: object) -> None:
    with pytest.raises(InvalidInput, match="at least 2 levels"):
        Categorical(levels)  # type: ignore[arg-type]


def test_values_outside_the_levels_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"hold values -1 \.\. 3, but the head has levels 0 \.\. 3"):
        Categorical(4).encode_images(torch.tensor([-1, 3]).view(1, 1, 1, 2))
