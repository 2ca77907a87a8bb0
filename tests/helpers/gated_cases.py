"""Cases of the fused gated convolution, and how it is compared with its naive twin, on whatever device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelfast.kernels.gated_conv import gated_conv, live_taps, naive_gated_conv
from pixelfast.models import MaskedConv2d

NAMES = ("x", "weight", "bias", "condition", "map", "residual")
# Largest difference from the twin in float64, relative to the largest number.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


@dataclass(frozen=True)
class Case:
    """A kernel's mask, where the pixel lies in it, and what is added; I channels in, F features."""

    mask: Tensor
    anchor: tuple[int, int]
    dilation: int = 1
    channels: int = 17
    features: int = 17
    extras: tuple[str, ...] = ("bias", "condition", "map", "residual")
    shape: tuple[int, int, int] = (3, 7, 5)  # N, H, W

    def inputs(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, Tensor | None]:
        """Leaves that want gradients. A dead cell of the weight is NaN: whoever reads it, shows."""
        generator = torch.Generator().manual_seed(seed)
        n, height, width = self.shape
        double, depth = 2 * self.features, self.channels * max(int(self.mask.count_nonzero()), 1)
        sizes = {"x": (n, self.channels, height, width), "weight": (double, self.channels, *self.mask.shape[-2:])}
        sizes |= {"bias": (double,), "condition": (n, double)}
        sizes |= {"map": (n, double, height, width), "residual": (n, self.features, height, width)}
        made = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
        made["weight"] = made["weight"] / math.sqrt(depth)
        made["weight"] = torch.where(self.mask != 0, made["weight"], math.nan)
        wanted = {"x", "weight", *self.extras}
        return {name: made[name].to(device, dtype).requires_grad_() if name in wanted else None for name in NAMES}

    def run(self, function: Callable[..., tuple[Tensor, Tensor]], given: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        others = {name: tensor for name, tensor in given.items() if name not in ("x", "weight")}
        return function(given["x"], given["weight"], live_taps(self.mask, self.anchor, self.dilation), **others)


def masked(mask: str, size: int) -> Tensor:
    return MaskedConv2d(1, 1, size, mask).mask[0, 0]


CASES = {
    "3x3 B": Case(masked("B", 3), (1, 1)),
    "3x3 A, an image's own channel": Case(masked("A", 3), (1, 1), channels=1, extras=("bias",)),
    "1x1": Case(torch.ones(1, 1), (0, 0), extras=("condition",)),
    "1x4, to the left": Case(torch.ones(1, 4), (0, 3), extras=("residual",)),
    "2x3, above": Case(torch.ones(2, 3), (1, 1), channels=5, extras=("map",)),
    "3x3 B, dilated": Case(masked("B", 3), (1, 1), dilation=2, extras=()),
    "further than the image": Case(masked("B", 3), (1, 1), dilation=6, extras=("bias",)),
    "one feature": Case(masked("B", 3), (1, 1), channels=1, features=1),
    "no tap at all": Case(torch.zeros(1, 1), (0, 0), channels=2),
    "more pixels than a block": Case(torch.ones(1, 2), (0, 1), channels=2, features=2, shape=(2, 12, 11)),
    "more features than a block": Case(torch.ones(1, 2), (0, 1), channels=33, features=67, extras=("bias",)),
}


def check_values_and_gradients(case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
    given = case.inputs(dtype, device)
    wide = {name: None if tensor is None else tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    found, expected = case.run(gated_conv, given), case.run(naive_gated_conv, wide)
    close("y", found[0], expected[0], TOLERANCE[dtype])
    close("sums", found[1], expected[1], TOLERANCE[dtype])
    pull(found, dtype)
    pull(expected, torch.float64)
    for name, tensor in wide.items():
        if tensor is not None:
            close(f"the gradient of {name}", gradient(given[name]), gradient(tensor), TOLERANCE[dtype])


def check_low_precision(case: Case, dtype: torch.dtype, device: str = "cpu") -> None:
    """The error against float64 is at most twice that of PyTorch in the same precision."""
    half = case.inputs(dtype, device)
    plain, wide = (
        {key: None if t is None else t.detach().to(other).requires_grad_() for key, t in half.items()}
        for other in (dtype, torch.float64)
    )
    results = [case.run(function, given) for function, given in ((gated_conv, half), (naive_gated_conv, plain))]
    expected = case.run(naive_gated_conv, wide)
    for result in (*results, expected):
        pull(result, result[0].dtype)
    found, usual, truth = (
        [*result, *(gradient(tensor) for tensor in given.values() if tensor is not None)]
        for result, given in ((results[0], half), (results[1], plain), (expected, wide))
    )
    for f, u, t in zip(found, usual, truth, strict=True):
        if t.numel():
            assert f.dtype == dtype
            assert error(f, t) <= 2 * max(error(u, t), torch.finfo(dtype).eps / 2)


def pull(results: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """A gradient for both results, the same whatever their type."""
    generator = torch.Generator().manual_seed(9)
    grads = [torch.randn(result.shape, generator=generator, dtype=torch.float64).to(torch.float16) for result in results]
    torch.autograd.backward(results, [grad.to(results[0].device, dtype) for grad in grads])


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@torch.no_grad()
def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def close(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape, name
    if expected.numel():
        assert error(found, expected) <= tolerance, f"{name}: {error(found, expected):.2e}"
