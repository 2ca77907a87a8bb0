"""Modules that compute in another type than float32, all of them or in part, against the naive loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import compare, trace
from torch import Tensor, nn

import pixelfast
from pixelfast import Categorical, UnsupportedModel
from pixelfast.models import PixelSNAIL


class InFloat64(nn.Module):
    """Masked by a float64 buffer, with a condition and a table made by NumPy; `end` computes in its own type."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.embed, self.end = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.Embedding(5, 6), nn.Conv2d(6, 4, 1)
        mask = torch.zeros(3, 3, dtype=torch.float64)
        mask[0], mask[1, 0] = 1, 1
        self.register_buffer("mask", mask)
        self.table = torch.from_numpy(np.linspace(-1, 2, 4)).view(4, 1, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = torch.tanh(nn.functional.conv2d(x, 3 * self.first.weight * self.mask, padding=1))
        y = y + self.embed(label)[:, :, None, None]
        return self.end(y.to(self.end.weight.dtype)) * self.table


class Levels(nn.Module):
    """Makes integers of its float image again: k / 10 * 10 is below k for some k in float32, for others in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.end = nn.Embedding(11, 6), nn.Conv2d(6, 11, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        left = nn.functional.pad((x[:, 0] * 10).long(), (1, 0))[..., :-1]
        return 3 * self.end(self.embed(left).permute(0, 3, 1, 2)) + label.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("build", "double"), [(InFloat64, True), (InFloat64, False), (Levels, True), (Levels, False)])
def test_float64_in_the_module(build: Any, double: bool) -> None:
    """Its image comes in the type that it takes; engines compute in float32, and look values up as the module does."""
    torch.manual_seed(1)
    module = build().double() if double else build()
    labels = torch.tensor([2, 0])
    head = Categorical(11 if build is Levels else 4, encode="unit")
    assert compare(trace(module, (1, 3, 5), head, labels), 2, cond=labels) == 0


def test_a_product_of_float64_constants() -> None:
    """Of an image of one row, a convolution of the rows above reads nothing but zeros."""

    class Above(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.above = nn.Conv2d(1, 4, 1).double(), nn.Conv2d(1, 4, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            x = x.double()
            above = nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1]
            return 3 * self.left(nn.functional.pad(x, (1, 0))[..., :-1]) + self.above(torch.relu(above))

    for shape in ((1, 1, 7), (1, 2, 3)):
        assert compare(trace(Above(), shape, Categorical(4)), 2) == 0


def test_float64_is_the_default_type() -> None:
    """What a module makes while it runs is float64 then, and what engines make is not."""

    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.end = nn.Conv2d(1, 4, 1).float()

        def forward(self, x: Tensor) -> Tensor:
            left = nn.functional.pad(x, (1, 0))[..., :-1]
            return self.end(left.float()) * torch.linspace(1, 2, 4).view(4, 1, 1)

    torch.set_default_dtype(torch.float64)
    try:
        assert compare(trace(Ramp(), (1, 3, 5), Categorical(4)), 2) == 0
        inner = PixelSNAIL((1, 3, 5), levels=4, features=6, blocks=1, residuals=1, key=2)
        assert compare(trace(inner, (1, 3, 5), inner.head), 2) == 0
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedModel, match=rf"computes in {dtype}.*sample model.float\(\)"):
        pixelfast.compile(Levels().to(dtype), (1, 3, 5), Categorical(11, encode="unit"), cond=torch.tensor([1]))
