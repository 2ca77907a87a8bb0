"""Heads: draws follow the distribution, log-probabilities are those of the formula, encodings are what they say."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from goodness_of_fit import chi_square
from oracle import ENGINES
from torch import Tensor, nn

import pixelfast
from pixelfast import Bernoulli, Categorical, CustomHead, InvalidInput, MixtureOfLogistics
from pixelfast.distributions import noise
from pixelfast.distributions.base import Head

DRAWS = 20_000


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


# -------------------------------------------------------------------- heads are values


def scaled(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda images: images * scale


def counted(step: list[float]) -> Callable[[Tensor], Tensor]:
    return lambda images: images * step[0]


GAIN = 0.5


def by_a_global(images: Tensor) -> Tensor:
    return images * GAIN


def softmax(parameters: Tensor) -> Tensor:
    return parameters.softmax(-1)


EQUAL: dict[str, Callable[[], Head]] = {
    "a name": lambda: Categorical(4, encode="unit"),
    "another name": lambda: Categorical(4, encode="symmetric"),
    "other levels": lambda: Categorical(5, encode="unit"),
    "a layout": lambda: Categorical(4, encode="unit", layout="N(KC)HW"),
    "scale and offset": lambda: Categorical(4, encode=(0.5, 1.0)),
    "a table": lambda: Categorical(4, encode=[0.0, 1.0, 2.0, 3.0]),
    "a long table": lambda: Categorical(4096, encode=torch.arange(4096) * 1.0),
    "a long table, one number changed": lambda: Categorical(4096, encode=torch.arange(4096.0) * (torch.arange(4096) != 7)),
    "a function": lambda: Categorical(4, encode=scaled(2.0)),
    "the same code with another number": lambda: Categorical(4, encode=scaled(3.0)),
    "a function that holds a list": lambda: Categorical(4, encode=counted([2.0])),
    "a function of a global": lambda: Categorical(4, encode=by_a_global),
    "bernoulli": lambda: Bernoulli(),
    "bernoulli by probability": lambda: Bernoulli(probability=True),
    "a mixture": lambda: MixtureOfLogistics(4, 2, 1),
    "a mixture of another parameter layout": lambda: MixtureOfLogistics(4, 2, 1, parameter_layout="mixture-major"),
    "functions of one's own": lambda: CustomHead(4, 4, softmax),
    "another function of one's own": lambda: CustomHead(4, 4, lambda parameters: parameters.softmax(-1).flip(-1)),
}


def test_heads_are_equal_by_what_they_hold() -> None:
    made, again = ([make() for make in EQUAL.values()] for _ in range(2))
    for i, one in enumerate(made):
        assert [i == j for j in range(len(again))] == [one == other for other in again]
        assert hash(one) == hash(again[i])
    tables = [0.0, 1.0, 2.0, 3.0], (0, 1, 2, 3), np.arange(4.0), torch.arange(4)
    assert all(Categorical(4, encode=table) == Categorical(4, encode=[0, 1, 2, 3]) for table in tables)


def test_a_changed_head_is_another_value(monkeypatch: pytest.MonkeyPatch) -> None:
    step = [2.0]
    heads = Categorical(4, encode=counted(step)), Categorical(4, encode=counted([2.0]))
    assert heads[0] == heads[1]
    step[0] = 3.0
    assert heads[0] != heads[1]
    named = Categorical(4, encode="unit")
    named.encode = "symmetric"
    assert named == Categorical(4, encode="symmetric") != Categorical(4, encode="unit")
    before = Categorical(4, encode=by_a_global).contents()
    monkeypatch.setattr(sys.modules[__name__], "GAIN", 0.75)
    assert before != Categorical(4, encode=by_a_global).contents()
    head = CustomHead(4, 4, Opaque())
    assert [head == other for other in (head, CustomHead(4, 4, Opaque()))] == [True, False]


class Opaque:
    """A function that Python cannot look into."""

    def __call__(self, parameters: Tensor) -> Tensor:
        return parameters.softmax(-1)

    def __reduce__(self) -> str:
        raise TypeError("not for pickles")


def test_a_sampler_keeps_the_encoding_that_it_was_compiled_with() -> None:
    """Table, function and name may change afterwards: sampling, verifying and scoring go on with what was compiled."""
    step, table = [1.0], torch.tensor([0.0, 1.0])
    named = Categorical(2, encode="unit")
    changes: list[tuple[Head, Callable[[], Any]]] = [
        (Categorical(2, encode=counted(step)), lambda: step.append(step.pop() * 9)),
        (Categorical(2, encode=table), lambda: table.mul_(9.0)),
        (named, lambda: setattr(named, "encode", "symmetric")),
    ]
    for head, change in changes:
        torch.manual_seed(0)
        model = nn.Sequential(nn.ZeroPad2d((1, -1, 0, 0)), nn.Conv2d(1, 2, 1))
        sampler = pixelfast.compile(model, (1, 3, 5), head, engine="reference")
        images = sampler.sample(3, seed=0)
        scores = sampler.log_prob(images)
        change()
        assert torch.equal(sampler.sample(3, seed=0), images)
        assert sampler.verify(images, seed=0).ok
        assert torch.equal(sampler.log_prob(images), scores)
