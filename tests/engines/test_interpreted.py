"""The Triton kernels by Triton's interpreter, in processes of its own: it must be chosen before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

Runs = dict[Path, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Of all files that were asked for: on each processor one of them at a time, since they take minutes."""
    files = [item.callspec.params["file"] for item in request.session.items if item.path == request.path]
    pool = ThreadPoolExecutor(os.cpu_count())
    yield {file: pool.submit(interpret, file) for file in files}
    pool.shutdown(cancel_futures=True)


def interpret(file: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])


HERE = Path(__file__).parent
FILES = [*HERE.glob("interpreted/test_*.py"), *HERE.glob("test_conformance*.py")]


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: file.stem)
def test_in_the_interpreter(file: Path, runs: Runs) -> None:
    run = runs[file].result()
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "passed" in run.stdout
