"""Discretized Gaussians: published formulas, a hundred digits, layouts, extremes, draws, whole models, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_cases import Latents, exact
from goodness_of_fit import chi_square
from oracle import compare, trace
from torch import Tensor

import pixelfast
from pixelfast import Gaussian, InvalidInput, MixtureOfGaussians
from pixelfast.distributions import noise
from pixelfast.distributions.gaussian import LAYOUTS, SINGLE

DRAWS = 20_000
TEMPERATURES = [0.05, 1.0, 3.0, 1e3, 1e30]


def published(x: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """The likelihood as compression models compute it, in float64, without tails at the ends."""
    scales, away = scales.clamp_min(0.11), (x - means).abs()

    def phi(t: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-(2**-0.5) * t)

    return phi((0.5 - away) / scales) - phi((-0.5 - away) / scales)


def test_the_published_likelihood() -> None:
    head = MixtureOfGaussians(64, 3, offset=-32)
    parameters = torch.randn(500, 9, generator=torch.Generator().manual_seed(0)).double() * 5
    scales, means, logits = parameters.unflatten(-1, (3, 3)).unbind(1)
    values = torch.arange(1, 63).expand(500, -1)
    each = [published(values - 32, scales[:, i, None], means[:, i, None]) for i in range(3)]
    expected = (torch.stack(each, -1) * logits.softmax(-1).unsqueeze(1)).sum(-1)
    found = head.probabilities(parameters)
    torch.testing.assert_close(found[:, 1:63], expected, rtol=1e-7, atol=1e-15)
    torch.testing.assert_close(found.sum(-1), torch.ones(500, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(head.edges(parameters), found.cumsum(-1)[:, :-1], rtol=1e-12, atol=1e-15)
    single = Gaussian(64, offset=-32)
    torch.testing.assert_close(single.probabilities(parameters[:, [0, 3]])[:, 1:63], each[0], rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("log_scale", [-6.0, -2.2, -0.7, 0.5, 1.6, 2.5, 12.0, 40.0])
def test_formulas_are_those_in_a_hundred_digits(log_scale: float, temperature: float) -> None:
    """Each way of computing a bin: around the mean, beside it, far from it, of a narrow bin, and the outer ones."""
    rng, levels = np.random.default_rng(int(log_scale * 10) % 97), 7
    for count in (1, 3):
        head = MixtureOfGaussians(levels, count, log_scales=True, scale_min=1e-6)
        means = rng.choice([-1e4, -30.3, -0.2, 0.5, 2.5, 3.3, 6.1, 40.0, 1e4], count)
        log_scales = log_scale + np.arange(count) * 0.4
        logits = rng.standard_normal(count) * rng.choice([1, 30])
        own = torch.from_numpy(np.concatenate([log_scales, means, logits]))
        weights = torch.from_numpy(logits).log_softmax(-1)
        expected = exact([weights.tolist(), means.tolist(), log_scales.tolist()], levels, temperature)
        found = head.log_prob(own.expand(levels, -1), torch.arange(levels), temperature)
        plain = float(head.log_prob(own.expand(levels, -1), torch.arange(levels)).abs().max())
        # A low temperature multiplies the rounding of the logarithms of the probabilities.
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 + 1e-15 * plain / temperature)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_permutations_of_each_other(layout: str) -> None:
    count, kinds = 2, [kind.removesuffix("s") for kind in layout.split("-")]
    places = {kind: i for i, kind in enumerate(("scale", "mean", "weight"))}
    columns = torch.randn(3, count, generator=torch.Generator().manual_seed(0))
    reordered = columns[[places[kind] for kind in kinds]]
    parameters = reordered.flatten() if layout.endswith("s") else reordered.T.flatten()
    one, other = MixtureOfGaussians(5, count), MixtureOfGaussians(5, count, parameter_layout=layout)
    assert torch.equal(one.probabilities(columns.flatten()), other.probabilities(parameters))


def test_a_gaussian_is_a_mixture_of_one() -> None:
    scale, mean = torch.tensor([0.7, 2.2]).unbind()
    expected = MixtureOfGaussians(5, 1).probabilities(torch.stack([scale, mean, torch.tensor(3.0)]))
    for layout in SINGLE:
        numbers = torch.stack([scale, mean] if layout == "scale-mean" else [mean, scale])
        assert torch.equal(Gaussian(5, parameter_layout=layout).probabilities(numbers), expected)
        logs = torch.stack([scale.log(), mean] if layout == "scale-mean" else [mean, scale.log()])
        found = Gaussian(5, parameter_layout=layout, log_scales=True).probabilities(logs)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [-3.0, 0.0, 1e-30, 0.1])
def test_small_scales_are_raised(scale: float) -> None:
    head, least = Gaussian(9), Gaussian(9).probabilities(torch.tensor([0.11, 4.2]))
    torch.testing.assert_close(head.probabilities(torch.tensor([scale, 4.2])), least, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("log_scale", [-1000.0, -2.2, 0.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("mean", [-1e30, -1000.0, -1.0, 0.1, 128.0, 1000.0])
def test_extremes_stay_distributions(mean: float, log_scale: float) -> None:
    head = Gaussian(256, log_scales=True)
    parameters = torch.tensor([log_scale, mean], requires_grad=True)
    log_probs = head.log_prob(parameters.expand(256, -1), torch.arange(256))
    assert torch.isfinite(log_probs).all()
    assert float(log_probs.exp().sum().detach()) == pytest.approx(1, abs=1e-9)
    if abs(mean) > 1e9:
        return  # the gradient is beyond float32
    log_probs.sum().backward()
    assert parameters.grad is not None
    assert torch.isfinite(parameters.grad).all()


def test_gradient_is_that_of_the_formula() -> None:
    head = MixtureOfGaussians(5, 2)
    parameters = (torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double().abs() + 0.3).requires_grad_()
    values = torch.tensor([0, 2, 4])
    assert torch.autograd.gradcheck(lambda p: head.log_prob(p, values).sum(), parameters)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    head, own = MixtureOfGaussians(9, 2, offset=-4), torch.tensor([1.3, 0.4, -1.2, 2.1, 0.3, 0.0])
    uniform = torch.from_numpy(noise.uniforms(5, 0, DRAWS, (1, 1, 1))).view(DRAWS)
    values = head.draw(own.expand(DRAWS, -1), uniform, temperature)
    logs = [
        exact([[math.log(0.5744425168), math.log(0.4255574832)], [2.8, 6.1], [math.log(1.3), math.log(0.4)]], 9, temperature)
    ]
    assert abs(chi_square(np.bincount(values, minlength=9), np.exp(logs[0]))) < 4


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "head",
    [
        MixtureOfGaussians(64, 3, offset=-32, layout="N(KC)HW"),
        MixtureOfGaussians(9, 2, -4, "weight-mean-scale", log_scales=True, layout="N(CK)HW"),
        Gaussian(256, offset=-128, layout="N(KC)HW"),
    ],
    ids=repr,
)
def test_engines_draw_what_the_naive_loop_draws(head: MixtureOfGaussians, channels: int) -> None:
    traced = trace(Latents(head, channels, head.offset + head.levels / 2), (channels, 7, 5), head)
    given = np.random.default_rng(0).integers(-1, head.levels, (3, 7, 5, channels)).astype(np.int32)
    given[:, 5:] = -1
    assert compare(traced, 3) == 0
    assert compare(traced, 3, 1, given=given, temperature=0.6) == 0
    assert compare(traced, 1, 2, temperature=1.7) == 0


def test_public_way() -> None:
    head = MixtureOfGaussians(64, 3, offset=-32, layout="N(KC)HW")
    model = Latents(head, 4, 0.0)
    assert pixelfast.check(model, (4, 7, 5)).autoregressive
    sampler = pixelfast.compile(model, (4, 7, 5))
    images, log_prob = sampler.sample(3, seed=1, return_log_prob=True)
    assert len(images.unique()) > 4
    assert sampler.verify(images, seed=1).ok
    torch.testing.assert_close(sampler.log_prob(images), log_prob, rtol=1e-4, atol=1e-4)


def test_values_enter_as_the_integers_that_they_stand_for() -> None:
    head = Gaussian(5, offset=-2)
    assert head.table((1, 7, 5)).tolist() == [[-2, -1, 0, 1, 2]]
    assert head == Gaussian(5, offset=-2)
    assert head != Gaussian(5, offset=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "needs at least 2 levels"),
        ({"mixtures": 0}, "needs at least 1 mixtures"),
        ({"offset": 0.5}, "needs offset within"),
        ({"parameter_layout": "scales-means"}, "parameter_layout must be one of 'scales-means-weights'"),
        ({"scale_min": 0}, "scale_min must be a number within"),
        ({"scale_min": math.nan}, "scale_min must be a number within"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MixtureOfGaussians(**{"levels": 4, "mixtures": 2, **arguments})  # type: ignore[arg-type]


def test_an_output_of_another_size_is_refused() -> None:
    head = MixtureOfGaussians(7, 2)
    with pytest.raises(InvalidInput, match="3 parameters each: does the head need other arguments"):
        pixelfast.sample(Latents(MixtureOfGaussians(6, 1), 1, 3.0), shape=(1, 7, 5), head=head, engine="naive")
