"""Mixtures of logistics: the joint distribution of a pixel by hand, its orders, its extremes, its draws, its refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from goodness_of_fit import chi_square
from mixture_cases import Pixels
from torch import Tensor

import pixelfast
from pixelfast import InvalidInput, MixtureOfLogistics
from pixelfast.distributions import noise

DRAWS = 20_000


def parameters_of(head: MixtureOfLogistics, *batch: int, seed: int = 0) -> Tensor:
    return torch.randn(*batch, head.parameters, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def joint_by_hand(head: MixtureOfLogistics, parameters: Tensor) -> np.ndarray:
    """P(pixel) for all K^C pixels, from the colour-major numbers one by one: (K,) * C."""
    numbers, count, channels, levels = parameters.tolist(), head.mixtures, head.channels, head.levels
    per_colour = 2 if channels == 1 else 3
    total = sum(math.exp(logit) for logit in numbers[:count])
    result = np.zeros((levels,) * channels)

    def number(colour: int, kind: int, i: int) -> float:
        return numbers[count + (colour * per_colour + kind) * count + i]

    for pixel in itertools.product(range(levels), repeat=channels):
        x = [2 * k / (levels - 1) - 1 for k in pixel]
        for i in range(count):
            means = [number(c, 0, i) for c in range(channels)]
            if channels == 3:
                means[1] += math.tanh(number(0, 2, i)) * x[0]
                means[2] += math.tanh(number(1, 2, i)) * x[0] + math.tanh(number(2, 2, i)) * x[1]
            p = math.exp(numbers[i]) / total
            for c in range(channels):
                scale = math.exp(max(number(c, 1, i), head.log_scale_min))
                above = 1.0 if pixel[c] == levels - 1 else sigmoid((x[c] + 1 / (levels - 1) - means[c]) / scale)
                below = 0.0 if pixel[c] == 0 else sigmoid((x[c] - 1 / (levels - 1) - means[c]) / scale)
                p *= above - below
            result[pixel] += p
    return result


def joint(head: MixtureOfLogistics, parameters: Tensor) -> Tensor:
    """P(pixel) as the product of the conditionals: (P,) -> (K,) * C."""
    pixels = torch.cartesian_prod(*[torch.arange(head.levels)] * head.channels).view(-1, head.channels)
    own = head.conditionals(parameters.expand(len(pixels), head.channels, -1), pixels)
    return head.log_prob(own, pixels).sum(-1).exp().view((head.levels,) * head.channels)


@pytest.mark.parametrize(("channels", "levels", "mixtures"), [(1, 2, 1), (1, 7, 3), (3, 2, 3), (3, 5, 2), (3, 4, 1)])
def test_joint_distribution_by_hand(channels: int, levels: int, mixtures: int) -> None:
    head = MixtureOfLogistics(levels, mixtures, channels)
    assert head.parameters == mixtures * {1: 3, 3: 10}[channels]
    parameters = parameters_of(head)
    found, expected = joint(head, parameters), joint_by_hand(head, parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_sum_to_one_and_agree_with_log_prob(channels: int) -> None:
    head = MixtureOfLogistics(256, 4, channels)
    parameters = parameters_of(head, 3, 5)
    earlier = torch.randint(256, (3, 5, channels - 1))
    own = head.conditional(parameters, earlier)
    probabilities = head.probabilities(own)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    values = torch.arange(256).expand(3, 5, 256)
    each = own.unsqueeze(-2).expand(-1, -1, 256, -1)
    torch.testing.assert_close(head.log_prob(each, values).exp(), probabilities, rtol=1e-9, atol=0)
    cold = head.probabilities(own, 0.5)
    torch.testing.assert_close(cold, probabilities**2 / (probabilities**2).sum(-1, keepdim=True))
    torch.testing.assert_close(head.log_prob(each, values, 0.5).exp(), cold)


@pytest.mark.parametrize("channels", [1, 3])
def test_orders_are_permutations_of_each_other(channels: int) -> None:
    one, other = (MixtureOfLogistics(4, 2, channels, order) for order in ("colour-major", "mixture-major"))
    numbers = torch.arange(one.parameters)
    count = one.mixtures
    # For each component: its logit, the means, the log-scales, the coefficients of all colours.
    kinds = 3 if channels == 3 else 2
    colours = [(kind, c) for kind in range(kinds) for c in range(channels)]
    place = torch.tensor(
        [[i] + [count + (c * kinds + kind) * count + i for kind, c in colours] for i in range(count)]
    ).flatten()
    assert torch.equal(place.sort().values, numbers)
    parameters = parameters_of(one)
    assert torch.equal(joint(one, parameters), joint(other, parameters[place]))


@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 0.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("mean", [-1000.0, -1.0, 0.1, 1.0, 1000.0])
def test_extremes_stay_distributions(mean: float, log_scale: float) -> None:
    head = MixtureOfLogistics(256, 1, 1)
    parameters = torch.tensor([0.0, mean, log_scale], requires_grad=True)
    own = head.conditional(parameters, torch.zeros(0, dtype=torch.long))
    log_probs = head.log_prob(own.unsqueeze(0), torch.arange(256))
    assert torch.isfinite(log_probs).all()
    assert float(log_probs.exp().sum().detach()) == pytest.approx(1, abs=1e-9)
    log_probs.sum().backward()
    assert parameters.grad is not None
    assert torch.isfinite(parameters.grad).all()


def test_far_bins_follow_the_logarithm_of_the_tail() -> None:
    """1 - sigmoid(-100) is 1 in floating point: far below the mean, P(bin) = e^-|upper| - e^-|lower| tells the truth."""
    head = MixtureOfLogistics(256, 1, 1)
    own = head.conditional(torch.tensor([0.0, 1.0, -5.0]), torch.zeros(0, dtype=torch.long))
    for value in (1, 50, 100):
        low, high = ((2 * value / 255 - 1 + side / 255 - 1) * math.exp(5) for side in (-1, 1))
        expected = high + math.log(-math.expm1(low - high))
        assert float(head.log_prob(own, torch.tensor(value))) == pytest.approx(expected, rel=1e-9)


def test_posterior_weights_survive_components_that_all_but_exclude_the_value() -> None:
    """Both components put red far away; the nearer one must win, not NaN."""
    head = MixtureOfLogistics(256, 2, 3)
    parameters = torch.zeros(20)
    parameters[2:4] = torch.tensor([-900.0, -1000.0])
    parameters[4:6] = -7.0
    own = head.conditional(parameters, torch.tensor([255]))
    weights = own[:2].exp()
    assert weights.tolist() == [1.0, 0.0]


def test_gradient_is_that_of_the_formula() -> None:
    head = MixtureOfLogistics(5, 2, 3)
    values = torch.tensor([[0, 2, 4], [1, 0, 3]])
    parameters = parameters_of(head, 2).double().requires_grad_()

    def loss(p: Tensor) -> Tensor:
        return head.log_prob(head.conditionals(p.unsqueeze(-2).expand(-1, 3, -1), values), values).sum()

    assert torch.autograd.gradcheck(loss, parameters)


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_follow_the_joint_distribution(channels: int) -> None:
    head = MixtureOfLogistics(3, 2, channels)
    parameters = parameters_of(head, seed=3)
    uniform = torch.from_numpy(noise.uniforms(5, 0, DRAWS, (channels, 1, 1))).view(DRAWS, channels)
    pixels = torch.zeros(DRAWS, 0, dtype=torch.long)
    for channel in range(channels):
        own = head.conditional(parameters.expand(DRAWS, -1), pixels)
        pixels = torch.cat([pixels, head.draw(own, uniform[:, channel]).unsqueeze(-1)], -1)
    place = (pixels * 3 ** torch.arange(channels).flip(0)).sum(-1)
    expected = joint_by_hand(head, parameters).reshape(-1)
    assert abs(chi_square(np.bincount(place, minlength=len(expected)), expected)) < 4


@pytest.mark.parametrize("arrange", ["NKHW", "NHWK", "(NHW)K", "NK(HW)", "N(HW)K"])
@pytest.mark.parametrize("channels", [1, 3])
def test_usual_loop_draws_scores_and_verifies(channels: int, arrange: str) -> None:
    torch.manual_seed(0)
    head = MixtureOfLogistics(6, 2, channels)
    sampler = pixelfast.compile(Pixels(head, arrange), (channels, 7, 5), engine="naive")
    images, log_prob = sampler.sample(3, seed=1, return_log_prob=True)
    assert sampler.verify(images, seed=1).ok
    torch.testing.assert_close(sampler.log_prob(images), log_prob)
    with pytest.raises(pixelfast.VerificationError):
        sampler.verify((images + 1) % 6, seed=1)
    given = images.int()
    given[:, 0] = -1  # only the first channel is drawn anew: those after it are given, and do not bend it
    again = sampler.sample(3, seed=1, given=given)
    assert torch.equal(again, images)


def test_check_proves_causality_and_names_the_head() -> None:
    report = pixelfast.check(Pixels(MixtureOfLogistics(6, 2, 3)), (3, 7, 5))
    assert report.autoregressive
    assert report.unscheduled is None
    assert report.steps == 35


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "at least 2 levels"),
        ({"mixtures": 0}, "at least 1 mixtures"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"parameter_layout": "rgb"}, "parameter_layout must be one of"),
        ({"log_scale_min": -math.inf}, "finite number"),
        ({"log_scale_min": -700.1}, "at least -700, got -700.1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MixtureOfLogistics(**arguments)  # type: ignore[arg-type]


def test_wrong_images_and_outputs() -> None:
    head = MixtureOfLogistics(6, 2, 3)
    with pytest.raises(InvalidInput, match="pixels of 3 channels, but the images have 1"):
        pixelfast.compile(Pixels(head), (1, 7, 5), engine="naive")
    with pytest.raises(InvalidInput, match="10 parameters each: does the head need other arguments"):
        pixelfast.sample(Pixels(MixtureOfLogistics(6, 1, 3)), shape=(3, 7, 5), head=head, engine="naive")
