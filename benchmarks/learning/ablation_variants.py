"""The classic ablations: what is compared with what, and on which data.

All models are small, since few images are quickly learned by heart. Variants of one ablation differ in one argument alone, but
for the single stack with as many weights as two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixelfast.models import MODELS

FOLDER = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Images:
    """A data set: its file, K, the values that the file's pixels can take, and how many epochs suit it."""

    file: Path
    levels: int
    source_levels: int
    epochs: int


@dataclass(frozen=True)
class Variant:
    """A model and what it is called in tables."""

    name: str
    model: str
    arguments: Mapping[str, Any]

    def build(self, shape: tuple[int, int, int], levels: int, seed: int) -> nn.Module:
        """The model with fresh weights for images (C, H, W) of K levels."""
        torch.manual_seed(seed)
        return MODELS[self.model](shape=shape, levels=levels, **self.arguments)


@dataclass(frozen=True)
class Ablation:
    """What is asked, on which data by default, and the variants: the first is what the others are compared with."""

    title: str
    data: str
    variants: tuple[Variant, ...]
    blind_spot: bool = False
    """Does the table tell how much of the past each variant cannot see?"""
    colour: bool = False
    """Does it need colour images?"""


def pixelcnn(name: str, **arguments: Any) -> Variant:
    return Variant(name, "pixelcnn", {"features": 48, "blocks": 5, "residual": "original"} | arguments)


def gated(name: str, **arguments: Any) -> Variant:
    return Variant(name, "gated", {"features": 32, "layers": 5} | arguments)


DATA = {
    "digits8": Images(FOLDER / "digits8.npz", 17, 17, epochs=10),
    "emoji8": Images(FOLDER / "emoji8.npz", 8, 8, epochs=6),
}

ABLATIONS = {
    "layer-norm": Ablation(
        "Layer normalisation over channels", "digits8", (pixelcnn("without"), pixelcnn("layer normalisation", norm=True))
    ),
    "blocks": Ablation(
        "Residual blocks", "digits8", (pixelcnn("5 blocks"), pixelcnn("8 blocks", blocks=8), pixelcnn("10 blocks", blocks=10))
    ),
    "colour": Ablation(
        "Colours of a pixel given each other",
        "emoji8",
        (pixelcnn("G given R, B given R and G"), pixelcnn("independent colours", colour=False)),
        colour=True,
    ),
    "skips": Ablation(
        "Skip connections from every block to the head",
        "digits8",
        (pixelcnn("without"), pixelcnn("skip connections", skips=True)),
    ),
    "blind-spot": Ablation(
        "One stack or two",
        "digits8",
        (
            gated("two stacks"),
            gated("single stack", stacks=1),
            gated("single stack, as many weights", stacks=1, features=44),
        ),
        blind_spot=True,
    ),
}


@torch.enable_grad()
def unseen(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """The fraction of all pairs of a pixel and an earlier one in which the first does not depend on the second, by gradient."""
    generator = torch.Generator().manual_seed(0)
    pixels = shape[1] * shape[2]
    sees = torch.zeros(pixels, pixels, dtype=torch.bool)
    for _ in range(3):  # a ReLU may be shut in one of the images
        x = torch.randn(1, *shape, generator=generator).requires_grad_()
        logits = model(x).flatten(1, 2).flatten(2)[0]  # (K * C, H * W)
        mixed = torch.randn(len(logits), generator=generator) @ logits
        for place, output in enumerate(mixed):
            gradient = torch.autograd.grad(output, x, retain_graph=True)[0]
            sees[place] |= (gradient[0] != 0).any(0).flatten()
    earlier = torch.ones_like(sees).tril(-1)
    return 1 - float((sees & earlier).sum() / earlier.sum())


def weights(model: nn.Module) -> int:
    """How many weights count: those that no mask hides."""
    hidden = 0
    for module in model.modules():
        mask = getattr(module, "mask", None)
        if isinstance(mask, torch.Tensor) and isinstance(module, nn.Conv2d):
            hidden += int((mask.expand_as(module.weight) == 0).sum())
    return sum(parameter.numel() for parameter in model.parameters()) - hidden
