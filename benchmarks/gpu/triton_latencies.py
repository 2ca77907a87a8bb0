"""What Triton's own kernels cost on this GPU: a node of a CUDA graph, and a stage of a program that goes on by itself.

    stage:  y = tanh(W_s x),  x (64, N images),  W_s (64, 64) of stage s: a product, a store, a barrier, and the next loads y

A program has its own images and goes through all stages; channels lie on the rows of its products. Weights are those of eight
stages, again and again, so that they come from the caches as a small net's would. A value is the difference between two lengths
of the same run: launching cancels.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu.records import emit, without_gpu

FEATURES, WEIGHTS, RUNS = 64, 8, 9
NODES = 400


@triton.jit
def add_one(count):
    if tl.program_id(0) == 0:
        tl.store(count, tl.load(count) + 1)


@triton.jit
def stages_kernel(
    x, weights, stages,
    FEATURES: tl.constexpr, IMAGES: tl.constexpr, WEIGHTS: tl.constexpr,
):  # fmt: skip
    """x (programs, 2, FEATURES, IMAGES): stages write one half and read the other; weights (WEIGHTS, FEATURES, FEATURES)."""
    f, k, n = tl.arange(0, FEATURES), tl.arange(0, FEATURES), tl.arange(0, IMAGES)
    own = x + tl.program_id(0) * 2 * FEATURES * IMAGES
    for stage in range(stages):
        source, target = own + stage % 2 * FEATURES * IMAGES, own + (stage + 1) % 2 * FEATURES * IMAGES
        w = tl.load(weights + stage % WEIGHTS * FEATURES * FEATURES + f[:, None] * FEATURES + k[None, :])
        y = tl.dot(w, tl.load(source + k[:, None] * IMAGES + n[None, :]), input_precision="ieee")
        y = 2.0 * tl.sigmoid(2.0 * y) - 1.0
        tl.store(target + f[:, None] * IMAGES + n[None, :], y.to(x.dtype.element_ty))
        tl.debug_barrier()  # or a warp reads what another has not stored


def run_stages(x: Tensor, weights: Tensor, stages: int, warps: int) -> None:
    # One stage of Triton's pipeline: with more, loads of the loop would be made before its own stores.
    stages_kernel[(len(x),)](
        x, weights, stages, FEATURES=weights.shape[1], IMAGES=x.shape[3], WEIGHTS=len(weights), num_warps=warps, num_stages=1
    )


def naive_stages(x: Tensor, weights: Tensor, stages: int) -> Tensor:
    """What `run_stages` leaves in the half that was written last: (programs, FEATURES, images)."""
    here = x[:, 0].float()
    for stage in range(stages):
        here = (weights[stage % len(weights)].float() @ here).tanh().to(x.dtype).float()
    return here


def inputs(programs: int, images: int, dtype: torch.dtype, device: str, features: int = FEATURES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(programs, 2, features, images)
    x[:, 0] = torch.randn(programs, features, images, generator=generator)
    weights = torch.randn(WEIGHTS, features, features, generator=generator) / features**0.5
    return x.to(device, dtype), weights.to(device, dtype)


def error_of_stages(programs: int, images: int, dtype: torch.dtype, device: str, warps: int, features: int = FEATURES) -> float:
    """Largest difference from the naive twin after an odd number of stages, more than there are weights."""
    x, weights = inputs(programs, images, dtype, device, features)
    expected = naive_stages(x, weights, 11)
    run_stages(x, weights, 11, warps)
    return float((x[:, 1].float() - expected).abs().max())


def microseconds(run: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


def differences(run: Callable[[int], object], length: int) -> list[float]:
    """Microseconds of one unit of length, by runs of one length and of twice that."""
    for _ in range(2):
        run(length), run(2 * length)
    return [(microseconds(lambda: run(2 * length)) - microseconds(lambda: run(length))) / length for _ in range(RUNS)]


def tell(name: str, values: list[float], unit: str = "us", wrong: str = "") -> bool:
    if wrong:
        emit("latency", name=name, failed=wrong)
        return False
    found = {"value": statistics.median(values), "least": min(values), "most": max(values)}
    emit("latency", name=name, unit=unit, runs=len(values), **{key: float(f"{value:.4g}") for key, value in found.items()})
    return True


def graph_nodes(programs: int) -> bool:
    """A chain of launches of one small kernel, captured and replayed."""
    count = torch.zeros(1, dtype=torch.int32, device="cuda")
    add_one[(programs,)](count)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(NODES):
            add_one[(programs,)](count)
    count.zero_()
    graph.replay()
    wrong = "" if int(count) == NODES else f"the chain counted to {int(count)} instead of {NODES}"

    def replay(times: int) -> None:
        for _ in range(times):
            graph.replay()

    values = [value / NODES for value in differences(replay, 4)]
    return tell(f"node of a CUDA graph, Triton kernel, {programs} programs", values, wrong=wrong)


def persistent_stage(programs: int, images: int, dtype: torch.dtype, warps: int) -> bool:
    name = f"stage of a persistent Triton program, 64x64 by {images} images, {dtype}, {warps} warps, {programs} programs"
    name = name.replace("torch.", "")
    off = error_of_stages(programs, images, dtype, "cuda", warps)
    allowed = 1e-5 if dtype == torch.float32 else 2e-2
    x, weights = inputs(programs, images, dtype, "cuda")
    values = differences(lambda stages: run_stages(x, weights, stages, warps), 2000)
    return tell(name, values, wrong="" if off <= allowed else f"its numbers differ by {off:.1e} from PyTorch's")


def ceilings() -> bool:
    """What the chip gives to PyTorch: bytes of a large copy, operations of a large product."""
    source = torch.randn(1 << 30, device="cuda")  # 4 GiB
    target = torch.empty_like(source)
    took = [microseconds(partial(target.copy_, source)) for _ in range(RUNS + 1)][1:]
    told = tell("copy of 4 GiB, bytes read and written", [2 * source.nbytes / t * 1e-3 for t in took], "GB/s")
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in "xy")
    took = [microseconds(lambda: left @ right) for _ in range(RUNS + 2)][2:]
    return tell("product of 8192x8192 float16 numbers", [2 * 8192**3 / t * 1e-6 for t in took], "TFLOP/s") and told


def main() -> int:
    if os.environ.get("TRITON_INTERPRET") == "1":
        emit("skipped", reason="TRITON_INTERPRET=1 is set: kernels are interpreted")
        return 0
    if without_gpu():
        return 0
    all_sms = torch.cuda.get_device_properties(0).multi_processor_count
    told = [graph_nodes(programs) for programs in (1, all_sms)]
    for dtype in (torch.float16, torch.float32):
        told += [persistent_stage(programs, 16, dtype, warps) for warps in (4, 8) for programs in (1, all_sms)]
    told += [persistent_stage(all_sms, images, torch.float16, 4) for images in (8, 32)]
    told.append(ceilings())
    return int(not all(told))


if __name__ == "__main__":
    sys.exit(main())
