"""What a user passes as `cond=`, and which of it belongs to which image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidInput


@dataclass(frozen=True)
class Conditions:
    """Arguments of the model after the image: positional and by keyword.

    A tensor whose first axis has the length n belongs to the images one by one; one whose first axis is 1 is repeated for
    all of them. A tensor without axes, and everything that is no tensor, is passed on as it is.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, cond: Any) -> Conditions:
        """From `cond=`: None, one argument, a tuple or list of positional arguments, or a dict of keyword arguments."""
        if cond is None:
            return cls()
        if isinstance(cond, Conditions):
            return cond
        if isinstance(cond, dict):
            return cls(kwargs=dict(cond))
        if isinstance(cond, (tuple, list)):
            return cls(args=tuple(cond))
        return cls(args=(cond,))

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors among the arguments, with a name for messages."""
        named = [(f"cond[{i}]", value) for i, value in enumerate(self.args)]
        named += [(f"cond[{name!r}]", value) for name, value in self.kwargs.items()]
        return [(name, value) for name, value in named if isinstance(value, Tensor)]

    def map(self, change: Callable[[Tensor], Any]) -> Conditions:
        """The same arguments with every tensor changed."""
        args = tuple(change(value) if isinstance(value, Tensor) else value for value in self.args)
        kwargs = {name: change(value) if isinstance(value, Tensor) else value for name, value in self.kwargs.items()}
        return Conditions(args, kwargs)

    def check(self, n: int) -> None:
        """Raise InvalidInput unless every tensor has one entry, or one for each of n images."""
        for name, tensor in self.tensors():
            if tensor.dim() and tensor.shape[0] not in (1, n):
                raise InvalidInput(
                    f"{name} has {tensor.shape[0]} entries (shape {tuple(tensor.shape)}), but {n} images are asked for: "
                    f"its first axis must be {n}, or 1 for a condition that all images share"
                )

    def rows(self, index: Tensor | slice, n: int) -> Conditions:
        """The arguments for the images at `index` out of n."""

        def pick(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0:
                return tensor
            return tensor.expand(n, *tensor.shape[1:])[index.to(tensor.device) if isinstance(index, Tensor) else index]

        return self.map(pick)

    def to(self, device: torch.device) -> Conditions:
        return self.map(lambda tensor: tensor.to(device))

    def signature(self) -> tuple[object, ...]:
        """What a compiled sampler is specialised to: types, trailing shapes, and everything that is no tensor."""

        def describe(value: Any) -> object:
            if isinstance(value, Tensor):
                return ("tensor", value.dtype, tuple(value.shape[1:]), value.dim())
            return repr(value)

        return (*map(describe, self.args), *((name, describe(v)) for name, v in sorted(self.kwargs.items())))
