"""Mixtures of logistics at extreme temperatures: far values, whose probabilities no float64 can hold, still count."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from mixture_cases import HOT, TEMPERATURES, Masked
from oracle import compare, trace
from torch import Tensor

from pixelfast import MixtureOfLogistics

# -------------------------------------------------------------------- formulas


def exact(own: list[list[float]], levels: int, temperature: float) -> np.ndarray:
    """log P(k)^(1 / temperature), normalised, in 60 digits: weights, means and log-scales -> (K,)."""
    with localcontext() as context:
        context.prec = 60

        def sigmoid(t: Decimal) -> Decimal:
            return 1 / (1 + (-t).exp())

        def share(weight: Decimal, mean: Decimal, log_scale: Decimal, k: int) -> Decimal:
            scale, x, half = log_scale.exp(), Decimal(2 * k) / (levels - 1) - 1, Decimal(1) / (levels - 1)
            low, high = (x - half - mean) / scale, (x + half - mean) / scale
            if k == 0:
                return weight.exp() * sigmoid(high)
            if k == levels - 1:
                return weight.exp() * sigmoid(-low)
            # Mirrored below the mean, where a sigmoid keeps its digits.
            low, high = (low, high) if high + low < 0 else (-high, -low)
            return weight.exp() * (sigmoid(high) - sigmoid(low))

        columns = [[Decimal(number) for number in column] for column in zip(*own, strict=True)]
        result = [sum((share(*column, k) for column in columns), Decimal(0)).ln() for k in range(levels)]
        powers = [((log - max(result)) / Decimal(temperature)).exp() for log in result]
        total = sum(powers, Decimal(0)).ln()
        return np.array([float((log - max(result)) / Decimal(temperature) - total) for log in result])


def some_mixture(seed: int) -> tuple[MixtureOfLogistics, Tensor]:
    """Of one channel: weights, means and log-scales as `conditional` gives them, near and far."""
    rng = np.random.default_rng(seed)
    head = MixtureOfLogistics(int(rng.choice([2, 3, 17])), int(rng.integers(1, 5)), 1)
    weights = torch.from_numpy(rng.standard_normal(head.mixtures) * rng.choice([1, 300])).log_softmax(-1)
    means = rng.standard_normal(head.mixtures) * rng.choice([1, 30, 1000], head.mixtures)
    log_scales = rng.uniform(-7, rng.choice([0, 20, 40]), head.mixtures)
    return head, torch.cat([weights, torch.from_numpy(np.concatenate([means, log_scales]))])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("seed", range(12))
def test_formulas_are_those_in_sixty_digits(seed: int, temperature: float) -> None:
    head, own = some_mixture(seed)
    expected = exact(own.view(3, -1).tolist(), head.levels, temperature)
    found = head.log_prob(own.expand(head.levels, -1), torch.arange(head.levels), temperature)
    # A low temperature multiplies the rounding of the logarithms of the probabilities.
    untempered = head.log_prob(own.expand(head.levels, -1), torch.arange(head.levels)).abs().max()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 + 1e-13 * float(untempered) / temperature)
    if temperature >= 1:
        np.testing.assert_allclose(head.probabilities(own, temperature), np.exp(expected), rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("mean", [-1000.0, 0.3, 1e20])
@pytest.mark.parametrize("log_scale", [-7.0, 0.0, 700.0, 1000.0])
def test_the_greatest_temperature_makes_values_equally_probable(mean: float, log_scale: float) -> None:
    head = MixtureOfLogistics(5, 1, 1)
    found = head.probabilities(torch.tensor([0.0, mean, log_scale]), HOT)
    torch.testing.assert_close(found, torch.full((5,), 0.2, dtype=torch.float64))


# -------------------------------------------------------------------- engines


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("mean", [-1000.0, 3.0])
def test_whole_models_draw_what_the_naive_loop_draws(mean: float, temperature: float) -> None:
    """A narrow component far outside the image, and one whose weight is nothing to a float64."""
    head = MixtureOfLogistics(256, 2, 3)
    model = Masked(head)
    with torch.no_grad():
        assert model.out.bias is not None
        model.out.bias[1] -= 900
        for colour in range(3):
            model.out.bias[2 + colour * 6] += mean
            model.out.bias[4 + colour * 6] -= 6
    assert compare(trace(model, (3, 7, 5), head), 2, temperature=temperature) == 0
