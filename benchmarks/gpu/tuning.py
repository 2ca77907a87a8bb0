"""Which blocks are fastest for the fused gated convolution's forward pass, on model b's two shapes, while there is time.

The blocks that are shipped come first: whatever is faster on this GPU is a proposal for kernels/gated_forward.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from gpu.records import emit, without_gpu

IMAGES, FEATURES, SIDE = 64, 128, 32
SHAPES = {"vertical 2x3": [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1)], "horizontal 1x2": [(0, -1), (0, 0)]}
CANDIDATES = ((64, 64, 32, 8), (64, 128, 32, 8), (32, 128, 32, 4), (64, 32, 64, 4), (32, 64, 64, 4), (128, 32, 32, 8))
"""Features, pixels, depth and warps of a program, for each candidate."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--limit", type=float, default=40.0, help="seconds after which nothing more begins")
    args = parser.parse_args()
    if without_gpu():
        return 0
    from triton.testing import do_bench

    from pixelfast.kernels.gated_conv import offset_table
    from pixelfast.kernels.gated_forward import FORWARD, Blocks, gated_forward

    began = time.monotonic()
    for dtype in (torch.bfloat16, torch.float32):
        shipped = FORWARD[dtype]
        others = [Blocks(f, p, k, warps) for f, p, k, warps in CANDIDATES]
        for shape, offsets in SHAPES.items():
            x = torch.randn(IMAGES, FEATURES, SIDE, SIDE, device="cuda", dtype=dtype)
            live = torch.randn(2 * FEATURES, len(offsets), FEATURES, device="cuda", dtype=dtype)
            table = offset_table(tuple(offsets), x.device)
            flops = 2 * live.numel() * IMAGES * SIDE**2
            for blocks in [shipped, *(b for b in others if b != shipped)]:
                if time.monotonic() - began > args.limit:
                    emit("tuning", name=shape, dtype=str(dtype), blocks="more", skipped="no time was left")
                    return 0
                FORWARD[dtype] = blocks
                try:
                    forward = partial(gated_forward, x, live, table, None, None, None, None)
                    took = do_bench(forward, warmup=5, rep=20, return_mode="median")
                    found = {"us": float(f"{1e3 * took:.4g}"), "TFLOP/s": float(f"{flops / took * 1e-9:.4g}")}
                except Exception as error:  # more shared memory than there is, for instance
                    found = {"skipped": f"{type(error).__name__}: {str(error)[:120]}"}
                emit("tuning", name=shape, dtype=str(dtype), blocks=str(blocks), shipped=blocks == shipped, **found)
            FORWARD[dtype] = shipped
    return 0


if __name__ == "__main__":
    sys.exit(main())
