"""What a user has today: one forward of the module for every sub-pixel, on the whole image or on the rows so far.

All steps of an image would take minutes. A few are measured, spread over the image, and the rest follows by
`results.extrapolate`. Letters: N images, C channels, H rows, W columns, P parameters of a sub-pixel's distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelfast.distributions.base import Head
from pixelfast.inputs.conditions import Conditions
from pixelfast.trace.output import OutputLayout
from speed.measure import wait
from speed.results import extrapolate

Forward = Callable[..., Any]
CPU = torch.device("cpu")


@dataclass
class UsualLoop:
    """Steps of the usual loop, for one batch of images.

    Attributes:
        forward: the module, or what torch.compile made of it.
        layout: where the parameters stand in its output.
        conditions: of the images.
        noise: float32 (N, H, W, C).
        crop: forward only the rows up to the one that is being drawn.
        device: where the module is.
    """

    forward: Forward
    head: Head
    layout: OutputLayout
    conditions: Conditions
    noise: np.ndarray
    crop: bool = False
    device: torch.device = CPU

    def __post_init__(self) -> None:
        self.uniform = torch.from_numpy(self.noise).to(self.device)
        # Finished images of any values: what a step costs does not depend on them.
        self.values = (self.uniform * self.head.levels).long().permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)

    @torch.no_grad()
    def parameters(self, row: int, col: int, channel: int) -> Tensor:
        """The parameters (N, P) of one sub-pixel."""
        images, layout = self.values, self.layout
        if self.crop:
            images, layout = images[:, :, : row + 1], replace(layout, height=row + 1)
        output = self.forward(self.head.encode_images(images), *self.conditions.args, **self.conditions.kwargs)
        output = output[0] if isinstance(output, (tuple, list)) else output
        return layout.read(output, len(images))[:, row, col, channel]

    def step(self, row: int, col: int, channel: int) -> None:
        """Draw one sub-pixel of every image."""
        own = self.head.conditional(self.parameters(row, col, channel), self.values[:, :channel, row, col])
        drawn = self.head.draw(own, self.uniform[:, row, col, channel])
        self.values[:, channel, row, col] = drawn

    def seconds(self, steps: int) -> float:
        """Seconds for all sub-pixels, extrapolated from `steps` of them."""
        _, height, width, channels = self.noise.shape
        places = spread(steps, height, width, channels)
        took = []
        for place in places:
            wait(self.device)
            begin = time.perf_counter()
            self.step(*place)
            wait(self.device)
            took.append(time.perf_counter() - begin)
        return extrapolate([row for row, _, _ in places], took, height, width * channels)


def spread(steps: int, height: int, width: int, channels: int) -> list[tuple[int, int, int]]:
    """Places (row, col, channel) in different rows, from the first to the last; fewer if there are fewer rows."""
    rows = sorted({round(i) for i in np.linspace(0, height - 1, max(2, steps))})
    return [(row, (2 * i + 1) * width // (2 * len(rows)), i % channels) for i, row in enumerate(rows)]
