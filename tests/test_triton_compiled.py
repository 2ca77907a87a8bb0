"""The Triton engine's kernels compiled ahead of time for sm_90: every variant that it would launch for models a to d.

Widths and numbers of images are those of benchmarks/models.py; further layers and rows would launch the same kernels again.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import SHARED, Compiled, compile_kernel
from oracle import Traced, trace

from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelSNAIL

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's kernels cannot be compiled", allow_module_level=True)

import triton.language as tl

from pixelfast.engines.triton_session import Session
from pixelfast.kernels.attention import attention_kernel
from pixelfast.kernels.launch import Launch
from pixelfast.kernels.operand import move_kernel

MODELS = {
    "a": lambda: (PixelCNN((1, 5, 28), levels=256, features=64, blocks=2, norm=True), None),
    "b": lambda: (GatedPixelCNN((3, 3, 32), levels=256, features=128, layers=3, classes=10), torch.arange(2)),
    "c": lambda: (PixelCNNpp((3, 4, 32), levels=256, features=160, blocks=1, mixtures=10), None),
    "d": lambda: (PixelSNAIL((1, 3, 32), 512, features=256, blocks=1, residuals=1, key=16, heads=8, embed=64), None),
}
KERNELS = {"row_products_kernel", "pixel_stage", "pointwise", "draw_kernel", "encode_kernel", "record_kernel"}
MORE = {
    ("d", "fp32"): {"lookup_kernel", "attention_kernel"},
    ("d", "fp16"): {"lookup_kernel", "attention_kernel", "keep_kernel"},
}
HALVES = {"fp32": None, "fp16": "*fp16", "bf16": "*bf16"}
# One image has variants of its own. Those of c and d take minutes more; what they add are other leaves of the same kernels.
CASES = [
    *((name, images, precision) for name in ("a", "b") for images in (1, 64) for precision in ("fp32", "fp16")),
    *((name, 64, precision) for name in ("c", "d") for precision in ("fp32", "fp16")),
    ("d", 1, "fp32"), ("d", 64, "bf16"),
]  # fmt: skip


@cache
def traced(name: str) -> Traced:
    torch.manual_seed(0)
    module, cond = MODELS[name]()
    return trace(module.eval(), module.config["shape"], module.head, cond)


def launches(model: Traced, images: int, precision: str) -> list[Launch]:
    """Each kernel in each variant once."""
    cond = torch.zeros(images, dtype=torch.int64) if model.compiled.field_specs else None
    call = model.request(images, 0, cond)
    program = model.compiled.program
    session = Session(program, call, torch.device("cpu"), precision, {}, most=0, poison=False)
    found: dict[Any, Launch] = {}
    for row in program.rows:
        for known in {row < 0, True}:
            for launch, _ in session.rows.whole(row, session.rows.kind(row, known)):
                found[id(launch.kernel), str(launch.constants), str(launch.signature()), launch.warps] = launch
    return list(found.values())


_compiled: dict[str, Compiled] = {}


def compiled(launch: Launch, folder: Path) -> Compiled:
    """Models and numbers of images share many variants."""
    # A string among the constants would be taken for a type.
    constants = {k: tl.constexpr(v) if isinstance(v, str) else v for k, v in launch.constants.items()}
    arguments = {key: constants.get(key, kind) for key, kind in launch.signature().items()}
    key = f"{id(launch.kernel)} {launch.constants} {launch.signature()} {launch.warps}"
    if key not in _compiled:
        _compiled[key] = compile_kernel(launch.kernel, arguments, launch.warps, 1, folder)
    return _compiled[key]


@pytest.mark.parametrize(("name", "images", "precision"), CASES)
def test_compiles_within_the_machine(name: str, images: int, precision: str, tmp_path: Path) -> None:
    listed = launches(traced(name), images, precision)
    halves = 0
    for launch in listed:
        found = compiled(launch, tmp_path)
        what = f"{launch.kernel.fn.__name__}, {launch.constants}, {launch.signature()}"
        assert found.spills == 0, what
        assert found.shared <= SHARED, what
        assert "tf32" not in found.ptx, what
        # A copy that runs ahead may read what the same loop, or another program's, has not stored yet.
        assert "cp.async" not in found.ptx, what
        weights = launch.signature().get("weights", "*fp32")
        assert weights in ("*fp32", HALVES[precision]), what
        assert (found.tensor_cores > 0) == (weights != "*fp32"), what
        assert launch.kernel is not attention_kernel or "ld.global.v4" in found.ptx, "keys and values are read in small pieces"
        halves += weights != "*fp32"
    assert {launch.kernel.fn.__name__ for launch in listed} >= KERNELS | MORE.get((name, precision), set())
    assert (halves > 0) == (precision != "fp32")


def test_moves(tmp_path: Path) -> None:
    arguments = {"operands": "*i64", "position": "*i32", "row": "i32", "col": "i32", "count": "i32", "BLOCK": 256}
    found = compile_kernel(move_kernel, arguments, 4, 1, tmp_path)
    assert found.spills == 0
