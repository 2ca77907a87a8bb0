"""A few steps of training on images that come with the package, and a checkpoint's way there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pixelfast.files import checkpoint
from pixelfast.files.checkpoint import SHIPPED
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim, train


def digits(height: int = 12, width: int = 8) -> tuple[Tensor, Tensor, int]:
    """The middle of 32 grey digits of 4 levels: (32, 1, height, width), labels (32,), K."""
    return _held_out("digits", height, width, 4)


def emoji(height: int = 12, width: int = 8) -> tuple[Tensor, Tensor, int]:
    """The middle of 27 colour emoji of 16 levels: (27, 3, height, width), labels (27,), K."""
    return _held_out("emoji", height, width, 16)


def _held_out(name: str, height: int, width: int, levels: int) -> tuple[Tensor, Tensor, int]:
    held = np.load(SHIPPED / name / "held_out.npz")
    images, labels = torch.from_numpy(held["images"][:32]).long(), torch.from_numpy(held["labels"][:32]).long()
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width], labels, levels


def falls(
    model: nn.Module, images: Tensor, labels: Tensor | None, folder: Path, maps: Tensor | None = None, lr: float = 5e-3
) -> None:
    """Bits/dim fall below a tenth less than at the start, and the checkpoint in ``folder`` scores as the model does."""
    options = TrainOptions(epochs=8, batch_size=8, lr=lr, ema=0.5, warmup=2)
    history = train(model, images, labels, maps, options=options, folder=folder)
    first, last = history[0].train_bits, history[-1].train_bits
    assert last < 0.9 * first, f"{first} -> {last}"
    assert bits_per_dim(model, images, labels, maps) < 0.9 * first
    again = checkpoint.load(folder)
    assert again.config == model.config
    assert bits_per_dim(again, images, labels, maps) == bits_per_dim(model, images, labels, maps)


@torch.no_grad()
def assert_initialised(model: nn.Module, *inputs: Tensor) -> None:
    """The outputs of every weight-normed layer have mean 0 and variance 1, of second convolutions in residual nets 0.01."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    for layer in model.modules():
        if is_parametrized(layer, "weight"):
            layer.register_forward_hook(lambda layer, _, y: outputs.append((layer, y)))
    model.eval()(*inputs)
    assert {layer.init_scale for layer, _ in outputs} == {1.0, 0.1}
    for layer, y in outputs:
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3 * layer.init_scale, rtol=0)
        torch.testing.assert_close(variance, torch.full_like(variance, layer.init_scale**2), rtol=2e-3, atol=0)
