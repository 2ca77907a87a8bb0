"""Small models for what needs no large one."""

from __future__ import annotations

from typing import Any

import torch
from foreign import right_shift
from oracle import ENGINES
from torch import Tensor, nn

import pixelfast
from pixelfast import Categorical


class Shifted(nn.Module):
    """Logits from the pixel to the left, through any function."""

    def __init__(self, function: Any = None, channels: int = 1, outputs: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(right_shift(x))
        return y if self.function is None else self.function(y)


class Left(Shifted):
    """The same, always with the same weights, or with one bias everywhere."""

    def __init__(self, outputs: int = 4, bias: float | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(outputs=outputs)
        if bias is not None:
            nn.init.constant_(self.conv.weight, 1e-9)
            nn.init.constant_(self.conv.bias, bias)


SHAPE = (1, 3, 4)
HEAD = Categorical(4, encode="unit")
EVERY = (*ENGINES, "naive")


def by_every_engine() -> dict[str, pixelfast.Sampler]:
    """Samplers of one `Left`."""
    model = Left()
    return {engine: pixelfast.compile(model, SHAPE, HEAD, engine=engine) for engine in EVERY}
