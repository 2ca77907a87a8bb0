"""Every architecture, trained for seconds on the small digits, beats independent pixels on digits that it has not seen.

Independent pixels with the frequencies of each place are what a model reaches that ignores its input: below them, it must have
learned how pixels depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from scripts import BENCHMARKS, importable
from torch import nn

from pixelfast import data
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNAutoencoder, PixelCNNpp, PixelRNN, PixelSNAIL
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import train

SHAPE, LEVELS = (1, 8, 8), 17
DIGITS = BENCHMARKS / "data" / "digits8.npz"

MODELS: dict[str, Callable[[], nn.Module]] = {
    "pixelcnn": lambda: PixelCNN(SHAPE, LEVELS, features=16, blocks=2, residual="original"),
    "gated": lambda: GatedPixelCNN(SHAPE, LEVELS, features=16, layers=2),
    "gated, one stack": lambda: GatedPixelCNN(SHAPE, LEVELS, features=16, layers=2, stacks=1),
    "pixelrnn row": lambda: PixelRNN(SHAPE, LEVELS, features=16, layers=1),
    "pixelrnn diagonal": lambda: PixelRNN(SHAPE, LEVELS, features=16, layers=1, lstm="diagonal"),
    "pixelcnnpp": lambda: PixelCNNpp(SHAPE, LEVELS, features=8, blocks=1, mixtures=3, dropout=0.0),
    "pixelsnail": lambda: PixelSNAIL(SHAPE, LEVELS, features=8, blocks=1, residuals=1, key=4, dropout=0.0),
    "pixelsnail, codes": lambda: PixelSNAIL(SHAPE, LEVELS, features=8, blocks=1, residuals=1, key=4, embed=4, dropout=0.0),
    "autoencoder": lambda: PixelCNNAutoencoder(SHAPE, LEVELS, features=16, layers=2, code=4),
}


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.mark.parametrize("name", MODELS)
def test_beats_independent_pixels_on_held_out_digits(name: str) -> None:
    from learning.histogram import independent_pixels

    found = data.load(DIGITS, LEVELS, source_levels=LEVELS)
    images, held_out = found.images[:480], found.test_images[:180]
    torch.manual_seed(0)
    options = TrainOptions(epochs=2, batch_size=8, lr=1e-2, warmup=10, ema=0.9)
    history = train(MODELS[name](), images, test=(held_out,), options=options)
    assert history[1].train_bits < history[0].train_bits
    assert history[1].test_bits < history[0].test_bits
    assert history[1].test_bits < independent_pixels(images, held_out, LEVELS) - 0.05
