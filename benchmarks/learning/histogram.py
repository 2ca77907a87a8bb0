"""What a model that learns anything must beat: independent pixels, each with the training images' own frequencies at its place.

Letters: N images, C channels, H rows, W columns, K levels.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

PRIOR = 10.0
"""The frequencies over all places count as this many images at each place, which may lack a value."""


def independent_pixels(images: Tensor, held_out: Tensor, levels: int) -> float:
    """Bits/dim of integer images (M, C, H, W), by the frequencies of the values at each place of ``images`` (N, C, H, W)."""
    counts = F.one_hot(images, levels).sum(0).double()  # (C, H, W, K)
    everywhere = counts.sum((1, 2), keepdim=True) + 1  # (C, 1, 1, K)
    everywhere = everywhere / everywhere.sum(-1, keepdim=True)
    chances = (counts + PRIOR * everywhere) / (len(images) + PRIOR)
    result = chances.expand(len(held_out), *chances.shape).gather(-1, held_out.unsqueeze(-1))  # (M, C, H, W, 1)
    return float(-result.log().mean() / math.log(2))
