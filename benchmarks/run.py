"""The speed report: every kind of model, sampled in every way there is, with correctness beside speed.

    python benchmarks/run.py [--quick] [--models a,b] [--engines naive,cpu] [--n 1,16] [--baseline results.json]
    python benchmarks/run.py --device cuda [--models a,b,c,d] [--limit 60]

For each model and each number of images it measures the usual loop (some steps of it; the rest is extrapolated and marked ~),
every engine of the package, NetKet where it has the same network, and one eager forward of the module over the same images, as
PyTorch comes and tuned. A row whose images fail verification shows no speed, and the exit code is 1. The report goes to the
terminal and, as Markdown, JSON and pictures, to a folder, and says what each column means.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from gpu.worker import VERIFIED
from pixelfast.engines.native.engine import usable_threads
from speed import baseline, machine, measure, models, processes, report, rows, sweeps
from speed.arguments import counts_of, names_of, positive
from speed.job import Job
from speed.results import Cell, Run, run_from, to_json
from speed.surroundings import BUSY

RESULTS = Path(__file__).parent / "results"
RUNS, QUICK_RUNS = 7, 2
BUDGET, QUICK_BUDGET = 120.0, 3.0
"""Seconds for the runs of one number of images of one model, as it comes and tuned each."""
QUICK_STEPS = 2
QUICK_IMAGES = (4,)
ON_GPU, GPU_IMAGES, GPU_RUNS, GPU_BUDGET = ("a", "b", "c", "d"), (64, 1, 1024), 5, 6.0
"""Models and numbers of images on a GPU, those that matter most first, and what is spent on each measurement."""
WORKERS = {"cpu": Path(__file__).with_name("speed") / "worker.py", "cuda": Path(__file__).with_name("gpu") / "worker.py"}
"""The program that measures one model, by device."""

Start = Callable[[Job], list[Cell]]


def main(argv: Sequence[str] | None = None, start: Start | None = None) -> int:
    """Measure, report, compare; 1 if a row failed, 2 if the arguments make no sense."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no CUDA device; without --device, the processor is measured")
        asked = args.models or (list(ON_GPU) if args.device == "cuda" and not args.quick else None)
        names, engines = models.find(asked, args.quick), rows.find(args.engines, args.quick, args.device)
        before = None if args.baseline is None else read_baseline(args.baseline)
    except ValueError as error:
        parser.error(str(error))
    common = common_job(args)
    todo = jobs(args, names, engines, common)
    begin = time.perf_counter()
    facts = machine.gpu_facts(common.threads) if args.device == "cuda" else machine.facts(common.threads)
    print(report.heading(facts), flush=True)
    if (facts["busy_processors"] or 0) > BUSY:
        print(f"OTHER PROGRAMS USE {facts['busy_processors']:.1f} PROCESSORS: the times below are not to be trusted")
    folder = args.out or RESULTS / folder_name(facts)
    cells, notes = [], notes_for(args.device)
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
    parser.add_argument("--device", choices=rows.DEVICES, default="cpu", help="default: cpu")
    parser.add_argument(
        "--limit", type=positive, metavar="SECONDS", help="of each model, with --device cuda: what was measured by then is kept"
    )
    parser.add_argument("--out", type=Path, help="folder; default: benchmarks/results/<date>-<processor>-<commit>")
    parser.add_argument("--no-plots", action="store_true", help="leave the pictures out")
    parser.add_argument(
        "--sweep",
        choices=sweeps.LENGTHS,
        help="how times grow with the number and the size of images; default: short, with --quick none",
    )
    return parser


def common_job(args: argparse.Namespace) -> Job:
    """What all jobs have in common."""
    threads = args.threads or (1 if args.quick else usable_threads())  # threads that share tiny tensors wait for each other
    job = Job("", (1, 1, 1), (), (), args.runs or RUNS, threads, args.budget or BUDGET)
    if args.device == "cuda":
        job = replace(
            job, threads=args.threads or usable_threads(), runs=args.runs or GPU_RUNS, budget=args.budget or GPU_BUDGET,
            device="cuda", limit=args.limit, yardstick="default",
        )  # fmt: skip
    if not args.quick:
        return job
    return replace(job, runs=args.runs or QUICK_RUNS, budget=args.budget or QUICK_BUDGET, steps=QUICK_STEPS, peak_seconds=0.01)


def jobs(args: argparse.Namespace, names: list[str], engines: list[str], common: Job) -> list[Job]:
    """What is to be measured, one job for each process."""
    own = [name for name in engines if name != rows.NETKET]
    gpu = args.device == "cuda"
    lower = [name for name in rows.LOWER if rows.on("cpu", name) and rows.runs_here(name) and args.engines is None and not gpu]
    result = []
    for name in names:
        entry = models.MODELS[name]
        here = replace(
            common,
            model=name,
            shape=entry.quick_shape() if args.quick else entry.shape,
            images=images_of(args, entry.images),
        )
        if own:
            here = replace(here, lower=entry.lower) if lower else here
            result.append(replace(here, rows=tuple(rows.in_order([*own, *lower] if entry.lower else own))))
        if rows.NETKET in engines and entry.netket:
            result.append(replace(here, rows=(rows.NETKET,)))
    length = args.sweep or ("none" if args.quick or gpu else "short")
    return result + sweeps.jobs(length, common, names, engines, result)


def images_of(args: argparse.Namespace, usual: tuple[int, ...]) -> tuple[int, ...]:
    """How many images are drawn; on a GPU in the order of what matters most."""
    if args.device == "cuda":
        asked = args.n or (QUICK_IMAGES if args.quick else GPU_IMAGES)
        return tuple(sorted(asked, key=lambda n: (*(known != n for known in GPU_IMAGES), n)))
    return args.n or (QUICK_IMAGES if args.quick else usual)


def in_process(job: Job, saved: processes.Saved = lambda cells: None) -> list[Cell]:
    """The cells of a job, from a process of its own."""
    return processes.run(WORKERS[job.device], job, saved)


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each model, shape and number of images: rows that came from several processes stand together."""
    result: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = cell.model, cell.shape, cell.images
        if key in result:
            first = result[key]
            together = sorted([*first.rows, *cell.rows], key=lambda row: list(rows.ROWS).index(row.name))
            cell = replace(first if first.forward else cell, rows=tuple(together), sweep=first.sweep and cell.sweep)
        result[key] = cell
    return list(result.values())


def notes_for(device: str) -> list[str]:
    """What the reader should know beforehand."""
    if device == "cuda":
        return [
            f"on a GPU: at most {VERIFIED} images of a row are verified; `compile` holds tracing, the kernels' compilation (or "
            "finding it on disk) and the capture of graphs; `memory` is PyTorch's on the GPU; one forward and the usual loop "
            "are PyTorch as it comes, with TF32 in convolutions"
        ]
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
            from speed import plots

            drawn = plots.draw(folder, run)
        except ImportError as error:
            print(f"no pictures: {error}; pip install 'pixelfast[bench]' brings matplotlib")
    (folder / "report.md").write_text(report.markdown(run, before, drawn), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
