"""A stranger's model, whose weights come in files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Masked(nn.Conv2d):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1, 1:] = 0
        self.mask[:, :, 2] = 0


class Net(nn.Module):
    """A stranger's model: parameters, a mask, running statistics and a counter."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.first, self.norm = Masked(1, features, 3, padding=1), nn.BatchNorm2d(features)
        self.out = nn.Conv2d(features, 4, 1)


def filled(seed: int = 0, features: int = 6) -> Net:
    """A model with weights of its own, statistics too."""
    torch.manual_seed(seed)
    net = Net(features)
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.num_batches_tracked.fill_(7 + seed)
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
