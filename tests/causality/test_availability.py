"""Availability and the receptive field: right element by element, and no more careful than need be."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from foreign import COLOUR, cached_mask
from leaks import HEAD
from random_models import SMOOTH, Config, build, conditions_of, head_of, influence, random_config
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical
from pixelfast.causality.receptive_field import receptive_field
from pixelfast.inputs.conditions import Conditions
from pixelfast.models import PixelCNN
from pixelfast.pipeline import Analysis, analyse
from pixelfast.trace.capture import frozen_copy


def times_of_parameters(analysis: Analysis) -> np.ndarray:
    """The last sub-pixel that each parameter depends on, (S, P), sub-pixels in the order of drawing; -1 for none."""
    channels, height, width = analysis.graph.shape
    result = [
        [
            analysis.times[edge.source].at(int(feature), row + edge.row, col + edge.col)
            for edge in analysis.graph.outputs[channel]
            for feature in edge.channels
        ]
        for row in range(height)
        for col in range(width)
        for channel in range(channels)
    ]
    return np.array(result)


def analysed(config: Config) -> Analysis:
    head = head_of(config, config.layout)
    conditions = Conditions.parse(conditions_of(config, 2))
    return analyse(frozen_copy(build(config)), config.shape, head, conditions)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("number", range(22))
def test_availability_and_receptive_field_against_perturbation(number: int) -> None:
    """A parameter changes with a sub-pixel only if its time and the receptive field say so.

    For generic weights they claim no more than can be seen. (Of one or two channels, layer normalisation leaves nothing.)
    """
    config = random_config(Random(number), activations=SMOOTH, small=True, plain=True)
    if config.shape[1] * config.shape[2] <= 5:
        return
    moved = influence(config, 3).numpy()  # (S changed, S predicted, P)
    analysis = analysed(config)
    times = times_of_parameters(analysis)  # (S, P)
    size = len(times)
    assert not (moved & (np.arange(size)[:, None, None] > times)).any(), "a parameter changes with what it does not see"
    seen, found = fields_at_the_middle(config, analysis, moved)
    assert not (found & ~seen).any()
    if all(block.norm in ("none", "batch") for block in config.blocks):
        last = np.where(moved.any(0), size - 1 - moved[::-1].argmax(0), -1)
        assert (last == times).mean() > 0.95
        assert found.sum() >= 0.95 * seen.sum()


def fields_at_the_middle(config: Config, analysis: Analysis, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the pixel in the middle sees, as analysed and as tried: bool (C predicting, C seen, H, W)."""
    channels, height, width = config.shape
    row, col = height // 2, width // 2
    by_place = moved.any(-1).reshape(height, width, channels, height, width, channels)
    return receptive_field(analysis.graph, row, col).seen, by_place[:, :, :, row, col].transpose(3, 2, 0, 1)


def test_availability_of_a_known_model() -> None:
    """By hand: 3 x 3 mask A, then 1 x 1. A pixel's logits know the pixel to its left, or above to the right."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Parameter(torch.randn(4, 1, 3, 3)), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.conv2d(x, self.conv * cached_mask(3, 3, "A", x.device), padding=1))

    times = times_of_parameters(analyse(frozen_copy(Small()), (1, 3, 4), HEAD, Conditions()))
    assert times.shape == (12, 4)
    assert (times == np.array([-1, 0, 1, 2, 1, 4, 5, 6, 5, 8, 9, 10])[:, None]).all()


def test_colours_are_told_apart() -> None:
    """Features of R, G and B become available one after the other within a pixel."""
    model = PixelCNN(shape=(3, 4, 4), levels=2, features=6, blocks=1)
    times = times_of_parameters(analyse(frozen_copy(model), (3, 4, 4), model.head, Conditions()))
    assert (times.reshape(4, 4, 3, 2)[1, 2] == np.array([[17, 17], [18, 18], [19, 19]])).all()
    independent = PixelCNN(shape=(3, 4, 4), levels=2, features=6, blocks=1, colour=False)
    times = times_of_parameters(analyse(frozen_copy(independent), (3, 4, 4), model.head, Conditions()))
    assert (times.reshape(4, 4, 3, 2)[1, 2] == 17).all()


def test_layouts_are_chosen_by_causality() -> None:
    """(K, C) and (C, K) both fit 12 planes; only one of them is autoregressive."""

    class Planes(nn.Module):
        def __init__(self, order: str) -> None:
            super().__init__()
            self.order, self.model = order, PixelCNN(shape=COLOUR, levels=3, features=6, blocks=1)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.model(x)  # (N, K, C, H, W)
            return (logits if self.order == "KC" else logits.transpose(1, 2)).flatten(1, 2)

    for order in ("KC", "CK"):
        assert pixelfast.check(Planes(order), COLOUR, Categorical(3)).layout == f"N({order})HW"
