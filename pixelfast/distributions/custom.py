"""A head of one's own, as a pair of functions: what K values are probable, and what the log-probability of one is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import InvalidInput
from .base import Head, size_of
from .encoding import SYMMETRIC, Encode

SUM_TOLERANCE = 1e-4
"""How far from 1 the sum of probabilities may be: float32 sums of many values."""


class CustomHead(Head):
    """A distribution over K values that a function gives.

    Args:
        levels: K, at least 2.
        parameters: P, how many numbers of the model's output describe a sub-pixel.
        probabilities: float64 parameters (..., P) -> probabilities (..., K), which are at least 0 and sum to 1.
        log_prob: parameters (..., P), int64 values (...) -> natural logarithm of their probability (...). It is what is
            trained and scored with, for distributions whose probabilities underflow; None takes the logarithm of
            ``probabilities``.
        conditional: parameters (..., P) of a whole pixel and the int64 values (..., c) of its first c channels -> the
            parameters (..., P') of the next channel, which both other functions then get. None: each sub-pixel has P parameters
            of its own.
        encode, layout: see `Head`.

    A temperature T replaces p by p^(1/T), normalised, as it does for a softmax.

    Raises:
        InvalidInput: fewer than 2 levels, no parameters, or something that is no function; later, when a function's result
            has the wrong shape or is no distribution.

    Example:
        >>> def geometric(parameters):  # (..., 1) -> (..., 5)
        ...     return (parameters.sigmoid() ** torch.arange(5)).softmax(-1)
        >>> head = pixelfast.CustomHead(5, 1, geometric, encode="unit")
        >>> head.probabilities(torch.zeros(2, 1)).shape
        torch.Size([2, 5])
    """

    rounding = 2.0**-16  # of a mean or a width around 1, whose last bits may decide between values

    def __init__(
        self,
        levels: int,
        parameters: int,
        probabilities: Callable[[Tensor], Tensor],
        log_prob: Callable[[Tensor, Tensor], Tensor] | None = None,
        conditional: Callable[[Tensor, Tensor], Tensor] | None = None,
        encode: Encode = SYMMETRIC,
        layout: str | None = None,
    ) -> None:
        levels = size_of("a custom head", "levels", levels, 2)
        parameters = size_of("a custom head", "parameters", parameters, 1)
        functions = {"probabilities": probabilities, "log_prob": log_prob, "conditional": conditional}
        for name, function in functions.items():
            if not callable(function) and (function is not None or name == "probabilities"):
                raise InvalidInput(f"{name}= must be a function, got {type(function).__name__}")
        super().__init__(levels, parameters, encode, layout)
        self._probabilities, self._log_prob, self._conditional = probabilities, log_prob, conditional
        self.shared = conditional is not None

    def conditional(self, parameters: Tensor, earlier: Tensor) -> Tensor:
        if self._conditional is None:
            return parameters
        result = self._conditional(parameters.double(), earlier)
        if not isinstance(result, Tensor) or result.shape[:-1] != parameters.shape[:-1]:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InvalidInput(f"conditional= gave {shape} for parameters {tuple(parameters.shape)}: (..., P') is needed")
        return result

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        result = self._probabilities(parameters.double())
        wanted = (*parameters.shape[:-1], self.levels)
        if not isinstance(result, Tensor) or tuple(result.shape) != wanted:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InvalidInput(f"probabilities= gave {shape} for parameters {tuple(parameters.shape)}: {wanted} is needed")
        result = result.double()
        total = result.sum(-1, keepdim=True)
        if not bool((result >= 0).all() & ((total - 1).abs() <= SUM_TOLERANCE).all()):
            raise InvalidInput(
                f"probabilities= gave no distribution: the least number is {float(result.min()):g}, and sums over the "
                f"{self.levels} values lie within {float(total.min()):g} .. {float(total.max()):g}"
            )
        return result / total if temperature == 1.0 else (result.log() / temperature).softmax(-1)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        if self._log_prob is None or temperature != 1.0:
            return super().log_prob(parameters, values, temperature)
        result = self._log_prob(parameters.double(), values.long())
        if not isinstance(result, Tensor) or result.shape != values.shape:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InvalidInput(f"log_prob= gave {shape} for values {tuple(values.shape)}: one number each is needed")
        return result.double()
