"""What is measured: models of every kind that the package has, at published sizes, and models in other people's idioms.

Imports of the package are those of its public interface, since `contender.py` builds the models with earlier checkouts, too. A
new family is one entry of `MODELS`. Weights are random where there is no shipped checkpoint: how fast a model is sampled does
not depend on them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

import pixelfast
from pixelfast import Bernoulli, Categorical, Head
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNAutoencoder, PixelCNNpp, PixelRNN, PixelSNAIL
from speed.borrowed import BinaryResidual, CodePrior, DilatedGated, LatticeNet, PlainStack

Shape = tuple[int, int, int]
QUICK_SIDE = 10
"""Rows and columns of an image with --quick, at most."""


@dataclass(frozen=True)
class Model:
    """One entry of the report.

    Attributes:
        build: makes the module for images of a shape (C, H, W).
        shape: the published size of the images.
        note: what it is and where its size comes from.
        images: how many images are drawn unless --n says otherwise.
        head: of modules that bring none.
        classes: how many labels the module takes as its second argument; 0: none.
        vector: how many numbers it takes there for each image; 0: none.
        multiple: rows and columns of an image must be a multiple of this.
        family: "own" (the package's models), "shipped" (its checkpoints) or "borrowed" (other people's idioms).
        compiled: measure it under torch.compile, too, which takes long to compile.
        netket: NetKet has the same network.
        lower: measure the lower precisions, too, for up to so many images.
    """

    build: Callable[[Shape], nn.Module]
    shape: Shape
    note: str
    images: tuple[int, ...] = (1, 16)
    head: Head | None = None
    classes: int = 0
    vector: int = 0
    multiple: int = 1
    family: str = "own"
    compiled: bool = False
    netket: bool = False
    lower: int = 0

    def make(self, shape: Shape) -> tuple[nn.Module, Head]:
        """The module in eval mode, always with the same weights, and its head."""
        torch.manual_seed(0)
        module = self.build(shape).eval()
        for name, buffer in module.named_buffers():  # batch normalisation that has seen data
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        return module, self.head or cast(Head, module.head)

    def cond(self, images: int) -> Any:
        """Conditions for so many images."""
        if self.vector:
            return torch.randn(images, self.vector, generator=torch.Generator().manual_seed(0))
        return torch.arange(images) % self.classes if self.classes else None

    def quick_shape(self) -> Shape:
        channels, height, width = self.shape
        most = QUICK_SIDE // self.multiple * self.multiple
        return channels, min(height, most), min(width, most)


MODELS: dict[str, Model] = {
    "a": Model(
        lambda shape: PixelCNN(shape, levels=256, features=64, blocks=5, norm=True),
        (1, 28, 28),
        "PixelCNN, 5 residual blocks of 7x7 with 64 features, layer norm, 256 levels: van den Oord et al. 2016a, MNIST's size",
        (1, 16, 64),
        compiled=True,
    ),
    "b": Model(
        lambda shape: GatedPixelCNN(shape, levels=256, features=128, layers=15, classes=10),
        (3, 32, 32),
        "Gated PixelCNN, class-conditional, 15 layers of 128 features, 256 levels, RGB: van den Oord et al. 2016b, CIFAR",
        (1, 4, 16),
        classes=10,
        lower=1,
    ),
    "c": Model(
        lambda shape: PixelCNNpp(shape, levels=256, features=160, blocks=5, mixtures=10),
        (3, 32, 32),
        "PixelCNN++, 160 features, 5 layers at each of three resolutions, 10 logistics: Salimans et al. 2017, CIFAR-10",
        (1, 4),
        multiple=4,
    ),
    "d": Model(
        lambda shape: PixelSNAIL(shape, levels=512, features=256, blocks=4, residuals=4, key=16, heads=8, embed=64),
        (1, 32, 32),
        "PixelSNAIL as a prior over 32x32 codes of 512, 256 features, 4 blocks of 4 residual nets, 8 heads: the upper prior of "
        "rosinality's VQ-VAE-2; Chen et al. 2018",
        (1, 4),
    ),
    "row": Model(
        lambda shape: PixelRNN(shape, levels=2, features=32, layers=7, lstm="row"),
        (1, 28, 28),
        "PixelRNN with 7 Row LSTM layers, h = 16, binarised MNIST: van den Oord et al. 2016a",
        (1, 4),
    ),
    "diagonal": Model(
        lambda shape: PixelRNN(shape, levels=2, features=32, layers=7, lstm="diagonal"),
        (1, 28, 28),
        "PixelRNN with 7 Diagonal BiLSTM layers, h = 16, binarised MNIST: van den Oord et al. 2016a",
        (1, 4),
    ),
    "decoder": Model(
        lambda shape: PixelCNNAutoencoder(shape, levels=256, features=128, layers=15, code=100),
        (3, 32, 32),
        "the decoder of a PixelCNN auto-encoder, as b given 100 numbers of an encoder: van den Oord et al. 2016b",
        (1, 4),
        vector=100,
    ),
    "vq": Model(
        lambda shape: GatedPixelCNN(shape, levels=512, features=64, layers=15, classes=10),
        (1, 32, 32),
        "Gated PixelCNN as a prior over 32x32 codes of 512, class-conditional, 15 layers of 64: VQ-VAE, 2017",
        classes=10,
    ),
    "wide": Model(
        lambda shape: PixelCNN(shape, levels=256, features=64, blocks=5),
        (1, 64, 64),
        "PixelCNN, 5 residual blocks of 7x7 with 64 features, 256 levels, on a grey image of 64x64",
    ),
    "digits": Model(
        lambda shape: pixelfast.load("digits"),
        (1, 28, 28),
        "the shipped checkpoint: Gated PixelCNN, class-conditional, 8 layers of 32 features, 4 levels",
        (1, 64),
        classes=10,
        family="shipped",
    ),
    "emoji": Model(
        lambda shape: pixelfast.load("emoji"),
        (3, 16, 16),
        "the shipped checkpoint: Gated PixelCNN, class-conditional, 8 layers of 60 features, 16 levels, RGB",
        (1, 64),
        classes=9,
        family="shipped",
    ),
    "binary": Model(
        lambda shape: BinaryResidual(),
        (1, 28, 28),
        "binarised MNIST: 7x7, then 15 residual blocks of 32 features, one logit: van den Oord et al. 2016a",
        (1, 64),
        head=Bernoulli(encode="unit"),
        family="borrowed",
    ),
    "lattice": Model(
        lambda shape: LatticeNet(),
        (1, 16, 16),
        "spins on a 16x16 lattice, 4 convolutions of 3x5 with 32 features, one logit: the network of NetKet's ARNNConv2D",
        (64, 1024),
        head=Bernoulli(encode="symmetric"),
        family="borrowed",
        netket=True,
    ),
    "plain": Model(
        lambda shape: PlainStack(),
        (1, 28, 28),
        "eight 7x7 convolutions of 64 features with batch norm, masks written through .data: the short scripts for MNIST",
        head=Categorical(256, encode="unit"),
        family="borrowed",
    ),
    "dilated": Model(
        lambda shape: DilatedGated(),
        (1, 28, 28),
        "gated stacks with dilations 1 2 1 4 1 2 1 and 64 features, 256 levels: as tutorials teach it",
        head=Categorical(256, encode=(1.0, 0.0)),
        family="borrowed",
    ),
    "codes": Model(
        lambda shape: CodePrior(),
        (1, 8, 8),
        "prior over 8x8 codes of 512: embedding, 15 gated layers of 64 features, labels: as VQ-VAE repositories have it",
        (1, 64),
        head=Categorical(512, encode="integer"),
        classes=10,
        family="borrowed",
    ),
}

QUICK = ("a", "lattice")
"""Models of --quick, with images of `QUICK_SIDE` rows and columns."""


def find(names: list[str] | None, quick: bool = False) -> list[str]:
    """The names asked for, or all.

    Raises:
        ValueError: a name is unknown; the text lists the known ones.
    """
    if names is None:
        return list(QUICK if quick else MODELS)
    for name in names:
        if name not in MODELS:
            near = difflib.get_close_matches(name, MODELS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no model {name!r}: {hint}models are {', '.join(MODELS)}")
    return names
