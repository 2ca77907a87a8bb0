"""The speed report: every kind of model, sampled in every way there is, with correctness beside speed.

    python benchmarks/run.py [--quick] [--models a,b] [--engines naive,cpu] [--n 1,16] [--baseline results.json]

For each model and each number of images it measures the usual loop (some steps of it; the rest is extrapolated and marked ~),
every engine of the package, NetKet where it has the same network, and one eager forward of the module over the same images, as
PyTorch comes and tuned. A row whose images fail verification shows no speed, and the exit code is 1. The report goes to the
terminal and, as Markdown, JSON and pictures, to a folder. See benchmarks/README.md for what each column means.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import baseline
import machine
import models
import report
import rows
import worker
from results import Cell, Row, Run, cell_from, run_from, to_json

from pixelfast.engines.cpu import usable_threads

RESULTS = Path(__file__).parent / "results"
RUNS, QUICK_RUNS = 7, 2
STEPS, QUICK_STEPS = 5, 2
QUICK_IMAGES = (4,)
BUSY = 0.2
"""So many processors in use by other programs spoil the times."""

Start = Callable[[worker.Job], list[Cell]]


def main(argv: Sequence[str] | None = None, start: Start | None = None) -> int:
    """Measure, report, compare; 1 if a row failed, 2 if the arguments make no sense."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        names, engines = models.find(args.models, args.quick), rows.find(args.engines, args.quick)
        before = None if args.baseline is None else read_baseline(args.baseline)
    except ValueError as error:
        parser.error(str(error))
    threads = args.threads or usable_threads()
    begin = time.perf_counter()
    facts = machine.facts(threads)
    print(report.heading(facts), flush=True)
    if (facts["busy_processors"] or 0) > BUSY:
        print(f"OTHER PROGRAMS USE {facts['busy_processors']:.1f} PROCESSORS: the times below are not to be trusted")
    cells, notes = [], notes_for()
    for job in jobs(args, names, engines, threads):
        for cell in (start or in_process)(job):
            cells.append(cell)
            print(report.cell_text(cell), flush=True)
    cells = merged(cells)
    options = {
        "quick": args.quick,
        "models": names,
        "engines": engines,
        "runs": args.runs,
        "seconds": time.perf_counter() - begin,
    }
    run = Run(facts, options, tuple(cells), tuple(notes))
    folder = args.out or RESULTS / folder_name(facts)
    write(folder, run, before, pictures=not args.no_plots)
    if before is not None:
        print(f"\n{baseline.text(before, run)}")
    print(f"\nreport.md, results.json and pictures are in {folder}/; all of this took {time.perf_counter() - begin:.0f} s")
    for cell, row in run.failed:
        print(f"FAILED: {cell.model}, {cell.images} images, {row.name}: {row.reason}", file=sys.stderr)
    return 1 if run.failed else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="models: " + ", ".join(models.MODELS) + "; engines and other rows: " + ", ".join(rows.ROWS),
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: few models, small images, few runs; a smoke test")
    parser.add_argument("--models", type=names_of, metavar="NAME,...", help="default: all")
    parser.add_argument("--engines", type=names_of, metavar="NAME,...", help="rows of the report; default: all that can run")
    parser.add_argument("--n", type=counts_of, metavar="N,...", help="numbers of images; default: some for each model")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="results.json of an earlier run to compare with")
    parser.add_argument("--threads", type=positive, help="default: as many as this process may use")
    parser.add_argument("--runs", type=positive, help=f"runs of each measurement; default: {RUNS}, with --quick {QUICK_RUNS}")
    parser.add_argument("--out", type=Path, help="folder; default: benchmarks/results/<date>-<processor>-<commit>")
    parser.add_argument("--no-plots", action="store_true", help="leave the pictures out")
    parser.add_argument("--no-sweep", action="store_true", help="leave time against image size out")
    return parser


def names_of(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def counts_of(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in names_of(text)}))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def jobs(args: argparse.Namespace, names: list[str], engines: list[str], threads: int) -> list[worker.Job]:
    """What is to be measured, one job for each process."""
    common: dict[str, Any] = {
        "runs": args.runs or (QUICK_RUNS if args.quick else RUNS),
        "threads": threads,
        "steps": QUICK_STEPS if args.quick else STEPS,
    }
    if args.quick:
        common["peak_seconds"] = 0.01
    own = tuple(name for name in engines if name != rows.NETKET)
    plain = tuple(name for name in own if name != "naive-compiled")  # which would compile anew for each size
    found = []
    for name in names:
        entry = models.MODELS[name]
        shape = entry.quick_shape() if args.quick else entry.shape
        images = args.n or (QUICK_IMAGES if args.quick else entry.images)
        if own:
            found.append(worker.Job(name, shape, images, own, **common))
        if rows.NETKET in engines and entry.netket:
            found.append(worker.Job(name, shape, images, (rows.NETKET,), **common))
    if models.SWEEP_MODEL in names and plain and not args.no_sweep and not args.quick:
        done = {job.shape for job in found if job.model == models.SWEEP_MODEL}
        for side in models.SWEEP_SIDES:
            shape = models.MODELS[models.SWEEP_MODEL].shape[0], side, side
            if shape not in done:
                found.append(worker.Job(models.SWEEP_MODEL, shape, (models.SWEEP_IMAGES,), plain, **common))
    return found


def in_process(job: worker.Job) -> list[Cell]:
    """The cells of a job, from a process of its own; one that dies gives failed rows."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "cells.json"
        command = [sys.executable, str(Path(worker.__file__)), str(target)]
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        ended = subprocess.run(command, input=worker.job_json(job), text=True, env=environment, check=False)
        if ended.returncode == 0 and target.exists():
            return [cell_from(data) for data in json.loads(target.read_text(encoding="utf-8"))]
    reason = f"the measuring process ended with code {ended.returncode}"
    lost = tuple(Row(name, "failed", reason) for name in job.rows)
    return [Cell(job.model, job.shape, images, lost) for images in job.images]


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model, shape and number of images: rows that came from several processes stand together."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = cell.model, cell.shape, cell.images
        if key in found:
            first = found[key]
            together = sorted([*first.rows, *cell.rows], key=lambda row: list(rows.ROWS).index(row.name))
            cell = replace(first if first.forward else cell, rows=tuple(together))
        found[key] = cell
    return list(found.values())


def notes_for() -> list[str]:
    """What the reader should know beforehand."""
    notes = []
    if isinstance(reason := machine.compiled(), str):
        notes.append(f"no fraction of the peak: {reason}")
    return notes


def read_baseline(path: Path) -> Run:
    """An earlier run.

    Raises:
        ValueError: the file cannot be read, or holds no run.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        return run_from(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"--baseline {path} cannot be compared with: {error}") from error


def folder_name(facts: dict[str, Any]) -> str:
    """<date>-<processor>-<commit>, of letters, digits and dashes."""
    parts = datetime.now(timezone.utc).strftime("%Y-%m-%d"), facts["processor"], facts["commit"]
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-").lower() for part in parts)


def write(folder: Path, run: Run, before: Run | None, pictures: bool) -> None:
    """results.json, report.md, and the pictures if matplotlib is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(to_json(run), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    drawn: list[str] = []
    if pictures:
        try:
            import plots

            drawn = plots.draw(folder, run)
        except ImportError as error:
            print(f"no pictures: {error}; pip install 'pixelfast[bench]' brings matplotlib")
    (folder / "report.md").write_text(report.markdown(run, before, drawn), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
