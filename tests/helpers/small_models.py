"""Small models for what needs no large one."""

from __future__ import annotations

from typing import Any

import torch
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


class Above(nn.Module):
    """A prediction from the pixel to the left."""

    def __init__(self, outputs: int = 4, bias: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, outputs, 1)
        if bias is not None:
            nn.init.constant_(self.conv.weight, 1e-9)
            nn.init.constant_(self.conv.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (1, 0))[..., :-1])
