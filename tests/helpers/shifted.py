"""A small model that no proof needs: logits from the pixel to the left, through any function."""

from __future__ import annotations

from typing import Any

from foreign import right_shift
from torch import Tensor, nn


class Shifted(nn.Module):
    """Logits from the pixel to the left, through any function."""

    def __init__(self, function: Any = None, channels: int = 1, outputs: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(right_shift(x))
        return y if self.function is None else self.function(y)
