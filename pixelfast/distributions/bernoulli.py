"""Two values, of which one number gives the logit or the probability."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidInput
from .base import Head
from .encoding import UNIT, Encode


class Bernoulli(Head):
    """Two values, 0 and 1: the model gives one number for each sub-pixel, the logit of 1.

    Args:
        probability: the model gives the probability of 1 instead of its logit.
        encode, layout: see `Head`.

    Example:
        >>> head = pixelfast.Bernoulli(encode="unit")
        >>> head.probabilities(torch.tensor([0.0]))  # one logit
        tensor([0.5000, 0.5000], dtype=torch.float64)
        >>> head.draw(torch.zeros(3, 1), torch.tensor([0.2, 0.5, 0.9]))  # three sub-pixels, a number each
        tensor([0, 1, 1])
    """

    def __init__(self, probability: bool = False, encode: Encode = UNIT, layout: str | None = None) -> None:
        if not isinstance(probability, (bool, np.bool_)):
            raise InvalidInput(f"probability must be True or False, got {probability!r}; an encoding is passed as encode=")
        super().__init__(2, 1, encode, layout)
        self.probability = bool(probability)

    @property
    def drawn_as(self) -> str:  # type: ignore[override]
        return "bernoulli_probability" if self.probability else "bernoulli_logit"

    def describes_distribution(self, parameters: Tensor) -> Tensor:
        if self.probability:
            return ((parameters >= 0) & (parameters <= 1)).all(-1)
        return parameters.isfinite().all(-1)

    @property
    def needs(self) -> str:
        if self.probability:
            return (
                "a probability within 0 .. 1: does the model give logits, for which the head is Bernoulli() without "
                "probability=True? A probability that rounding moves past 0 or 1 is for the model to clamp"
            )
        return "a finite logit: look for NaN or very large numbers in the weights and conditions"

    def _logit(self, parameters: Tensor, temperature: float) -> Tensor:
        logit = parameters.double().squeeze(-1)
        return (logit.logit() if self.probability else logit) / temperature

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        logit = self._logit(parameters, temperature)
        return torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)], -1)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        logit = self._logit(parameters, temperature)
        return F.logsigmoid(torch.where(values.bool(), logit, -logit))
