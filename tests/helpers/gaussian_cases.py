"""Discretized Gaussians in a hundred digits, as models, and parameters of all sizes."""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext

import numpy as np
import torch
from torch import Tensor, nn

from pixelfast import MixtureOfGaussians

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651")

# -------------------------------------------------------------------- formulas


def upper_tail(t: Decimal) -> Decimal:
    """1 - Phi(t): by the series of positive terms near 0, by the continued fraction far from it."""
    if t < 0:
        return 1 - upper_tail(-t)
    density = (-t * t / 2).exp() / (2 * PI).sqrt()
    if t > 5:
        rest = t
        for n in range(300, 0, -1):
            rest = t + n / rest
        return density / rest
    total, term, n = t, t, 1
    while term > Decimal(10) ** -90:
        n += 2
        term = term * t * t / n
        total += term
    return Decimal(1) / 2 - density * total


def log_bin(value: int, levels: int, mean: Decimal, scale: Decimal) -> Decimal:
    """log P(value) of one component; means count from value 0."""
    half = Decimal(1) / 2
    low, high = (value - half - mean) / scale, (value + half - mean) / scale
    if value == 0:
        return upper_tail(-high).ln()
    if value == levels - 1:
        return upper_tail(low).ln()
    low, high = (low, high) if low + high > 0 else (-high, -low)
    return (upper_tail(low) - upper_tail(high)).ln()


def exact(own: list[list[float]], levels: int, temperature: float) -> np.ndarray:
    """log P(k)^(1 / temperature), normalised, in 100 digits: log-weights, means, log-scales -> (K,)."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 100, MIN_EMIN, MAX_EMAX
        columns = [[Decimal(number) for number in column] for column in zip(*own, strict=True)]
        logs = []
        for k in range(levels):
            parts = [weight + log_bin(k, levels, mean, scale.exp()) for weight, mean, scale in columns]
            most = max(parts)
            logs.append(most + sum(((part - most).exp() for part in parts), Decimal(0)).ln())
        powers = [((log - max(logs)) / Decimal(temperature)).exp() for log in logs]
        total = sum(powers, Decimal(0)).ln()
        return np.array([float((log - max(logs)) / Decimal(temperature) - total) for log in logs])


# -------------------------------------------------------------------- models


class Latents(nn.Module):
    """A context model: P planes of C channels, (N, P * C, H, W), from the pixels before; channels are drawn independently."""

    def __init__(self, head: MixtureOfGaussians, channels: int, around: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head = head
        self.first, self.out = nn.Conv2d(channels, 17, 3, padding=1), nn.Conv2d(17, head.parameters * channels, 1)
        with torch.no_grad():
            self.first.weight[:, :, 2] = 0
            self.first.weight[:, :, 1, 1:] = 0
            self.first.weight /= head.levels / 4
            # Means all over the range, scales of both signs.
            self.out.weight *= 4
            self.out.bias.uniform_(-2, 2)
            # Channels run fastest, or parameters do.
            fastest = head.layout == "N(KC)HW"
            planes = self.out.bias.view(-1, channels).T if fastest else self.out.bias.view(channels, -1)
            planes[:, list(head.places["mean"])] += around

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x)))


# -------------------------------------------------------------------- parameters


def some_parameters(head: MixtureOfGaussians, images: int) -> np.ndarray:
    """(N, 1, 1, P): logits, means and scales from ordinary to absurd, one kind of each to an image."""
    rng, size = np.random.default_rng(head.parameters), (images, head.mixtures)
    sizes = rng.choice([0.2, 1.0, 5.0, 40.0, 1e6, 1e30], (images, 1)) * rng.uniform(0.5, 2, size)
    away = rng.standard_normal(size) * rng.choice([0.0, 3.0, 1e4, 1e20], (images, 1))
    numbers = {
        "mean": rng.uniform(-0.2, 1.2, size) * head.levels + head.offset + away,
        "weight": rng.standard_normal(size) * rng.choice([1, 300], (images, 1)),
        "scale": np.log(sizes) if head.log_scales else sizes * rng.choice([1, 1, 1, -1], size),
    }
    result = np.zeros((images, head.parameters), np.float32)
    for kind, places in head.places.items():
        result[:, list(places)] = numbers[kind]
    return result.reshape(images, 1, 1, -1)
