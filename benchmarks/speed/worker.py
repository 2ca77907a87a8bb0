"""Measures one model on a processor, in a process of its own: see `processes.py`.

A process for each model, because the allocator cannot be tuned and untuned again: everything is first measured as PyTorch and
glibc come, for all numbers of images; then the allocator is told to keep large blocks, and sampling and the tuned forward take
turns once more. It also keeps one model's memory out of another's high-water mark, and one model's crash out of the report.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from pixelfast.inputs.conditions import Conditions
from speed import machine
from speed import rows as row_names
from speed.engine_rows import Engines
from speed.job import Job, say
from speed.loop_rows import STEP_SECONDS, Loop, Loops
from speed.measure import Task, turns
from speed.models import MODELS
from speed.processes import Saved, serve
from speed.results import Cell, Forward, Row
from speed.texts import short
from speed.yardsticks import EagerForward, Tried, any_images, fastest

LAYOUTS = ("NCHW", "channels_last")


class Worker:
    """One model: its engines, compiled once, and the cells for each number of images."""

    def __init__(self, job: Job) -> None:
        self.job, self.entry = job, MODELS[job.model]
        torch.set_num_threads(job.threads)
        say(f"{job.model} {'x'.join(map(str, job.shape))}: n = {', '.join(map(str, job.images))}")
        self.module, self.head = self.entry.make(job.shape)
        self.engines = Engines(job, self.entry, self.module, self.head)
        self.tried: dict[str, dict[int, Tried]] = {name: {} for name in ("default", *LAYOUTS)}

    def run(self) -> list[Cell]:
        """All cells: first everything as it comes, then against the tuned forward."""
        cells = [self.default_cell(images) for images in self.job.images]
        if self.job.yardstick != "tuned" or not machine.raise_malloc_thresholds():
            return cells
        return [self.tuned_cell(cell) for cell in cells]

    # As PyTorch and glibc come.

    def default_cell(self, images: int) -> Cell:
        job = self.job
        say(f"n = {images}")
        found, drawings = self.engines.gated(images)
        tasks: dict[str, Task] = {**drawings}
        forward = self.forward(images) if job.yardstick != "none" else None
        loops = {}
        if forward is not None:
            tasks["forward"] = forward
            loops = self.loops(images, found)
            tasks |= loops
        say("timing: " + ", ".join(tasks))
        times, peaks = turns(tasks, job.runs, self.peak, [*loops, row_names.SLOW], job.budget)
        for name, drawing in drawings.items():
            found[name] = self.engines.timed(found[name], drawing, {"times": times[name], "peaks": peaks.get(name, ())})
        found |= {name: loop.row(times[name]) for name, loop in loops.items()}
        ordered = tuple(found[name] for name in job.rows if name in found)
        memory = None if forward is None else self.tried["default"][forward.batch].memory
        yardstick = None if forward is None else Forward(times["forward"], forward.batch, forward.layout, memory)
        return Cell(job.model, job.shape, images, ordered, yardstick, sweep=job.sweep)

    def forward(self, images: int) -> EagerForward:
        """The forward in the batch that suits it best; what it takes of memory is noted beside."""
        say("one forward: choosing a batch")
        forward = EagerForward(self.module, self.inputs(images), self.conditions(images))
        forward.choose_batch(self.tried["default"], machine.available_memory())
        return forward

    def loops(self, images: int, found: dict[str, Row]) -> dict[str, Loop]:
        """The usual loop in its forms; those that the module refuses are noted in `found`."""
        batch = fastest(self.tried["default"], images, STEP_SECONDS)
        loops = Loops(self.job, self.entry, self.module, self.head, batch, images, self.engines.layout())
        made = loops.prepare()
        found |= loops.refused
        return made

    # Against the tuned forward.

    def tuned_cell(self, cell: Cell) -> Cell:
        """The cell with the times of sampling in turns with the forward in either layout, now that blocks are kept."""
        images, job = cell.images, self.job
        say(f"n = {images}, tuned")
        names = row_names.native([row.name for row in cell.rows if row.status == "ok"])
        drawings = {name: self.engines.drawing(name, images) for name in names}
        forwards = {}
        for layout in LAYOUTS:
            try:
                forward = EagerForward(self.module, self.inputs(images), self.conditions(images), layout)
                forward.choose_batch(self.tried[layout], most=max(self.tried["default"]))
                forward.first(forward.batch)
            except Exception as error:
                say(f"{layout} is left out: {short(error)}")
                continue
            forwards[layout] = forward
        for drawing in drawings.values():
            drawing()  # warms up under the new rules
        tasks: dict[str, Task] = {**drawings, **forwards}
        say("timing: " + ", ".join(tasks))
        times, _ = turns(tasks, job.runs, budget=job.budget)
        best = min(forwards, key=lambda layout: times[layout].median)
        rows = tuple(replace(row, tuned=times.get(row.name)) for row in cell.rows)
        return replace(cell, rows=rows, tuned=Forward(times[best], forwards[best].batch, best))

    # Inputs.

    def peak(self) -> float | None:
        return machine.fma_peak(self.job.threads, self.job.peak_seconds)

    def conditions(self, images: int) -> Conditions:
        return Conditions.parse(self.entry.cond(images))

    def inputs(self, images: int) -> Tensor:
        return any_images(self.head, images, self.job.shape)


def measured(job: Job, _: Saved) -> list[Cell]:
    """The cells of any job on a processor."""
    return measure_netket(job) if job.rows == (row_names.NETKET,) else Worker(job).run()


def measure_netket(job: Job) -> list[Cell]:
    """NetKet's rows; it brings threads of its own and is imported only here."""
    from speed import netket_row

    return [
        Cell(job.model, job.shape, images, (netket_row.measure(MODELS[job.model], job.shape, images, job.runs, job.threads),))
        for images in job.images
    ]


if __name__ == "__main__":
    sys.exit(serve(measured))
