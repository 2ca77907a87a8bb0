"""Micro-benchmarks of the native engine's operations, at the sizes of the models a and b: `make bench-micro`.

Tiny programs run through the engine itself, so that what is timed is the general path; the draws of their images are part of
it, as are the starts of rows ("frame" times these alone). extra_info holds GFLOP/s and the fraction of the measured peak for
products, GB/s for what moves data, and nanoseconds for each call of the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from micro import tiny
from pixelfast.engines.native import engine as cpu
from speed import machine

if (reason := cpu.unavailable_reason()) is not None:
    pytest.skip(reason, allow_module_level=True)

Benchmark = Callable[..., Any]

PRODUCTS = {
    # name: inputs, outputs, taps, once a row
    "a 7x7, rows above": (32, 32, 21, True),
    "a 7x7, own row": (32, 32, 4, False),
    "a 1x1 in": (64, 32, 1, False),
    "a 1x1 out": (32, 64, 1, False),
    "a logits": (64, 256, 1, False),
    "b vertical 3x3": (128, 256, 6, True),
    "b link": (256, 256, 1, True),
    "b horizontal, third colour": (128, 84, 2, False),
    "b 1x1, third colour": (128, 42, 1, False),
    "b logits": (128, 256, 1, False),
}
COPIES = 8
IMAGES = (1, 4, 16, 64)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_product(benchmark: Benchmark, name: str, images: int, threads: int) -> None:
    inputs, outputs, taps, per_row = PRODUCTS[name]
    rows = images * (tiny.WIDTH if per_row else 1)
    facts = {"K": taps * inputs, "O": outputs, "M": rows, "copies": COPIES}
    measure(benchmark, tiny.product(inputs, outputs, taps, per_row, COPIES), images, threads, facts)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("features", [32, 128])
def test_gate(benchmark: Benchmark, features: int, images: int, threads: int) -> None:
    measure(benchmark, tiny.gate(features, COPIES), images, threads, {"F": features, "copies": COPIES})


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("features", [32, 64])
def test_norm(benchmark: Benchmark, features: int, images: int, threads: int) -> None:
    measure(benchmark, tiny.norm(features, COPIES), images, threads, {"F": features, "copies": COPIES})


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("levels", [256])
def test_draw(benchmark: Benchmark, levels: int, images: int, threads: int) -> None:
    measure(benchmark, tiny.draw(levels), images, threads, {"K": levels})


@pytest.mark.parametrize("images", IMAGES)
def test_frame(benchmark: Benchmark, images: int, threads: int) -> None:
    """A program without the operations: what the others contain besides them."""
    measure(benchmark, tiny.gate(32, 0), images, threads, {})


def measure(benchmark: Any, program: tiny.Tiny, images: int, threads: int, facts: dict[str, int]) -> None:
    """Time one program, and note what was reached."""
    engine, request = cpu.CpuEngine(program.program), program.request(images, threads)
    engine.run(request)
    before = machine.fma_peak(threads)
    benchmark(engine.run, request)
    if benchmark.disabled:
        return
    seconds = benchmark.stats.stats.median
    found: dict[str, Any] = {**facts, "images": images, "threads": threads, "isa": engine.isa}
    if program.calls:
        found["ns_per_call"] = 1e9 * seconds / program.calls / images
    if program.operations:
        found["GFLOP/s"] = program.operations * images / seconds / 1e9
        if (after := machine.fma_peak(threads)) is not None and before is not None:
            found["of_peak"] = found["GFLOP/s"] * 1e9 / max(before, after)
    elif program.bytes:
        found["GB/s"] = program.bytes * images / seconds / 1e9
    benchmark.extra_info.update({name: round(v, 3) if isinstance(v, float) else v for name, v in found.items()})
