"""The yardstick: one eager forward of the module over the images, in the batches and the memory layout that suit it best.

PyTorch's speed depends on how many images go through at once, on the layout of its tensors and on the allocator: R is the time
to sample over the time of the best of these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from measure import Memory, peak_memory, timed
from torch import Tensor, nn

from pixelfast.conditions import Conditions

BATCHES = (1, 4, 16, 64, 256)
"""Images that go through a forward at once, at most all of them."""
MEMORY_SHARE = 0.5
"""No forward may take more of the memory that is free."""
TRIES = 2


class EagerForward:
    """One forward over all images, in batches; cut into parts beforehand, so that only the module is timed.

    Args:
        inputs: the encoded images (N, C, H, W).
        layout: "NCHW" or "channels_last"; the module is copied for the latter.
    """

    def __init__(self, module: nn.Module, inputs: Tensor, conditions: Conditions, layout: str = "NCHW") -> None:
        self.layout, self.module, self.inputs, self.conditions = layout, module, inputs, conditions
        if layout == "channels_last":
            self.module = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.split(1)

    @torch.no_grad()
    def __call__(self) -> None:
        """All images."""
        for inputs, conditions in self.parts:
            self.module(inputs, *conditions.args, **conditions.kwargs)

    def first(self, batch: int) -> None:
        """The first so many images."""
        conditions = self.conditions.rows(torch.arange(batch), len(self.inputs))
        with torch.no_grad():
            self.module(self.inputs[:batch], *conditions.args, **conditions.kwargs)

    def split(self, batch: int) -> None:
        """Let so many images go through at once."""
        self.batch, count = batch, len(self.inputs)
        rows = torch.arange(count).split(batch)
        self.parts = [(self.inputs[part[0] : part[-1] + 1], self.conditions.rows(part, count)) for part in rows]

    def choose_batch(self, memory: int | None = None, most: int = BATCHES[-1]) -> int:
        """Take the batch that is fastest for each image; returns the largest one that was tried. See `fastest_batch`."""
        best, largest = fastest_batch(self.first, len(self.inputs), memory, most)
        self.split(best)
        return largest


def fastest_batch(
    run: Callable[[int], object], images: int, memory: int | None = None, most: int = BATCHES[-1]
) -> tuple[int, int]:
    """The batch of `BATCHES` with the least time for each image, and the largest that was tried.

    Args:
        run: run(batch) forwards the first so many images.
        memory: bytes that are free; no batch may take more than `MEMORY_SHARE` of them. None: memory is not looked at.
        most: larger batches are not tried.
    """
    best, least, largest = 1, float("inf"), 1
    for batch in sorted({min(batch, images) for batch in BATCHES if min(batch, images) <= most}):
        task = partial(run, batch)
        took = peak_memory(task) if memory is not None else task()  # warms up, too
        seconds = min(timed(task) for _ in range(TRIES)) / batch
        largest = batch
        if seconds < least:
            best, least = batch, seconds
        # The next batch has four times as many images.
        if memory is not None and isinstance(took, Memory) and 4 * took.peak > MEMORY_SHARE * memory:
            break
    return best, largest
