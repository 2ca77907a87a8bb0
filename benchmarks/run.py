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
import measure
import models
import report
import rows
import sweeps
import worker
from job import Job
from results import Cell, Row, Run, cell_from, run_from, to_json
from surroundings import BUSY

from pixelfast.engines.cpu import usable_threads

RESULTS = Path(__file__).parent / "results"
RUNS, QUICK_RUNS = 7, 2
BUDGET, QUICK_BUDGET = 120.0, 3.0
"""Seconds for the runs of one number of images of one model, as it comes and tuned each."""
QUICK_STEPS = 2
QUICK_IMAGES = (4,)

Start = Callable[[Job], list[Cell]]


def main(argv: Sequence[str] | None = None, start: Start | None = None) -> int:
    """Measure, report, compare; 1 if a row failed, 2 if the arguments make no sense."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        names, engines = models.find(args.models, args.quick), rows.find(args.engines, args.quick)
        before = None if args.baseline is None else read_baseline(args.baseline)
    except ValueError as error:
        parser.error(str(error))
    common = common_job(args)
    todo = jobs(args, names, engines, common)
    begin = time.perf_counter()
    facts = machine.facts(common.threads)
    print(report.heading(facts), flush=True)
    if (facts["busy_processors"] or 0) > BUSY:
        print(f"OTHER PROGRAMS USE {facts['busy_processors']:.1f} PROCESSORS: the times below are not to be trusted")
    cells, notes = [], notes_for()
    for job in todo:
        for cell in (start or in_process)(job):
            cells.append(cell)
            if not cell.sweep:
                print(report.cell_text(cell), flush=True)
    cells = merged(cells)
    options = {
        "quick": args.quick,
        "models": names,
        "engines": engines,
        "runs": common.runs,
        "budget": common.budget,
        "sweep": args.sweep,
        "seconds": time.perf_counter() - begin,
    }
    run = Run(facts, options, tuple(cells), tuple(notes))
    folder = args.out or RESULTS / folder_name(facts)
    write(folder, run, before, pictures=not args.no_plots)
    if before is not None:
        print(f"\n{baseline.text(before, run)}")
    print(report.closing_text(run))
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
    parser.add_argument("--threads", type=positive, help="default: as many as this process may use, with --quick 1")
    parser.add_argument("--runs", type=positive, help=f"runs of each measurement; default: {RUNS}, with --quick {QUICK_RUNS}")
    parser.add_argument(
        "--budget",
        type=positive,
        metavar="SECONDS",
        help=f"of runs for each table, and again for its tuned columns; {measure.LEAST} are made even if it is spent; "
        f"default: {BUDGET:.0f}, with --quick {QUICK_BUDGET:.0f}",
    )
    parser.add_argument("--out", type=Path, help="folder; default: benchmarks/results/<date>-<processor>-<commit>")
    parser.add_argument("--no-plots", action="store_true", help="leave the pictures out")
    parser.add_argument(
        "--sweep",
        choices=sweeps.LENGTHS,
        help="how times grow with the number and the size of images; default: short, with --quick none",
    )
    return parser


def names_of(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def counts_of(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in names_of(text)}))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def common_job(args: argparse.Namespace) -> Job:
    """What all jobs have in common."""
    threads = args.threads or (1 if args.quick else usable_threads())  # threads that share tiny tensors wait for each other
    job = Job("", (1, 1, 1), (), (), args.runs or RUNS, threads, args.budget or BUDGET)
    if not args.quick:
        return job
    return replace(job, runs=args.runs or QUICK_RUNS, budget=args.budget or QUICK_BUDGET, steps=QUICK_STEPS, peak_seconds=0.01)


def jobs(args: argparse.Namespace, names: list[str], engines: list[str], common: Job) -> list[Job]:
    """What is to be measured, one job for each process."""
    own = [name for name in engines if name != rows.NETKET]
    lower = [name for name in rows.LOWER if rows.runs_here(name) and args.engines is None]
    found = []
    for name in names:
        entry = models.MODELS[name]
        here = replace(
            common,
            model=name,
            shape=entry.quick_shape() if args.quick else entry.shape,
            images=args.n or (QUICK_IMAGES if args.quick else entry.images),
        )
        if own:
            here = replace(here, lower=entry.lower) if lower else here
            found.append(replace(here, rows=tuple(rows.in_order([*own, *lower] if entry.lower else own))))
        if rows.NETKET in engines and entry.netket:
            found.append(replace(here, rows=(rows.NETKET,)))
    length = args.sweep or ("none" if args.quick else "short")
    return found + sweeps.jobs(length, common, names, engines, found)


def in_process(job: Job) -> list[Cell]:
    """The cells of a job, from a process of its own; one that dies gives failed rows."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "cells.json"
        command = [sys.executable, str(Path(worker.__file__)), str(target)]
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        ended = subprocess.run(command, input=job.to_json(), text=True, env=environment, check=False)
        if ended.returncode == 0 and target.exists():
            return [cell_from(data) for data in json.loads(target.read_text(encoding="utf-8"))]
    reason = f"the measuring process ended with code {ended.returncode}"
    lost = tuple(Row(name, "failed", reason) for name in job.rows)
    return [Cell(job.model, job.shape, images, lost, sweep=job.sweep) for images in job.images]


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model, shape and number of images: rows that came from several processes stand together."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = cell.model, cell.shape, cell.images
        if key in found:
            first = found[key]
            together = sorted([*first.rows, *cell.rows], key=lambda row: list(rows.ROWS).index(row.name))
            cell = replace(first if first.forward else cell, rows=tuple(together), sweep=first.sweep and cell.sweep)
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
