"""Layer normalisation over the channels of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..ir.graph import Edge
from ..ir.program import Map, Norm, Slot
from .evaluation import Evaluation
from .lowering_context import LoweringContext, continues, looked_at
from .shared import Mixing


@dataclass(frozen=True)
class ChannelNorm(Mixing):
    """Layer normalisation over channels, with scale and shift (F,)."""

    scale: np.ndarray
    shift: np.ndarray
    eps: float

    keeps_order = False
    looks_up = False

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

    def lower(self, at: LoweringContext) -> None:
        """Layer normalisation needs its channels side by side, in the order of its own buffer."""
        (part,) = at.parts()
        source = self._side_by_side(at)
        if source is None:
            # Gather the channels in the buffer of the result and normalise in place.
            source = part.out
            edge_of = np.concatenate([np.full(len(edge.channels), i) for i, edge in enumerate(self.edges)])
            channels = np.concatenate([edge.channels for edge in self.edges])
            for place, feature in enumerate(at.ordered):
                slot = at.slot(self.edges[edge_of[feature]], channels[feature : feature + 1])
                out = replace(part.out, channel=place, count=1)
                part.instructions.append(at.instruction(out, Map((slot,), ())))
        body = Norm(source, self.scale[at.ordered], self.shift[at.ordered], self.eps)
        part.instructions.append(at.instruction(part.out, body))

    def _side_by_side(self, at: LoweringContext) -> Slot | None:
        """Where the channels stand already as they are needed; None if they do not."""
        if len(self.edges) > 1:
            return None
        channels = looked_at(self.edges[0].channels, at.ordered)
        return at.slot(self.edges[0], channels) if continues(at.places(self.edges[0], channels)).all() else None
