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


def launches(model: Traced, images: int, precision: str, arrangement: str) -> list[Launch]:
    """Each kernel in each variant once."""
    cond = torch.zeros(images, dtype=torch.int64) if model.compiled.field_specs else None
    call = model.request(images, 0, cond)
    program = model.compiled.program
    session = Session(program, call, torch.device("cpu"), precision, {}, 0, False, arrangement)
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
    listed = launches(traced(name), images, precision, "graph")
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


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(("images", "own"), [(1, 8), (64, 8), (1024, 16)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_persistent_row_compiles_within_the_machine(name: str, images: int, own: int, precision: str, tmp_path: Path) -> None:
    """The kernel does not depend on how many images there are, but on how many a program owns."""
    rows = [launch for launch in launches(traced(name), images, precision, "persistent") if "OWN" in launch.constants]
    assert {launch.constants["OWN"] for launch in rows} == {own}
    assert len({id(launch.kernel) for launch in rows}) == 1
    found = compiled(rows[0], tmp_path)
    assert found.spills == 0
    assert found.shared <= SHARED
    assert "tf32" not in found.ptx
    assert "cp.async" not in found.ptx
    assert (found.tensor_cores > 0) == (precision == "fp16")
    # What a work stores, the next one loads: no interpreter would miss the barrier between them.
    walk = found.ptx[found.ptx.index(".entry") :].split("// -- End function")[0]
    assert "call.uni" in walk
    assert "bar.sync" in walk
    # State through a cache that is not coherent would be stale, and weights are read 16 bytes at a time.
    assert "ld.global.nc" not in found.ptx
    assert "ld.global.b16" not in found.ptx
    assert "ld.global.v4.b32" in found.ptx


def test_moves(tmp_path: Path) -> None:
    arguments = {"operands": "*i64", "position": "*i32", "row": "i32", "col": "i32", "count": "i32", "BLOCK": 256}
    found = compile_kernel(move_kernel, arguments, 4, 1, tmp_path)
    assert found.spills == 0
