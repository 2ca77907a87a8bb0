"""The CUDA kernels that measure latencies: they compile, refuse cleanly without a GPU, and hand over right under the shim."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulated_cuda import CASES, ENVIRONMENT, ORDERS, executable, missing
from scripts import BENCHMARKS, importable

HOPS = BENCHMARKS / "gpu" / "hops.h"


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_they_compile(tmp_path: Path) -> None:
    program = tmp_path / "latencies"
    assert importlib.import_module("gpu.latencies").build(program) is None
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9:
        assert run.returncode == 0, run.stderr
        assert not [line for line in lines if "failed" in line]
        assert len(lines) > 15
    else:
        assert (run.returncode, lines) == (1, [])
        assert run.stderr.startswith("latencies: ")


def test_without_nvcc_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    latencies = importlib.import_module("gpu.latencies")
    monkeypatch.setattr(latencies.shutil, "which", lambda name: None)
    assert latencies.build(tmp_path / "latencies") == "there is no nvcc"


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", ["barrier", "numbers by barrier", "numbers by store", "token"])
def test_numbers_arrive(case: str, order: str, blocks: int) -> None:
    program = executable(CASES / "hop_cases.cpp", HOPS)
    command = [str(program), case, str(ORDERS.index(order)), str(blocks)]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr[-3000:]
