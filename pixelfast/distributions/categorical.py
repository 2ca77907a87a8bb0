"""A softmax over K values."""

from __future__ import annotations

from torch import Tensor

from .base import Head, size_of
from .encoding import SYMMETRIC, Encode


class Categorical(Head):
    """A softmax over K values: the model gives K logits (or log-probabilities) for each sub-pixel.

    Args:
        levels: K, how many values a sub-pixel can take; at least 2.
        encode, layout: see `Head`.

    Raises:
        InvalidInput: fewer than 2 levels.

    Example:
        >>> head = pixelfast.Categorical(4, encode="symmetric")
        >>> head.probabilities(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
        >>> head.encode_images(torch.arange(4).view(1, 1, 2, 2))[0, 0]
        tensor([[-1.0000, -0.3333],
                [ 0.3333,  1.0000]])
    """

    drawn_as = "categorical"

    def __init__(self, levels: int = 256, encode: Encode = SYMMETRIC, layout: str | None = None) -> None:
        levels = size_of("a categorical head", "levels", levels, 2)
        super().__init__(levels, levels, encode, layout)

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return (parameters.double() / temperature).softmax(-1)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        logits = (parameters.double() / temperature).log_softmax(-1)
        return logits.gather(-1, values.long().unsqueeze(-1)).squeeze(-1)
