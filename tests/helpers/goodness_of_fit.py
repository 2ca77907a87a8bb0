"""How well draws fit a distribution."""

from __future__ import annotations

import math

import numpy as np


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic, and how many standard deviations it lies above its mean (degrees of freedom: K - 1)."""
    expected = probabilities * counts.sum()
    free = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free))
