"""Whole images of small models: the Triton engine equals the naive loop."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from oracle import PARAMETERS, agree, spread_error, trace
from torch import nn

import pixelfast
from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.engines.triton.arrangement import NAMES, refuses
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.errors import EngineUnavailable
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN, PixelSNAIL
from pixelfast.precision import PRECISIONS

MODELS = {
    "pixelcnn": lambda: (PixelCNN((1, 5, 4), levels=4, features=18, blocks=1, norm=True), None),
    "row LSTM": lambda: (PixelRNN((1, 3, 3), levels=4, features=6, layers=1), None),
    "diagonal LSTM": lambda: (PixelRNN((1, 3, 3), levels=4, features=6, layers=1, lstm="diagonal"), None),
    "gated": lambda: (GatedPixelCNN((3, 3, 3), levels=5, features=9, layers=2, classes=3), torch.arange(3)),
    "PixelCNN++": lambda: (PixelCNNpp((3, 4, 4), levels=17, features=5, blocks=1, mixtures=2), None),
    "PixelSNAIL": lambda: (PixelSNAIL((3, 3, 3), 256, features=6, blocks=2, residuals=1, key=3, heads=2, mixtures=3), None),
    "PixelSNAIL, codes": lambda: (
        PixelSNAIL((1, 4, 3), 7, features=6, blocks=1, residuals=1, key=4, heads=1, embed=3, classes=4), torch.arange(3),
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    module, cond = MODELS[request.param]()
    return module.eval(), cond


@pytest.mark.parametrize("arrangement", NAMES)
def test_what_the_naive_loop_draws(model: tuple[nn.Module, Any], arrangement: str) -> None:
    module, cond = model
    traced = trace(module, module.config["shape"], module.head, cond)
    if arrangement == "persistent" and (reason := refuses(traced.compiled.program)) is not None:
        with pytest.raises(EngineUnavailable, match=re.escape(reason)):
            TritonEngine(traced.compiled.program, arrangement=arrangement)
        return
    call = traced.request(3, 0, cond)
    naive = traced.run("naive", call, cond)
    found = TritonEngine(traced.compiled.program, poison=True, arrangement=arrangement).run(call)
    assert agree(traced, found, naive, call, cond, arrangement) == 0
    # In float16, judged against one forward in float32.
    low = TritonEngine(traced.compiled.program, "fp16", poison=True, arrangement=arrangement).run(call)
    values = torch.from_numpy(low.values).long()
    forced = traced.oracle.parameters(values, pixelfast.inputs.conditions.Conditions.parse(cond)).numpy()
    error = spread_error(low.parameters, forced)
    assert PARAMETERS < error <= PRECISIONS["fp16"].tolerance


@pytest.mark.parametrize("name", ["pixelcnn", "gated"])
def test_by_name(name: str) -> None:
    """The public way, with its self-check."""
    torch.manual_seed(0)
    module, cond = MODELS[name]()
    module.eval()
    sampler = pixelfast.compile(module, cond=cond, engine="triton")
    images, log_prob = sampler.sample(2, seed=3, cond=None if cond is None else cond[:2], return_log_prob=True)
    assert sampler.engine == "triton"
    expected, theirs = pixelfast.sample(
        module, 2, seed=3, cond=None if cond is None else cond[:2], engine="reference", return_log_prob=True
    )
    assert torch.equal(images, expected)
    np.testing.assert_allclose(log_prob, theirs, rtol=1e-5)


def test_bernoulli() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConstantPad2d((1, 0, 1, 0), 0.0), Shifted()).eval()
    traced = trace(module, (1, 4, 3), Bernoulli())
    call = traced.request(3, 0)
    found = TritonEngine(traced.compiled.program, poison=True).run(call)
    assert agree(traced, found, traced.run("naive", call), call, None, "triton") == 0


class Shifted(nn.Module):
    """One convolution of the pixels above and to the left."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight * torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        return nn.functional.conv2d(x, 3 * weight, self.convolution.bias)
