"""Activations of PyTorch with all their arguments, on both sides of whatever threshold they have."""

from __future__ import annotations

import numpy as np
import torch
from oracle import ENGINES, trace
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Categorical

FUNCTIONS = [
    *(F.relu, F.relu6, F.silu, F.mish, F.selu, F.softsign, F.tanhshrink, F.logsigmoid, F.hardswish, F.hardsigmoid, torch.sign),
    *(torch.exp2, torch.atan, torch.arctan),
    lambda x: F.elu(x, 0.7),
    lambda x: F.celu(x, 0.6),
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.gelu(x, approximate="none"),
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: F.softplus(x, 2.0),
    lambda x: F.softplus(x, 0.5, 1.5),
    lambda x: F.softplus(x, threshold=-1.0),
    lambda x: F.softshrink(x, 0.8),
    lambda x: F.hardshrink(x, 0.8),
    lambda x: F.threshold(x, 0.5, -2.0),
    lambda x: F.hardtanh(x, -0.6, 1.7),
    lambda x: F.prelu(x, x.new_tensor([0.3])),
    lambda x: F.glu(torch.cat([x, 1 - x], 1), 1),
    lambda x: x.clamp(min=-0.4),
    lambda x: x.clamp(max=0.4),
]


class Functions(nn.Module):
    """One function of the value to the left for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 1, 1)
        self.left.weight.data.fill_(9)
        self.left.bias.data.fill_(-4.0317)  # no value lies on a threshold, however many functions there are

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(F.pad(x, (1, 0))[..., :-1])
        return torch.cat([function(left) for function in FUNCTIONS], 1)


def test_activations_with_their_arguments() -> None:
    levels = len(FUNCTIONS)
    traced = trace(Functions(), (1, 2, 40), Categorical(levels, encode="unit"))
    request = traced.request(3, seed=0)
    for engine in ENGINES:
        found = traced.run(engine, request)
        assert found.parameters is not None
        assert len(np.unique(found.values)) > levels / 2  # many inputs, so all sides of every threshold
        values = torch.from_numpy(found.values).long()
        expected = traced.module(traced.head.encode_images(values.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).unsqueeze(3)
        np.testing.assert_allclose(found.parameters, expected.numpy(), rtol=2e-6, atol=2e-6, err_msg=engine)
