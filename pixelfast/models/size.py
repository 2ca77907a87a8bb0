"""A bound on the size of a model while it is built: arguments from a file may describe one that no machine holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..distributions.base import Head
from ..errors import InvalidInput, PixelfastError, described

OPERATIONS = 20_000
"""The most steps in which a model without a file of weights is built. Ours take under 5,000 with default arguments."""
LEAST = 256
"""Bytes that a sub-pixel is taken to need: to compile even a model of 4 features took 350 for each."""
MAKE = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
OPTION = "max_bytes=, --max-bytes"


class _Bounded(TorchFunctionMode):
    """Counts the steps and the bytes of new tensors, and stops before there are too many."""

    def __init__(self, max_bytes: int, reason: str, operations: int) -> None:
        super().__init__()
        self.max_bytes, self.reason, self.operations, self.bytes = max_bytes, reason, operations, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise InvalidInput("the model is too large: it has too many layers")
        if func in MAKE:
            made: Tensor = func(*args, **{**kwargs, "device": "meta"})  # its size only
            self.bytes += made.numel() * made.element_size()
            _allow(self.bytes, "its weights", self.max_bytes, self.reason)
        return func(*args, **kwargs)


def _allow(size: int, what: str, limit: int, reason: str) -> None:
    if size > limit:
        raise InvalidInput(
            f"the model is too large: {what} would take {size:,} bytes or more, and the limit is {limit:,} ({reason})"
        )


def build_bounded(
    kind: Callable[..., nn.Module], arguments: Mapping[str, Any], max_bytes: int, weights: tuple[int, int] | None = None
) -> nn.Module:
    """``kind(**arguments)``, one of our models.

    Args:
        weights: bytes and number of the weights that the model is for, which it may exceed somewhat.

    Raises:
        InvalidInput: it cannot be built, or it, or what it says about one image, would be larger than ``max_bytes``.
    """
    most, reason, operations = max_bytes, OPTION, OPERATIONS
    if weights is not None:
        most, reason = 8 * weights[0] + 2**24, "many times what the file of weights holds"
        operations = 50 * weights[1] + 5_000
    try:
        with _Bounded(most, reason, operations):
            model = kind(**arguments)
    except PixelfastError:
        raise
    except Exception as error:  # arguments may be anything, and fail anywhere in the model
        raise InvalidInput(described(error)) from error
    allow_predictions(cast("tuple[int, int, int]", model.shape), cast(Head, model.head), max_bytes)
    return model


def allow_predictions(shape: tuple[int, int, int], head: Head, max_bytes: int) -> None:
    """InvalidInput if what a model says about one image of C, H, W takes more than ``max_bytes``."""
    size = max(4 * head.levels, 4 * head.parameters, LEAST) * math.prod(shape)
    _allow(size, f"what it says about one image of {' x '.join(map(str, shape))}", max_bytes, OPTION)
