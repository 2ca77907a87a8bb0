"""Draws from discretized Gaussians, compiled ahead of time for sm_90."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from compiling import SHARED, compile_kernel
from mixture_cases import pixel_program

from pixelfast import Gaussian, MixtureOfGaussians

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter's kernels cannot be compiled", allow_module_level=True)

import triton.language as tl

from pixelfast.kernels.draw import draw

HEADS = [MixtureOfGaussians(256, 3, -128), MixtureOfGaussians(64, 40, 0, "weight-mean-scale", True), Gaussian(256, -128)]


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_compiles_within_the_machine(head: MixtureOfGaussians, tmp_path: Path) -> None:
    program, floats, words = pixel_program(head, 4), torch.zeros(16), torch.zeros(16, dtype=torch.int64)
    numbers = torch.zeros(2, 1, 4, 1)
    launch = draw(
        floats, words, words, numbers, numbers.int(), numbers, floats.double(), floats.double(), words,
        head=program.head, channel=0, levels=head.levels, count=head.parameters, encoded=[3], mixture=program.mixture,
    )  # fmt: skip
    constants = {name: tl.constexpr(value) if isinstance(value, str) else value for name, value in launch.constants.items()}
    arguments = {name: constants.get(name, kind) for name, kind in launch.signature().items()}
    found = compile_kernel(launch.kernel, arguments, launch.warps, 1, tmp_path)
    assert found.spills == 0
    assert found.shared <= SHARED
