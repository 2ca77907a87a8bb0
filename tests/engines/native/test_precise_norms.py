"""Layer norms of numbers that hardly differ: what the mean's last bit lacks must not become an error of the result."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from native import ISAS, needs_engine
from oracle import trace
from torch import Tensor, nn

from pixelfast import Categorical
from pixelfast.engines.native.engine import CpuEngine

pytestmark = needs_engine

SPREAD, LEVEL = 2e-3, 0.7
GRID = 2.0**-20
"""Inputs of the norm are multiples of this, so that no rounding of theirs is mistaken for one of the norm's."""


class Nearly(nn.Module):
    """A layer norm of features that lie close together, each from the pixel before."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(1, features, 1)
        nn.init.normal_(self.spread.weight, std=SPREAD)
        nn.init.normal_(self.spread.bias, mean=LEVEL, std=SPREAD)  # type: ignore[arg-type]
        for parameter in self.spread.parameters():
            parameter.data.div_(GRID).round_().mul_(GRID)
        self.norm = nn.LayerNorm(features, eps=1e-12)
        self.out = nn.Conv2d(features, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x.to(self.spread.weight.dtype), (1, 0))[..., :-1]
        return self.out(self.norm(self.spread(before).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("features", [7, 16, 64])
def test_numbers_that_hardly_differ(features: int, isa: str) -> None:
    torch.manual_seed(0)
    traced = trace(Nearly(features).eval(), (1, 7, 5), Categorical(4, encode="integer"))
    found = CpuEngine(traced.compiled.program, isa=isa).run(traced.request(3, 0))
    values = torch.from_numpy(found.values).long()
    exact = copy.deepcopy(traced.module).double()(values.permute(0, 3, 1, 2))
    assert found.parameters is not None
    given = np.abs(found.parameters[..., 0, :] - exact.detach().permute(0, 2, 3, 1).numpy()).max()
    assert given <= 3e-6, f"{isa}: off by {given:.1e}"
