"""Mixtures of discretized components: what all families of components share.

A family says how a model's parameters make M components, each with a weight, a mean and a log-scale, and what one component
says about a value. Everything else follows from that:

    P(k) = sum over i of weight_i P(k | i),   at temperature T:  P(k)^(1/T), normalised

Letters: K levels, M components, P parameters.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Head


@dataclass(frozen=True)
class Mixture:
    """What the parameters of a mixture mean.

    A number of component i stands at the first one's place + i * component_step; that of channel c, where the channels of a
    pixel share their parameters, c * channel_step further.

    Attributes:
        components: M.
        weights, means, scales, coefficients: the first one's place among the P parameters; -1 where there are none.
        log_scale_min: lower logarithms of scales are raised to it.
        log_scales: whether the parameters are logarithms of the scales, or the scales.
        offset: the number that value 0 stands for, in families over integers.
    """

    components: int
    component_step: int
    channel_step: int
    weights: int
    means: int
    scales: int
    coefficients: int
    log_scale_min: float
    log_scales: bool = True
    offset: int = 0


class MixtureHead(Head):
    """A discretized mixture of M components of one family.

    Attributes:
        mixtures: M.
    """

    rounding = 2.0**-16  # of means among terms around 1: a narrow component turns their last bits into other probabilities
    mixtures: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if isinstance(name := vars(cls).get("drawn_as"), str):
            FAMILIES[name] = cls

    @classmethod
    @abstractmethod
    def of(cls, levels: int, channels: int, mixture: Mixture) -> MixtureHead:
        """The head that a program draws from, whose `mixture` this is."""

    @property
    @abstractmethod
    def mixture(self) -> Mixture:
        """What a program says about it."""

    @abstractmethod
    def components(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales, (..., M) each in float64, of a sub-pixel's own parameters (..., P')."""

    @abstractmethod
    def log_bin(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        """log P(value | component), from logarithms only: it stays finite where the probability underflows."""

    @abstractmethod
    def below(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        """P(at most this value | component) of values but the last, in closed form."""

    def describes_distribution(self, parameters: Tensor) -> Tensor:
        return parameters.isfinite().all(-1)

    @property
    def needs(self) -> str:
        return "finite numbers: look for NaN or very large numbers in the weights and conditions"

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities of the K values: own parameters (..., P') -> (..., K), in float64."""
        if temperature != 1.0:
            return self._tempered(parameters, temperature).exp()
        return _sum(parameters, (share.exp() for share in self._log_shares(parameters)))

    def edges(self, parameters: Tensor) -> Tensor:
        """The distribution function in closed form, a tenth of the work of `probabilities`: (..., P') -> (..., K-1)."""
        weights, means, log_scales = self.components(parameters)
        values = torch.arange(self.levels - 1, device=parameters.device)
        parts = (
            weights[..., i, None].exp() * self.below(means[..., i, None], log_scales[..., i, None], values)
            for i in range(self.mixtures)
        )
        return _sum(parameters, parts)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Natural logarithm of the probability of ``values``: (..., P'), (...) -> (...), float64, differentiable."""
        if temperature != 1.0:
            return self._tempered(parameters, temperature).gather(-1, values.long().unsqueeze(-1)).squeeze(-1)
        weights, means, log_scales = self.components(parameters)
        return (weights + self.log_bin(means, log_scales, values.long().unsqueeze(-1))).logsumexp(-1)

    def _log_shares(self, parameters: Tensor) -> Iterator[Tensor]:
        """log(weight * P(k | component)) of the K values, (..., K) for each component.

        One component at a time: K values for each sub-pixel fit into memory, K x M for a batch of images may not.
        """
        weights, means, log_scales = self.components(parameters)
        values = torch.arange(self.levels, device=parameters.device)
        for i in range(self.mixtures):
            yield weights[..., i, None] + self.log_bin(means[..., i, None], log_scales[..., i, None], values)

    def _tempered(self, parameters: Tensor, temperature: float) -> Tensor:
        """log P(k)^(1 / temperature), normalised: (..., P') -> (..., K).

        From logarithms only: a high temperature makes something of probabilities that a float64 cannot hold. The largest is
        subtracted first, since a low temperature makes something of every digit.
        """
        result = functools.reduce(torch.logaddexp, self._log_shares(parameters))
        return ((result - result.amax(-1, keepdim=True)) / temperature).log_softmax(-1)


FAMILIES: dict[str, type[MixtureHead]] = {}
"""The mixtures that programs know, by `Head.drawn_as`."""


def _sum(like: Tensor, parts: Iterator[Tensor]) -> Tensor:
    return sum(parts, torch.zeros((), dtype=torch.float64, device=like.device))
