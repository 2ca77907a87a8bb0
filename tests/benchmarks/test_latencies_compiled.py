"""The Triton kernels of the GPU check compiled ahead of time for sm_90, in every variant that is timed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from compiling import SHARED, compile_kernel
from scripts import importable

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's kernels cannot be compiled", allow_module_level=True)


@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize(("kind", "images"), [("fp32", 16), ("fp16", 8), ("fp16", 16), ("fp16", 32)])
def test_a_stage_compiles_within_the_machine(kind: str, images: int, warps: int, tmp_path: Path) -> None:
    with importable():
        from gpu import triton_latencies as timed

        arguments = {"x": f"*{kind}", "weights": f"*{kind}", "stages": "i32"}
        constants = {"FEATURES": timed.FEATURES, "IMAGES": images, "WEIGHTS": timed.WEIGHTS}
        found = compile_kernel(timed.stages_kernel, {**arguments, **constants}, warps, 1, tmp_path)
    assert found.spills == 0
    assert found.shared <= SHARED
    assert "tf32" not in found.ptx
    assert "cp.async" not in found.ptx  # which would read what the stage before has not stored
    assert (found.tensor_cores > 0) == (kind == "fp16")
