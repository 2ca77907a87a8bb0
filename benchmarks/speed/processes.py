"""A process for each model: it gets a job on its standard input, is watched, and saves its cells to a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from speed.job import Job
from speed.results import Cell, Row, cell_from, to_json

KILLED_AFTER = 15.0
"""Seconds beyond its limit after which a measuring process is taken to hang."""
POLL = 0.5
"""Seconds between looks at what a measuring process has saved."""

Saved = Callable[[list[Cell]], None]
"""Is called with the cells so far, whenever there are some more."""


def serve(measure: Callable[[Job, Saved], list[Cell]]) -> int:
    """In the process: do the job on the standard input, and save the cells to the file that the command line names."""
    target = Path(sys.argv[1])

    def save(cells: list[Cell]) -> None:
        beside = target.with_suffix(".part")
        beside.write_text(json.dumps([to_json(cell) for cell in cells]), encoding="utf-8")
        beside.replace(target)  # whoever reads it never sees a half

    save(measure(Job.from_json(sys.stdin.read()), save))
    return 0


def run(program: Path, job: Job, saved: Saved) -> list[Cell]:
    """The cells of a job, measured by a program that calls `serve`.

    If that dies or hangs, rows that it has not saved are failed ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        target, todo = Path(folder) / "cells.json", Path(folder) / "job.json"
        todo.write_text(job.to_json(), encoding="utf-8")
        # The same package as here; where none is installed, the one beside benchmarks/.
        paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, str(program), str(target)]
        with todo.open(encoding="utf-8") as given, subprocess.Popen(command, stdin=given, env=environment) as process:
            reason = watched(process, target, job.limit, saved)
        result = cells_of(target)
    return result if process.returncode == 0 else with_lost(job, result, reason)


def watched(process: subprocess.Popen[bytes], target: Path, limit: float | None, saved: Saved) -> str:
    """Wait for a measuring process, and kill it if it hangs; how it ended."""
    begin, seen = time.perf_counter(), None
    while True:
        try:
            return f"the measuring process ended with code {process.wait(POLL)}"
        except subprocess.TimeoutExpired:
            pass
        if target.exists() and (now := target.stat().st_mtime_ns) != seen:
            seen = now
            saved(cells_of(target))
        if limit is not None and (took := time.perf_counter() - begin) > limit + KILLED_AFTER:
            process.kill()
            return f"the measuring process was killed after {took:.0f} s"


def cells_of(target: Path) -> list[Cell]:
    """What a measuring process has saved."""
    return [cell_from(data) for data in json.loads(target.read_text(encoding="utf-8"))] if target.exists() else []


def with_lost(job: Job, found: Sequence[Cell], reason: str) -> list[Cell]:
    """All cells of a job whose process ended early, with failed rows for what it had not saved."""
    cells = {cell.images: cell for cell in found}
    for images in job.images:
        cell = cells.get(images, Cell(job.model, job.shape, images, (), sweep=job.sweep))
        had = {row.name: row for row in cell.rows}
        rest = tuple(had.get(name) or Row(name, "failed", reason) for name in job.rows)
        cells[images] = replace(cell, rows=rest)
    return [cells[images] for images in job.images]
