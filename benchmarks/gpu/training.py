"""Training by fused kernels against PyTorch's own: a Gated PixelCNN's layer, and a step of the whole model.

Correctness first: outputs and gradients against PyTorch in float32 without TF32, relative to the largest number. A row that is
further away than twice what PyTorch itself is in the same precision shows no time. Shapes are those of model b: 128 features on
32x32 pixels, three colours, ten classes. Letters: N images, F features, H rows, W columns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpu.records import emit, without_gpu
from pixelfast.models import GatedPixelCNN, fuse_gates
from pixelfast.models.gated import GatedLayer
from speed.measure import timed, wait

RUNS, WARM = 7, 3
PRECISIONS: dict[str, tuple[torch.dtype | None, bool]] = {
    "float32": (None, False),
    "float32, TF32 in PyTorch's convolutions": (None, True),
    "bfloat16 by autocast": (torch.bfloat16, True),
    "float16 by autocast": (torch.float16, True),
}
"""The type of autocast, and whether PyTorch may use TF32."""
EXACT = 1e-4
"""What float32 may differ after fifteen layers: sums of thousands of terms in another order."""

Step = Callable[[nn.Module], Tensor]


def mode(dtype: torch.dtype | None, tf32: bool, device: str) -> AbstractContextManager[object]:
    stack = ExitStack()
    # cuDNN looks for its fastest kernels, as a user who trains for long lets it.
    stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32))
    stack.enter_context(nullcontext() if dtype is None else torch.autocast(device, dtype))
    return stack


def layer_case(images: int, device: str, features: int = 128, side: int = 32) -> tuple[nn.Module, Step]:
    """One layer of both stacks; the step gives a number that depends on both of its outputs."""
    torch.manual_seed(0)
    layer = nn.ModuleList([GatedLayer(features, 3, 3, 10, 0, 0)]).to(device)
    v, h = (torch.randn(images, features, side, side, device=device, requires_grad=True) for _ in "vh")
    label, pull = torch.arange(images, device=device) % 10, torch.randn(images, features, side, side, device=device)

    def step(model: nn.Module) -> Tensor:
        first, second = model[0](v, h, label, None)  # type: ignore[index]
        return ((first.float() + 2 * second.float()) * pull).mean() * 1e3

    return layer, step


def model_case(images: int, device: str, features: int = 128, side: int = 32, layers: int = 15) -> tuple[nn.Module, Step]:
    """A training step of model b but for the optimizer's: mean of the negative log-likelihood."""
    torch.manual_seed(0)
    model = GatedPixelCNN((3, side, side), levels=256, features=features, layers=layers, classes=10).to(device)
    values = torch.randint(256, (images, 3, side, side), device=device)
    inputs, label = model.head.encode_images(values), torch.arange(images, device=device) % 10

    def step(module: nn.Module) -> Tensor:
        logits = module(inputs, label).float()  # (N, K, C, H, W)
        return F.cross_entropy(logits, values)

    return model, step


def once(model: nn.Module, step: Step) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss = step(model)
    loss.backward()
    return loss


def results(model: nn.Module, step: Step) -> list[Tensor]:
    """The loss and all gradients; what the loss does not depend on has zero or none."""
    loss = once(model, step)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.float().clone() for p in model.parameters()]
    return [loss.detach().float(), *grads]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of any tensor, relative to its largest number."""
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-20)) for a, b in zip(found, expected, strict=True))


def seconds(model: nn.Module, step: Step, device: str) -> float:
    def task() -> None:
        once(model, step)
        wait(torch.device(device))

    return statistics.median([timed(task)[1] for _ in range(WARM + RUNS)][WARM:])


def measure(name: str, model: nn.Module, step: Step, precision: str, device: str) -> bool:
    """One row: PyTorch, fused, and how far each lies from float32."""
    dtype, tf32 = PRECISIONS[precision]
    fused = fuse_gates(copy.deepcopy(model))
    with mode(None, False, device):
        exact = results(model, step)
    with mode(dtype, tf32, device):
        own, theirs = error(results(fused, step), exact), error(results(model, step), exact)
        found = {"name": name, "precision": precision, "error": float(f"{own:.1e}"), "PyTorch's error": float(f"{theirs:.1e}")}
        allowed = max(EXACT, 2 * theirs)
        if not own <= allowed:
            emit("training", **found, failed=f"the fused kernels' error is above {allowed:.0e}")
            return False
        times = {"PyTorch, ms": seconds(model, step, device), "fused, ms": seconds(fused, step, device)}
    ratio = times["PyTorch, ms"] / times["fused, ms"]
    emit("training", **found, **{key: float(f"{1e3 * t:.4g}") for key, t in times.items()}, faster=float(f"{ratio:.3g}"))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which nothing more begins")
    args = parser.parse_args()
    if without_gpu():
        return 0
    began, good = time.monotonic(), []
    cases = [(f"a layer, {n} images", lambda n=n: layer_case(n, "cuda")) for n in (64, 16)]
    cases.append(("a step of model b, 16 images", lambda: model_case(16, "cuda")))
    for name, make in cases:
        model, step = make()
        for precision in PRECISIONS:
            if time.monotonic() - began > args.limit:
                emit("training", name=name, precision=precision, skipped="no time was left")
            else:
                good.append(measure(name, model, step, precision, "cuda"))
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
