"""Measures one model on a GPU, in a process of its own. What it has found is saved after every row, in case the next one hangs.

The rows are those of `rows.py`. The yardstick is one eager forward of the module as PyTorch comes, on the same GPU:
float32, with TF32 in convolutions, which is PyTorch's default. Verifying turns TF32 off.
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

import pixelfast
from gpu.rows import EngineDrawing, GpuLoops, InterpretedDrawing, Traced, drawing, explained
from pixelfast.inputs.conditions import Conditions
from speed import rows as row_names
from speed.job import Job, say
from speed.loop_rows import STEP_SECONDS
from speed.measure import turns
from speed.models import MODELS
from speed.processes import Saved, serve
from speed.results import Cell, Forward, Gate, Row, withhold
from speed.texts import short
from speed.yardsticks import EagerForward, Tried, any_images, fastest

VERIFIED = 16
"""Images of a row that are compared with the module, at most: what the comparison takes is spent on the processor."""

LAST = ("cuda",)
"""Engines that are measured last: blocks of such a kernel wait for each other, and one that hangs ends the session."""


class GpuWorker:
    """One model on one device.

    Args:
        save: gets all cells so far, after each row.
        device: "cuda"; a processor in tests.
    """

    def __init__(self, job: Job, save: Saved, device: str = "cuda") -> None:
        self.job, self.save, self.device, self.began = job, save, torch.device(device), time.perf_counter()
        torch.set_num_threads(job.threads)
        self.entry = entry = MODELS[job.model]
        say(f"{job.model} {'x'.join(map(str, job.shape))}: tracing")
        module, head = entry.make(job.shape)
        compiled = pixelfast.compile(module, job.shape, head, cond=entry.cond(1), engine="reference", self_check=False).prepare(
            entry.cond(1)
        )
        took = time.perf_counter() - self.began
        on_device = copy.deepcopy(module).to(self.device)
        self.traced = Traced(entry, head, job.shape, on_device, compiled, self.device, took)
        self.cells: dict[int, Cell] = {}
        self.tried: dict[int, Tried] = {}

    def run(self) -> list[Cell]:
        """All cells, in the order of the job's images; within each, the rows that matter most come first."""
        for last in (False, True):
            for images in self.job.images:
                for name in sorted(self.job.rows, key=self.weight):
                    if (name in LAST) == last:
                        self.add(name, images)
                        self.save(list(self.cells.values()))
        return list(self.cells.values())

    def weight(self, name: str) -> int:
        """The engines before what they are compared with; the interpreter takes longest."""
        if name in row_names.ARRANGED:
            return 1
        return 3 if name == row_names.SLOW else 2 if name in row_names.USUAL else 0

    def add(self, name: str, images: int) -> None:
        """One more row of a cell."""
        job = self.job
        if images not in self.cells:
            forward = None if job.yardstick == "none" else self.forward(images)
            self.cells[images] = Cell(job.model, job.shape, images, (), forward)
        say(f"n = {images}: {name}")
        cell = self.cells[images]
        found = {row.name: row for row in cell.rows}
        if job.limit is not None and time.perf_counter() - self.began > job.limit:
            found[name] = Row(name, "skipped", f"the {job.limit:.0f} s of this model were spent")
        elif name in row_names.USUAL:
            found |= self.usual(name, images)
        else:
            found[name] = self.engine(name, images)
        self.cells[images] = replace(cell, rows=tuple(found[row] for row in job.rows if row in found))

    def forward(self, images: int) -> Forward | None:
        """One eager forward over all images, in the batch that is fastest; None: the module does not run here."""
        say(f"n = {images}: one forward")
        inputs = any_images(self.traced.head, images, self.job.shape).to(self.device)
        conditions = Conditions.parse(self.entry.cond(images)).to(self.device)
        try:
            forward = EagerForward(self.traced.module, inputs, conditions)
            forward.choose_batch(self.tried)
            times, _ = turns({"forward": forward}, self.job.runs, budget=self.job.budget)
        except Exception as error:
            say(f"no forward: {short(error)}")
            return None
        return Forward(times["forward"], forward.batch, forward.layout)

    def engine(self, name: str, images: int) -> Row:
        """One engine: drawn until it is warm, verified, and only then timed."""
        held = self.held()
        begin = time.perf_counter()
        try:
            made = drawing(name, self.traced, images)
            made()
            if isinstance(made, EngineDrawing):
                made()  # a row of pixels is captured when it comes again
            took = self.traced.compile_s + time.perf_counter() - begin
            memory = None if isinstance(made, InterpretedDrawing) else self.peak(held)
            row = Row(name, "ok", compile_s=took, steps=made.steps, memory=memory, note=getattr(made, "note", ""))
            row = withhold(row, made.gate(VERIFIED))
            if row.status != "ok":
                return row
            verified = made.last
            times, _ = turns({name: made}, self.job.runs, budget=self.job.budget)
            if verified is None or made.last is None or not np.array_equal(made.last, verified):
                return withhold(row, Gate(False, reason="a timed run drew other images than the verified one"))
            return replace(row, times=times[name], flops=2.0 * self.traced.compiled.program.macs * images)
        except Exception as error:
            return Row(name, *explained(error))
        finally:
            self.release()

    def usual(self, name: str, images: int) -> dict[str, Row]:
        """One form of the usual loop."""
        if not self.tried:
            return {name: Row(name, "skipped", "the module's forward does not run here")}
        batch = fastest(self.tried, images, STEP_SECONDS)
        try:
            loops = GpuLoops.of(replace(self.job, rows=(name,)), self.traced, batch, images)
            made = loops.prepare()
            times, _ = turns({**made}, self.job.runs, brief=[*made], budget=self.job.budget)
            return loops.refused | {key: loop.row(times[key]) for key, loop in made.items()}
        except Exception as error:
            return {name: Row(name, "skipped", short(error))}
        finally:
            self.release()

    # Memory of the device.

    def held(self) -> int:
        """Bytes that PyTorch has on the device; peaks count from here."""
        if self.device.type != "cuda":
            return 0
        self.release()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self, held: int) -> int | None:
        """How many more there were at most; None: whoever took some did so past PyTorch, or on a processor."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device) - held or None

    def release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(serve(lambda job, save: GpuWorker(job, save).run()))
