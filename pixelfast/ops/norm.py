"""Layer normalisation over the channels of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..ir.graph import Edge
from .evaluation import Evaluation
from .shared import Mixing


@dataclass(frozen=True)
class ChannelNorm(Mixing):
    """Layer normalisation over channels, with scale and shift (F,)."""

    scale: np.ndarray
    shift: np.ndarray
    eps: float

    keeps_order = False

    def check(self) -> None:
        assert sum(len(edge.channels) for edge in self.edges) == self.features
        assert self.scale.shape == self.shift.shape == (self.features,)

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        x = evaluation.read_all(self.edges, self.domain)
        scale, shift = torch.from_numpy(self.scale).double(), torch.from_numpy(self.shift).double()
        return F.layer_norm(x, x.shape[-1:], scale, shift, self.eps)

    def order_from(self) -> Edge | None:
        return self.edges[0] if len(self.edges) == 1 else None

    def order_for(self) -> Sequence[Edge]:
        return ()
