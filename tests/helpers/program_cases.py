"""Tables of whole programs and of whole models for all engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from conformance import Case
from heads import MIXTURES, mixture_head
from oracle import Traced, trace
from programs import Builder, by_phases, recurrent, request, wide_rows
from tolerances import FAST_PRODUCT, PROGRAM
from torch import nn

from pixelfast import Bernoulli
from pixelfast.engines.base import Request
from pixelfast.ir.program import HEADS, Program
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN, PixelSNAIL

PROGRAMS: dict[str, Case] = {}
LARGE, SMALL = (2, 7, 5), (2, 3, 3)


def builder_of(head: str, seed: int, shape: tuple[int, int, int], levels: int = 6, **options: int) -> Builder:
    """A mixture describes pixels of 1 or 3 channels."""
    shape = (3, *shape[1:]) if head in MIXTURES and shape[0] == 2 else shape
    mixture = mixture_head(head, levels, 3, shape[0])
    levels = 2 if head.startswith("bernoulli") else levels
    return Builder(np.random.default_rng(seed), shape, levels=levels, head=head, mixture=mixture, **options)


def add(name: str, make: Callable[[], Builder], images: int, small: bool = False, **options: Any) -> None:
    phases = options.pop("phases", None)

    def made() -> tuple[Program, Request]:
        builder = make()
        program, fields = builder.build(), builder.field_values(images)
        call = request(program, np.random.default_rng(7), images, fields=fields, **options)
        return (by_phases(program, *phases) if phases else program), call

    PROGRAMS[name] = Case(made, PROGRAM, small=small, composed=True)


for head in HEADS:
    for images, threads, known in ((1, 1, 0.0), (3, 2, 0.4), (64, 2, 0.0), (9, 1, 1.0)):
        build = lambda head=head, images=images: builder_of(head, images, LARGE)  # noqa: E731
        add(f"{head}, {images} images, {known} given", build, images, known=known, threads=threads)
    for images, known in ((1, 0.0), (3, 0.4)):
        build = lambda head=head, images=images: builder_of(head, images, SMALL, features=5)  # noqa: E731
        add(f"{head}, {images} images, {known} given, small", build, images, small=True, known=known, temperature=0.7)
for shape in ((1, 1, 1), (3, 1, 4), (1, 6, 1), (3, 9, 4)):
    build = lambda shape=shape: builder_of("categorical", 11, shape, 40, features=9)  # noqa: E731
    add(f"shape {shape}", build, 5, temperature=0.7)
for shape in ((1, 1, 1), (3, 1, 2), (1, 4, 1)):
    build = lambda shape=shape: builder_of("categorical", 11, shape, 40, features=9)  # noqa: E731
    add(f"shape {shape}, small", build, 2, small=True)


def some_pixels(images: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Half of all values, one row of all images, and another of one of them: (N, H, W, C)."""
    channels, height, width = shape
    mask = np.random.default_rng(2).random((images, height, width, channels)) < 0.5
    mask[:, height // 2] = mask[2, height - 1] = True
    return mask


add("given pixels inside rows", lambda: builder_of("categorical", 12, LARGE), 6, known=some_pixels(6, LARGE))
add(
    "given pixels inside rows, small",
    lambda: builder_of("categorical", 12, SMALL, features=5),
    4,
    True,
    known=some_pixels(4, SMALL),
)
for phases in ((2, 2), (3, 1), (1, 3), (4, 4)):
    for images, known in ((1, 0.0), (3, 0.4), (33, 0.0), (5, 1.0)):
        name = f"cut by {phases[0]} x {phases[1]} phases, {images} images, {known} given"
        add(name, lambda n=images: Builder(np.random.default_rng(n)), images, known=known, phases=phases)
build = lambda: builder_of("categorical", 3, (1, 3, 2), features=5)  # noqa: E731
add("cut by 2 x 3 phases, small", build, 2, small=True, known=0.5, phases=(2, 3))


def of_columns(height: int, width: int, images: int, known: float) -> tuple[Program, Request]:
    program = recurrent(np.random.default_rng(0), height, width)
    return program, request(program, np.random.default_rng(3), images, known=known)


def of_wide_rows() -> tuple[Program, Request]:
    rng = np.random.default_rng(0)
    program = wide_rows(rng)
    return program, request(program, rng, 3, known=0.5)


for known in (0.0, 0.5, 1.0):
    PROGRAMS[f"order of columns, {known} given"] = Case(lambda k=known: of_columns(7, 5, 4, k), PROGRAM, composed=True)
    PROGRAMS[f"order of columns, {known} given, small"] = Case(
        lambda k=known: of_columns(3, 4, 2, k), PROGRAM, True, composed=True
    )
PROGRAMS["wide rows"] = Case(of_wide_rows, FAST_PRODUCT, composed=True)

# Models.


class Shifted(nn.Module):
    """One convolution of the pixels above and to the left, whose outputs are logits of 1."""

    shape, head = (1, 4, 3), Bernoulli()

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight * torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        return nn.functional.conv2d(nn.functional.pad(x, (1, 0, 1, 0)), 3 * weight, self.convolution.bias)


@dataclass(frozen=True, eq=False)
class Model:
    """A module, random but always the same, and what it is told of its images."""

    build: Callable[[], nn.Module]
    cond: Any = None
    small: bool = True

    def traced(self) -> Traced:
        return _traced(self)


@lru_cache
def _traced(model: Model) -> Traced:
    torch.manual_seed(0)
    module: Any = model.build().eval()
    return trace(module, module.shape, module.head, model.cond)


LABELS = torch.arange(3)
MODELS = {
    "pixelcnn": Model(lambda: PixelCNN((1, 5, 4), levels=4, features=18, blocks=1, norm=True)),
    "row LSTM": Model(lambda: PixelRNN((1, 3, 3), levels=4, features=6, layers=1)),
    "diagonal LSTM": Model(lambda: PixelRNN((1, 3, 3), levels=4, features=6, layers=1, lstm="diagonal")),
    "gated": Model(lambda: GatedPixelCNN((3, 3, 3), levels=5, features=9, layers=2, classes=3), LABELS),
    "PixelCNN++": Model(lambda: PixelCNNpp((3, 4, 4), levels=17, features=5, blocks=1, mixtures=2)),
    "PixelSNAIL": Model(
        lambda: PixelSNAIL((3, 3, 3), 256, features=6, blocks=2, residuals=1, key=3, heads=2, mixtures=3)
    ),
    "PixelSNAIL, codes": Model(
        lambda: PixelSNAIL((1, 4, 3), 7, features=6, blocks=1, residuals=1, key=4, heads=1, embed=3, classes=4), LABELS
    ),
    "Bernoulli": Model(Shifted),
    "pixelcnn, large": Model(lambda: PixelCNN((3, 9, 7), levels=5, features=18, blocks=3), small=False),
    "gated, large": Model(lambda: GatedPixelCNN((3, 9, 7), levels=5, features=9, layers=4, classes=3), LABELS, small=False),
}  # fmt: skip
