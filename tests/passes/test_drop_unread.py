"""What nobody reads is not computed, and what others depend on is."""

from __future__ import annotations

import torch
from oracle import compare, trace
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Categorical, lstm_scan
from pixelfast.ops import CausalAttention

SHAPE = (1, 4, 5)
FEATURES = 6


class Masked(nn.Module):
    """Attention, then a recurrence, of which the first pixel's state is thrown away: others have seen it by then."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, FEATURES, 1)
        self.gates = nn.Conv2d(FEATURES, 4 * FEATURES, 1)
        self.out = nn.Conv2d(FEATURES, 4, 1)
        self.state = nn.Parameter(torch.randn(2, FEATURES, 4 * FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        before = F.pad(self.first(x).flatten(2), (1, -1)).transpose(1, 2)  # (N, pixels, F), one pixel late
        place = torch.arange(height * width)
        found = F.scaled_dot_product_attention(before, before, before + 3, place <= place[:, None])
        maps = found.transpose(1, 2).unflatten(2, (height, width))
        states = lstm_scan(self.gates(maps), self.state, [(-1, 0), (0, -1)], (0, -1))
        return self.out(states * (place > 0).view(height, width))


def test_states_that_others_depend_on_are_read() -> None:
    traced = trace(Masked().eval(), SHAPE, Categorical(4, encode="symmetric"))
    (attention,) = (node for node in traced.compiled.analysis.graph.nodes if isinstance(node, CausalAttention))
    assert attention.seen.counts().tolist() == list(range(1, SHAPE[1] * SHAPE[2] + 1))
    assert compare(traced, 3) == 0
