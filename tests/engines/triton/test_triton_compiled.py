"""The Triton engine's kernels compiled ahead of time for sm_90: every variant that it would launch for models a to d.

Widths and numbers of images are those of benchmarks/speed/models.py; further layers and rows would launch the same kernels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import SHARED, Compiled, compile_kernel, side_by_side, spills_in_loops
from oracle import Traced, trace

from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelSNAIL

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's kernels cannot be compiled", allow_module_level=True)

import triton.language as tl

from pixelfast.engines.triton.session import Session
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
    result: dict[Any, Launch] = {}
    for row in program.rows:
        for known in {row < 0, True}:
            for launch, _ in session.rows.whole(row, session.rows.kind(row, known)):
                result[id(launch.kernel), str(launch.constants), str(launch.signature()), launch.warps] = launch
    return list(result.values())


_compiled: dict[str, Compiled] = {}


def key_of(launch: Launch) -> str:
    """Models and numbers of images share many variants."""
    return f"{id(launch.kernel)} {launch.constants} {launch.signature()} {launch.warps}"


def compiled(listed: Sequence[Launch], folder: Path) -> list[Compiled]:
    new = list({key_of(launch): launch for launch in listed if key_of(launch) not in _compiled}.values())

    def compile_one(item: tuple[int, Launch]) -> Compiled:
        number, launch = item
        # A string among the constants would be taken for a type.
        constants = {k: tl.constexpr(v) if isinstance(v, str) else v for k, v in launch.constants.items()}
        arguments = {name: constants.get(name, kind) for name, kind in launch.signature().items()}
        own = folder / str(number)
        own.mkdir()
        return compile_kernel(launch.kernel, arguments, launch.warps, 1, own)

    _compiled.update(zip(map(key_of, new), side_by_side(compile_one, list(enumerate(new))), strict=True))
    return [_compiled[key_of(launch)] for launch in listed]


@pytest.mark.parametrize(("name", "images", "precision"), CASES)
def test_compiles_within_the_machine(name: str, images: int, precision: str, tmp_path: Path) -> None:
    listed = launches(traced(name), images, precision, "graph")
    halves = 0
    for launch, found in zip(listed, compiled(listed, tmp_path), strict=True):
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
def test_a_persistent_row_compiles_within_the_machine(name: str, tmp_path: Path) -> None:
    """The kernel does not depend on how many images there are, but on how many a program owns."""
    cases = [(images, own, precision) for images, own in ((1, 8), (64, 8), (1024, 16)) for precision in ("fp32", "fp16")]
    rows = [walking(name, images, own, precision) for images, own, precision in cases]
    for case, found in zip(cases, compiled(rows, tmp_path), strict=True):
        assert found.spills == 0, case
        assert found.shared <= SHARED, case
        assert "tf32" not in found.ptx, case
        assert "cp.async" not in found.ptx, case
        assert (found.tensor_cores > 0) == (case[2] == "fp16"), case
        # What a work stores, the next one loads: no interpreter would miss the barrier between them.
        walk = found.ptx[found.ptx.index(".entry") :].split("// -- End function")[0]
        assert "call.uni" in walk, case
        assert "bar.sync" in walk, case
        # State through a cache that is not coherent would be stale, and weights are read 16 bytes at a time.
        assert "ld.global.nc" not in found.ptx, case
        assert "ld.global.b16" not in found.ptx, case
        assert "ld.global.v4.b32" in found.ptx, case


def walking(name: str, images: int, own: int, precision: str) -> Launch:
    """The persistent row of a model, of which there is one kernel."""
    rows = [launch for launch in launches(traced(name), images, precision, "persistent") if "OWN" in launch.constants]
    assert {launch.constants["OWN"] for launch in rows} == {own}
    assert len({id(launch.kernel) for launch in rows}) == 1
    return rows[0]


def test_moves(tmp_path: Path) -> None:
    arguments = {"operands": "*i64", "position": "*i32", "row": "i32", "col": "i32", "count": "i32", "BLOCK": 256}
    found = compile_kernel(move_kernel, arguments, 4, 1, tmp_path)
    assert found.spills == 0


def test_spills_are_those_inside_of_loops() -> None:
    before = ["/*0000*/ STL [R1], R3 ;", ".L_x_1:"]
    loop = ["/*0010*/ FADD R1, R2, R3 ;", "/*0020*/ @P1 BRA `(.L_x_1) ;", "/*0030*/ LDL R3, [R1] ;"]
    assert spills_in_loops("\n".join([*before, *loop])) == 0
    assert spills_in_loops("\n".join([*before, "/*0008*/ @!P0 LDL.LU R4, [R1] ;", *loop])) == 1
