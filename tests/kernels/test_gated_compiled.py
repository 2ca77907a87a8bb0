"""The fused gated convolution compiled ahead of time for sm_90, with every block size that is shipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import SHARED, TYPES, compile_kernel

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's kernels cannot be compiled", allow_module_level=True)

from pixelfast.kernels import gated_backward, gated_forward

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STRIDES = dict.fromkeys(("s_n", "s_c", "s_h", "s_w"), "i32")


def pointers(dtype: torch.dtype, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), f"*{TYPES[str(dtype).removeprefix('torch.')]}")


def sizes(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "i32")


def constants(blocks: gated_forward.Blocks, dtype: torch.dtype) -> dict[str, Any]:
    names = {"BLOCK_F": blocks.features, "BLOCK_P": blocks.pixels, "BLOCK_K": blocks.depth}
    return {**{name: size for name, size in names.items() if size}, "ACC": gated_forward.accumulator(dtype)}


def forward(dtype: torch.dtype) -> tuple[Any, dict[str, Any], gated_forward.Blocks]:
    blocks = gated_forward.FORWARD[dtype]
    arguments = pointers(dtype, "X WEIGHT") | {"OFFSETS": "*i32"} | pointers(dtype, "BIAS CONDITION MAP RESIDUAL Y SUMS")
    arguments |= sizes("images channels features height width taps") | STRIDES | constants(blocks, dtype)
    return gated_forward.gated_forward_kernel, arguments, blocks


def gate(dtype: torch.dtype) -> tuple[Any, dict[str, Any], gated_forward.Blocks]:
    blocks = gated_backward.GATE
    arguments = pointers(dtype, "GRAD_Y GRAD_SUMS SUMS CONDITION MAP GATES OUT")
    arguments |= pointers(torch.float32, "OVER_PIXELS OVER_PIXELS_GATES") | sizes("features area") | constants(blocks, dtype)
    return gated_backward.gate_backward_kernel, arguments, blocks


def of_input(dtype: torch.dtype) -> tuple[Any, dict[str, Any], gated_forward.Blocks]:
    blocks = gated_backward.INPUT[dtype]
    arguments = pointers(dtype, "X WEIGHT") | {"OFFSETS": "*i32"} | pointers(dtype, "OUT")
    arguments |= sizes("images channels outputs height width taps") | STRIDES | constants(blocks, dtype)
    return gated_backward.taps_kernel, arguments, blocks


def of_weights(dtype: torch.dtype) -> tuple[Any, dict[str, Any], gated_forward.Blocks]:
    blocks = gated_backward.WEIGHTS[dtype]
    arguments = pointers(dtype, "GRAD X") | {"OFFSETS": "*i32", "PARTS": "*fp32"}
    arguments |= sizes("images channels outputs height width taps pixels_each") | STRIDES | constants(blocks, dtype)
    return gated_backward.weight_backward_kernel, arguments, blocks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [forward, gate, of_input, of_weights])
def test_compiles_within_the_machine(kernel: Callable, dtype: torch.dtype, tmp_path: Path) -> None:
    function, arguments, blocks = kernel(dtype)
    found = compile_kernel(function, arguments, blocks.warps, blocks.stages, tmp_path)
    assert found.spills == 0
    assert found.shared <= SHARED
    assert "tf32" not in found.ptx
    if kernel is not gate:
        assert (found.tensor_cores > 0) == (dtype != torch.float32), dict(found.instructions)
