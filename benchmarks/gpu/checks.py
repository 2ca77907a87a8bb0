"""The tests that need a GPU, by pytest: every file of tests/ with a test that is marked so, each test's outcome as it comes."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.records import emit, without_gpu

TESTS = Path(__file__).resolve().parents[2] / "tests"
MARK = "pytest.mark.gpu"
MOST_WORKERS = 6
"""Processes that share the GPU: most of a test is compiling kernels."""
TEST_SECONDS = 60
"""Seconds after which a test is taken to hang, where there is pytest-timeout."""
TOLD = 1500
"""Letters of a failure that are kept."""


def files() -> list[str]:
    """The test files, those of the cluster kernel last: its blocks wait for each other, and one that hangs ends the session."""
    result = sorted(file for file in TESTS.rglob("test_*.py") if MARK in file.read_text(encoding="utf-8"))
    return [str(file) for file in sorted(result, key=lambda file: "cuda" in file.name)]


class Recorder:
    """Tells of every test that is over; pytest calls it in the process that collects what the others found."""

    def __init__(self) -> None:
        # While a test runs, the usual output leads elsewhere; and what pytest prints itself does not end its lines.
        self.out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            if report.when == "teardown" and report.outcome == "skipped":
                return
            message = "" if report.outcome == "passed" else str(report.longrepr)[-TOLD:]
            self.tell("test", name=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), message=message)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell("test", name=report.nodeid, outcome="not collected", seconds=0.0, message=str(report.longrepr)[-TOLD:])

    def tell(self, kind: str, **found: Any) -> None:
        saved, sys.stdout = sys.stdout, self.out
        try:
            emit(kind, **found)
        finally:
            sys.stdout = saved


def main() -> int:
    if importlib.util.find_spec("pytest") is None:
        emit("skipped", reason="pytest is not installed")
        return 0
    if without_gpu():
        return 0
    import pytest

    options = ["-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors", "-o", "addopts=", "-q"]
    if importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(max(1, min(MOST_WORKERS, (os.cpu_count() or 2) // 2)))]
    if importlib.util.find_spec("pytest_timeout") is not None:
        options += [f"--timeout={TEST_SECONDS}"]
    code = pytest.main([*options, *files(), *sys.argv[1:]], plugins=[Recorder()])
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
