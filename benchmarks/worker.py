"""Measures one model, in a process of its own: `python worker.py` reads a job from its input and writes cells to a file.

A process for each model, because the allocator cannot be tuned and untuned again: everything is first measured as PyTorch and
glibc come, for all numbers of images; then the allocator is told to keep large blocks, and sampling and the tuned forward take
turns once more. It also keeps one model's memory out of another's high-water mark, and one model's crash out of the report.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import machine
import rows as row_names
import torch
from measure import Memory, Task, peak_memory, turns
from models import MODELS, Shape
from results import Cell, Forward, Gate, Row, Times, to_json, withhold
from roofline import traffic
from torch import Tensor, nn
from usual_loop import UsualLoop
from yardsticks import EagerForward

import pixelfast
from pixelfast import noise
from pixelfast.conditions import Conditions
from pixelfast.engines import registry
from pixelfast.precision import PRECISIONS
from pixelfast.trace.output import OutputLayout, candidates
from pixelfast.verify import relative_error

SEED = 0
SLOW = "reference"
"""The engine that is there to be compared with: it runs fewer times, and not against the tuned forward."""


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes:
        model: a name of `models.MODELS`.
        shape: (C, H, W) of the images.
        images: numbers of images.
        rows: names of `rows.ROWS`.
        steps: sub-pixels of the usual loop that are measured.
        tuned: measure against the tuned forward, too.
    """

    model: str
    shape: Shape
    images: tuple[int, ...]
    rows: tuple[str, ...]
    runs: int
    threads: int
    steps: int = 5
    tuned: bool = True
    peak_seconds: float = machine.PEAK_SECONDS


@dataclass
class Drawing:
    """An engine that draws the images of one cell, and what it drew last."""

    sampler: pixelfast.Sampler
    images: int
    cond: Any
    threads: int
    last: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self) -> None:
        self.last = self.sampler.sample(self.images, seed=SEED, cond=self.cond, threads=self.threads)


class Worker:
    """One model: its engines, compiled once, and the cells for each number of images."""

    def __init__(self, job: Job) -> None:
        self.job, self.entry = job, MODELS[job.model]
        torch.set_num_threads(job.threads)
        self.module, self.head = self.entry.make(job.shape)
        self.samplers: dict[str, pixelfast.Sampler] = {}
        self.kept: dict[str, int] = {}  # bytes that an engine keeps from call to call
        self.largest: dict[int, int] = {}  # the largest batch of a forward that fits, for so many images
        self.rows: dict[str, Row] = {}  # of engines: what holds for every number of images
        # The first one pays for what tracing imports, as a user's first model does: let that be the one that users take.
        for name in registry.ENGINES:
            if name in job.rows:
                self.compile(name)

    def compile(self, name: str) -> None:
        """Compile for an engine; one that refuses becomes a failed row."""
        cond = self.entry.cond(1)
        begin = time.perf_counter()
        try:
            sampler = pixelfast.compile(self.module, self.job.shape, self.head, cond=cond, engine=name)
            took = time.perf_counter() - begin
            first = peak_memory(Drawing(sampler, 1, cond, self.job.threads))
        except Exception as error:
            refused = isinstance(error, pixelfast.UnsupportedModel)  # says so beforehand: that is no mistake
            self.rows[name] = Row(name, "skipped" if refused else "failed", text(error))
            return
        self.samplers[name], self.kept[name] = sampler, first.kept if first else 0
        self.rows[name] = Row(name, "ok", compile_s=took)

    def run(self) -> list[Cell]:
        """All cells: first everything as it comes, then against the tuned forward."""
        cells = [self.default_cell(images) for images in self.job.images]
        if not self.job.tuned or not machine.raise_malloc_thresholds():
            return cells
        return [self.tuned_cell(cell) for cell in cells]

    # As PyTorch and glibc come.

    def default_cell(self, images: int) -> Cell:
        job = self.job
        say(f"{job.model} {'x'.join(map(str, job.shape))}, n = {images}")
        found, drawings = self.gated(images)
        forward = EagerForward(self.module, self.inputs(images), self.conditions(images))
        self.largest[images] = forward.choose_batch(machine.available_memory())
        taken = peak_memory(forward)
        loops, refused = self.usual_loops(images, forward)
        found |= refused
        totals: dict[str, list[float]] = {name: [] for name in loops}
        tasks: dict[str, Any] = {}
        for name in job.rows:
            if name in drawings:
                tasks[name] = drawings[name]
            if name in loops:
                tasks[name] = partial(self.step_through, loops[name], images, totals[name])
        times, peaks = turns({"forward": forward, **tasks}, job.runs, self.peak, brief=[*loops, SLOW])
        for name in drawings:
            found[name] = replace(found[name], times=times[name], peaks=peaks[name])
            if not torch.equal(drawings[name].last, self.verified[name]):
                found[name] = withhold(found[name], Gate(False, reason="a timed run drew other images than the verified one"))
        for name, loop in loops.items():
            row = Row(name, "ok", steps=loop.steps, times=Times(tuple(totals[name])), compile_s=loop.compile_s, note=loop.note)
            found[name] = replace(row, gate=loop.gate)
        yardstick = Forward(times["forward"], forward.batch, forward.layout, taken.peak if taken else None)
        ordered = tuple(found[name] for name in job.rows if name in found)
        return Cell(job.model, job.shape, images, ordered, yardstick)

    def gated(self, images: int) -> tuple[dict[str, Row], dict[str, Drawing]]:
        """The engines' rows without times, and those that may be timed: their images have been verified."""
        found, drawings = dict(self.rows), {}
        self.verified: dict[str, Tensor] = {}
        for name, sampler in self.samplers.items():
            cond = self.entry.cond(images)
            drawing = Drawing(sampler, images, cond, self.job.threads)
            try:
                took = peak_memory(drawing)
                gate = gate_of(sampler, drawing.last, cond)
            except Exception as error:
                took, gate = None, Gate(False, reason=text(error))
            row = withhold(self.rows[name], gate)
            if gate.ok:
                program = sampler.prepare(cond).program
                moved = traffic(program, images, self.job.threads)
                row = replace(row, memory=self.memory(name, took), flops=2.0 * program.macs * images, traffic=moved)
                drawings[name] = drawing
                self.verified[name] = drawing.last
            found[name] = row
        return found, drawings

    def memory(self, name: str, took: Memory | None) -> int | None:
        """Bytes of a call: what it takes beyond what the process holds, and what the engine holds from calls before."""
        if took is None:
            return None
        total = took.peak + self.kept[name]
        self.kept[name] += took.kept
        return total

    # What a user has today.

    def usual_loops(self, images: int, forward: EagerForward) -> tuple[dict[str, Loop], dict[str, Row]]:
        """The usual loop in its forms, for one batch of the forward's size, and the forms that this module refuses."""
        loops: dict[str, Loop] = {}
        refused: dict[str, Row] = {}
        for name in self.job.rows:
            if name not in row_names.USUAL:
                continue
            if name == "naive-compiled" and not (self.entry.compiled and images == max(self.job.images)):
                continue
            try:
                loops[name] = self.usual_loop(name, forward.batch, images)
            except Exception as error:
                refused[name] = Row(name, "skipped", text(error))
        return loops, refused

    def usual_loop(self, name: str, batch: int, images: int) -> Loop:
        """One form, warmed up, and compared with the plain one."""
        conditions = self.conditions(images).rows(torch.arange(batch), images)
        noises = noise.uniforms(SEED, 0, batch, self.job.shape)
        layout = self.layout(batch, conditions)
        plain = UsualLoop(self.module, self.head, layout, conditions, noises)
        height, width = self.job.shape[1:]
        middle = height // 2, width // 2, 0
        steps = min(self.job.steps, height)
        if name == "naive":
            plain.step(*middle)
            return Loop(plain, steps, Gate(True))
        compiled: nn.Module | Any = self.module
        if name == "naive-compiled":
            compiled = torch.compile(self.module, dynamic=False)
        other = UsualLoop(compiled, self.head, layout, conditions, noises, crop=name == "naive-cropped")
        begin = time.perf_counter()
        found = other.parameters(*middle)
        took = time.perf_counter() - begin
        error = relative_error(found, plain.parameters(*middle))
        if error > PRECISIONS["fp32"].tolerance:
            raise ValueError(f"its logits differ from the module's by {error:.1e} of their standard deviation")
        other.step(*middle)
        gate = Gate(True, parameter_error=error)
        return Loop(other, steps, gate, took if name == "naive-compiled" else None)

    def step_through(self, loop: Loop, images: int, totals: list[float]) -> None:
        """Measure the loop's steps for one batch; note the time that all images would take."""
        batch = len(loop.loop.noise)
        totals.append(loop.loop.seconds(loop.steps) * images / batch)

    def layout(self, images: int, conditions: Conditions) -> OutputLayout:
        """Where the parameters stand: what compiling found, or what fits the shape of the output."""
        for sampler in self.samplers.values():
            return sampler.prepare(self.entry.cond(1)).analysis.layout
        with torch.no_grad():
            blank = torch.zeros(images, *self.job.shape, dtype=torch.int64)
            output = self.module(self.head.encode_images(blank), *conditions.args, **conditions.kwargs)
        return candidates(tuple(output.shape), images, self.job.shape, self.head)[0]

    # Against the tuned forward.

    def tuned_cell(self, cell: Cell) -> Cell:
        """The cell with the times of sampling in turns with the forward in either layout, now that blocks are kept."""
        images, job = cell.images, self.job
        say(f"{job.model} {'x'.join(map(str, job.shape))}, n = {images}, tuned")
        drawings = {
            row.name: Drawing(self.samplers[row.name], images, self.entry.cond(images), job.threads)
            for row in cell.rows
            if row.status == "ok" and row.name in self.samplers and row.name != SLOW
        }
        forwards = {}
        for layout in ("NCHW", "channels_last"):
            try:
                forward = EagerForward(self.module, self.inputs(images), self.conditions(images), layout)
                forward.choose_batch(most=self.largest[images])
            except Exception as error:
                say(f"  {layout} is left out: {text(error)}")
                continue
            forwards[layout] = forward
        tasks: dict[str, Task] = {**drawings, **forwards}
        for task in tasks.values():
            task()  # warms up under the new rules
        times, _ = turns(tasks, job.runs)
        best = min(forwards, key=lambda layout: times[layout].median)
        rows = tuple(replace(row, tuned=times.get(row.name)) for row in cell.rows)
        return replace(cell, rows=rows, tuned=Forward(times[best], forwards[best].batch, best))

    # Inputs.

    def peak(self) -> float | None:
        return machine.fma_peak(self.job.threads, self.job.peak_seconds)

    def conditions(self, images: int) -> Conditions:
        return Conditions.parse(self.entry.cond(images))

    def inputs(self, images: int) -> Tensor:
        """Encoded images of any values (N, C, H, W)."""
        generator = torch.Generator().manual_seed(SEED)
        values = torch.randint(self.head.levels, (images, *self.job.shape), generator=generator)
        return self.head.encode_images(values)


@dataclass(frozen=True)
class Loop:
    """A form of the usual loop that is to be timed."""

    loop: UsualLoop
    steps: int
    gate: Gate
    compile_s: float | None = None
    note: str = ""


def gate_of(sampler: pixelfast.Sampler, images: Tensor, cond: Any) -> Gate:
    """Check images against the module itself: one forward over them, and the same noise."""
    try:
        found = sampler.verify(images, seed=SEED, cond=cond)
    except pixelfast.VerificationError as error:
        return Gate(False, reason=text(error))
    return Gate(True, found.draws, found.wrong + found.changed + found.ties, found.ties, found.parameter_error)


def text(error: Exception) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def say(line: str) -> None:
    """Progress, for who waits."""
    print(f"  {line}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the job that comes as JSON on the standard input; the cells go to the file that is named."""
    target = Path((sys.argv[1:] if argv is None else argv)[0])
    data = json.load(sys.stdin)
    shape = data["shape"][0], data["shape"][1], data["shape"][2]
    job = Job(**{**data, "shape": shape, "images": tuple(data["images"]), "rows": tuple(data["rows"])})
    cells = measure_netket(job) if job.rows == (row_names.NETKET,) else Worker(job).run()
    target.write_text(json.dumps([to_json(cell) for cell in cells]), encoding="utf-8")
    return 0


def measure_netket(job: Job) -> list[Cell]:
    """NetKet's rows; it brings threads of its own and is imported only here."""
    import netket_row

    return [
        Cell(job.model, job.shape, images, (netket_row.measure(MODELS[job.model], job.shape, images, job.runs, job.threads),))
        for images in job.images
    ]


def job_json(job: Job) -> str:
    return json.dumps(asdict(job))


if __name__ == "__main__":
    sys.exit(main())
