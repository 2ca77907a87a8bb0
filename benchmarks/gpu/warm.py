"""Compiles the Triton kernels that the later parts will want, all at once: they then find them in Triton's cache on disk.

A kernel takes about a second of one processor. For each model, number of images and precision a process of its own draws images
of few rows through the engine: the kernels are the same as those of whole images. Nothing depends on it but time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.records import emit, without_gpu

ROWS = 4
"""Rows of pixels; the models with strides need a multiple of four."""
IMAGES = (64, 1, 1024)
SPARED = 6
"""Processors that are left to the build, which runs at the same time."""


def one(name: str, images: int, precision: str, arrangement: str) -> None:
    """Draw images of few rows, and tell."""
    os.environ |= {"PIXELFAST_ARRANGEMENT": arrangement} if arrangement else {}
    import torch

    import pixelfast
    from speed.models import MODELS

    begin = time.monotonic()
    torch.set_num_threads(1)
    entry = MODELS[name]
    shape = entry.shape[0], ROWS, entry.shape[2]
    module, head = entry.make(shape)
    label = ", ".join(filter(None, (name, f"{images} images", precision, arrangement)))
    try:
        options = {"engine": "triton", "precision": precision, "self_check": False}
        sampler = pixelfast.compile(module, shape, head, cond=entry.cond(1), **options)
        for _ in range(2):  # a row of pixels is captured when it comes again
            sampler.sample(images, seed=0, cond=entry.cond(images), batch_size=images)
    except (pixelfast.EngineUnavailable, pixelfast.UnsupportedModel) as error:
        emit("kernels", name=label, outcome="refused", seconds=round(time.monotonic() - begin, 1), reason=str(error))
        return
    emit("kernels", name=label, outcome="compiled", seconds=round(time.monotonic() - begin, 1))


def cases(models: list[str], precisions: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """Model, images, precision, and what the engine is told to do instead of choosing; what is wanted first comes first."""
    chosen = [(m, str(n), p, "") for n in IMAGES for m in models for p in precisions]
    from speed import rows as row_names

    first = len(models) * len(precisions)
    told = [(row_names.ENGINES[row][1], name) for row, name in row_names.ARRANGED.values()]
    both = [(m, str(IMAGES[0]), p, name) for m in models[:2] for p, name in told]
    return [*chosen[:first], *both, *chosen[first:]]


def all_of(models: list[str], limit: float) -> int:
    """A process for each, as many at once as there are processors; what takes longer than the limit is given up."""
    from pixelfast.engines import registry

    began = time.monotonic()
    waiting = cases(models, registry.ENGINES["triton"].capabilities.precisions)
    running: dict[subprocess.Popen[bytes], tuple[str, ...]] = {}
    most, failed = max(1, (os.cpu_count() or 2) - SPARED), 0
    while waiting or running:
        while waiting and len(running) < most:
            case = waiting.pop(0)
            running[subprocess.Popen([sys.executable, __file__, "--one", *case])] = case
        for process in [process for process in running if process.poll() is not None]:
            case = running.pop(process)
            if process.returncode:
                failed += 1
                reason = f"the process ended with code {process.returncode}: see the log"
                emit("kernels", name=", ".join(filter(None, case)), outcome="failed", reason=reason)
        if time.monotonic() - began > limit and (waiting or running):
            emit("kernels", name=f"{len(waiting) + len(running)} more", outcome="given up", seconds=limit)
            for process in running:
                process.kill()
            break
        time.sleep(0.1)
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "IMAGES", "PRECISION", "ARRANGEMENT"))
    parser.add_argument("--models", default="a,b,c,d")
    parser.add_argument("--limit", type=float, default=90.0)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], int(args.one[1]), *args.one[2:])
        return 0
    return 0 if without_gpu() else all_of(args.models.split(","), args.limit)


if __name__ == "__main__":
    sys.exit(main())
