"""The yardstick: one eager forward of the module over the images, in the batches and the memory layout that suit it best.

PyTorch's speed depends on how many images go through at once, on the layout of its tensors and on the allocator: R is the time
to sample over the time of the best of these.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pixelfast.distributions.base import Head
from pixelfast.inputs.conditions import Conditions
from speed.measure import Memory, Task, peak_memory, timed, wait
from speed.models import Shape

BATCHES = (1, 4, 16, 64, 256)
"""Images that go through a forward at once, at most all of them."""
MEMORY_SHARE = 0.5
"""No forward may take more of the memory that is free."""
TRIES = 2
LONG = 2.0
"""Seconds from which on warming up is try enough."""


@dataclass(frozen=True)
class Tried:
    """A forward of some images at once: seconds for each of them, and bytes in all; None: not measured."""

    seconds: float
    memory: int | None


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
        wait(self.inputs.device)

    def first(self, batch: int) -> None:
        """The first so many images."""
        conditions = self.conditions.rows(torch.arange(batch), len(self.inputs))
        with torch.no_grad():
            self.module(self.inputs[:batch], *conditions.args, **conditions.kwargs)
        wait(self.inputs.device)

    def split(self, batch: int) -> None:
        """Let so many images go through at once."""
        self.batch, count = batch, len(self.inputs)
        rows = torch.arange(count).split(batch)
        self.parts = [(self.inputs[part[0] : part[-1] + 1], self.conditions.rows(part, count)) for part in rows]

    def choose_batch(self, tried: dict[int, Tried], memory: int | None = None, most: int = BATCHES[-1]) -> None:
        """Take the batch that is fastest for each image; the arguments are those of `try_batches`."""
        count = len(self.inputs)
        try_batches(self.first, count, tried, memory, most)
        self.split(fastest(tried, count))


def any_images(head: Head, images: int, shape: Shape) -> Tensor:
    """Encoded images of random values (N, C, H, W): what a forward costs does not depend on them."""
    return head.encode_images(torch.randint(head.levels, (images, *shape), generator=torch.Generator().manual_seed(0)))


def try_batches(
    run: Callable[[int], None], images: int, tried: dict[int, Tried], memory: int | None = None, most: int = BATCHES[-1]
) -> None:
    """Time the batches of `BATCHES` that have not been tried yet.

    Args:
        run: run(batch) forwards the first so many images.
        tried: what is known of this forward, for any number of images; the findings are added.
        memory: bytes that are free; no batch may take more than `MEMORY_SHARE` of them. None: memory is not looked at.
        most: larger batches are not tried.
    """
    for batch in sorted({min(batch, images) for batch in BATCHES if min(batch, images) <= most}):
        if batch not in tried:
            tried[batch] = try_batch(partial(run, batch), batch, memory is not None)
        # The next batch has four times as many images.
        if memory is not None and 4 * (tried[batch].memory or 0) > MEMORY_SHARE * memory:
            break


def try_batch(task: Task, batch: int, look_at_memory: bool) -> Tried:
    """Warm up, which tells the memory, and time."""
    begin = time.perf_counter()
    taken = peak_memory(task) if look_at_memory else task()
    took = time.perf_counter() - begin
    if took < LONG:
        took = min(timed(task)[1] for _ in range(TRIES))
    return Tried(took / batch, taken.peak if isinstance(taken, Memory) else None)


def fastest(tried: dict[int, Tried], images: int, seconds: float = float("inf")) -> int:
    """The batch that takes the least time for each image: no more than there are images, and, if one does, within `seconds`."""
    fitting = [batch for batch in tried if batch <= images]
    brief = [batch for batch in fitting if batch * tried[batch].seconds <= seconds]
    return min(brief or [min(fitting)], key=lambda batch: tried[batch].seconds)
