"""What a prediction depends on, by gradient: shared by the tests of the models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def randomise(model: nn.Module, std: float = 0.3) -> nn.Module:
    """Weights in float64 large enough for gradients that cannot be mistaken for zero, in evaluation mode."""
    torch.manual_seed(0)
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


def dependencies(predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Which sub-pixel (column) a prediction (row) depends on, both in drawing order: bool (C * H * W, S).

    Args:
        predict: (1, C, H, W) -> (1, K, C, H, W), with S = C H W rows, or (1, P, H, W) for whole pixels, with S = H W rows.
    """
    x = image.clone().requires_grad_()
    output = predict(x)
    output = output.unsqueeze(2) if output.dim() == 4 else output
    weights = torch.randn(output.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    flat = torch.einsum("k,kchw->hwc", weights, output[0]).reshape(-1)
    return torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0][0].permute(1, 2, 0).reshape(-1) != 0 for y in flat])


def assert_causal(seen: Tensor, channels: int, per_pixel: bool, width: int) -> None:
    """No prediction sees itself or what comes later, and each sees the pixel to its left and the earlier colours.

    Args:
        seen: from `dependencies`.
        per_pixel: predictions see whole earlier pixels only: one for each pixel, or independent colours.
    """
    inputs = torch.arange(seen.shape[1])
    outputs = torch.arange(seen.shape[0]) * (seen.shape[1] // seen.shape[0])
    before = inputs // channels < outputs.unsqueeze(1) // channels if per_pixel else inputs < outputs.unsqueeze(1)
    assert not (seen & ~before).any()
    pixel, own = inputs // channels, outputs.unsqueeze(1) // channels
    near = before & (own - pixel <= 1) & (own % width > 0)
    assert seen[near].all()
    assert seen[before.any(1)].any(1).all()  # even the first pixel of a row sees something
