"""The rows of the package's engines: compiled once for a model, verified for each number of images, and only then timed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import pixelfast
from pixelfast.distributions.base import Head
from pixelfast.trace.output import OutputLayout
from speed import rows as row_names
from speed.job import Job, say
from speed.measure import Memory, peak_memory
from speed.models import Model
from speed.results import Gate, Row, withhold
from speed.roofline import traffic
from speed.texts import short

SEED = 0
PART_ROWS = 2
"""Rows of pixels that the slow engine draws; the ones above are given."""
PART_IMAGES = 256
"""Images that the slow engine draws at most, more than enough for an image to take as long as among many."""


@dataclass
class Drawing:
    """Draws the images of one cell, and keeps what it drew last."""

    sampler: pixelfast.Sampler
    images: int
    cond: Any
    threads: int
    given: Tensor | None = None
    last: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self) -> None:
        """Sets `last`, (N, C, H, W)."""
        self.last = self.sampler.sample(self.images, seed=SEED, cond=self.cond, given=self.given, threads=self.threads)

    def gate(self, most: int) -> Gate:
        """Check so many of the last images against the module itself: one forward over them, and the same noise."""
        count = min(most, self.images)
        cond = self.cond if self.cond is None else self.cond[:count]
        given = None if self.given is None else self.given[:count]
        try:
            result = self.sampler.verify(self.last[:count], seed=SEED, cond=cond, given=given)
        except pixelfast.VerificationError as error:
            return Gate(False, reason=short(error))
        differ = result.wrong + result.changed + result.ties + result.moved
        return Gate(True, result.draws, differ, result.ties, result.parameter_error)


@dataclass
class PartDrawing(Drawing):
    """Draws the last rows of pixels of some of the images, and tells how long all rows of all images would take."""

    of: int = 0

    def __post_init__(self) -> None:
        self.of, self.images = self.images, min(self.images, PART_IMAGES)
        self.cond = self.cond if self.cond is None else self.cond[: self.images]
        channels, self.height, self.width = self.sampler.shape
        self.rows = min(PART_ROWS, self.height)
        shape = self.images, channels, self.height, self.width
        self.given = torch.randint(self.sampler.head.levels, shape, generator=torch.Generator().manual_seed(SEED)).int()
        self.given[:, :, self.height - self.rows :] = -1

    @property
    def steps(self) -> int:
        return self.rows * self.width * self.sampler.shape[0]

    def __call__(self) -> float:  # type: ignore[override]
        ends = [time.perf_counter()]
        self.last = self.sampler.sample(
            self.images, seed=SEED, cond=self.cond, given=self.given, on_row=lambda *_: ends.append(time.perf_counter())
        )
        rows = [end - begin for begin, end in pairwise(ends)][-self.rows :]
        return median(rows) * self.height * self.of / self.images


class Engines:
    """The engines that a job names, for one module."""

    def __init__(self, job: Job, entry: Model, module: nn.Module, head: Head) -> None:
        self.job, self.entry, self.module, self.head = job, entry, module, head
        self.samplers: dict[str, pixelfast.Sampler] = {}
        self.kept: dict[str, int] = {}  # bytes that an engine keeps from call to call
        self.rows: dict[str, Row] = {}  # what holds for every number of images
        # The first one pays for what tracing imports, as a user's first model does: let that be the one that users take.
        for name in sorted(job.rows, key=row_names.SLOW.__eq__):
            if name in row_names.ENGINES:
                self.compile(name)

    def compile(self, name: str) -> None:
        """Compile for a row; an engine that refuses becomes a failed row."""
        say(f"{name}: compiling")
        engine, precision = row_names.ENGINES[name]
        cond = self.entry.cond(1)
        begin = time.perf_counter()
        try:
            # No self-check: it would add to the memory of the first drawing, and every cell is gated by `verify` anyway.
            options = {"cond": cond, "engine": engine, "precision": precision, "self_check": False}
            sampler = pixelfast.compile(self.module, self.job.shape, self.head, **options)
            took = time.perf_counter() - begin
            self.samplers[name] = sampler
            first = None if name == row_names.SLOW else peak_memory(self.drawing(name, 1))
        except Exception as error:
            refused = isinstance(error, pixelfast.UnsupportedModel)  # says so beforehand: that is no mistake
            self.rows[name] = Row(name, "skipped" if refused else "failed", short(error))
            self.samplers.pop(name, None)
            return
        self.kept[name] = first.kept if first else 0
        self.rows[name] = Row(name, "ok", compile_s=took)

    def drawing(self, name: str, images: int) -> Drawing:
        made = PartDrawing if name == row_names.SLOW else Drawing
        return made(self.samplers[name], images, self.entry.cond(images), self.job.threads)

    def gated(self, images: int) -> tuple[dict[str, Row], dict[str, Drawing]]:
        """The rows without times, and the drawings that may be timed: their images have been verified."""
        result, drawings = dict(self.rows), {}
        self.verified: dict[str, Tensor] = {}
        for name, sampler in self.samplers.items():
            if name in row_names.LOWER and images > self.job.lower:
                result.pop(name)
                continue
            say(f"{name}: drawing and verifying")
            drawing = self.drawing(name, images)
            try:
                took = peak_memory(drawing)
                gate = drawing.gate(self.job.verified)
            except Exception as error:
                took, gate = None, Gate(False, reason=short(error))
            row = withhold(self.rows[name], gate)
            if gate.ok:
                program = sampler.prepare(drawing.cond).program
                moved = traffic(program, images, self.job.threads)
                row = replace(row, flops=2.0 * program.macs * images, traffic=moved)
                if isinstance(drawing, PartDrawing):
                    row = replace(row, steps=drawing.steps)
                else:
                    row = replace(row, memory=self.memory(name, took))
                drawings[name], self.verified[name] = drawing, drawing.last
            result[name] = row
        return result, drawings

    def timed(self, row: Row, drawing: Drawing, changes: dict[str, Any]) -> Row:
        """The row with what was measured, if the timed runs drew the verified images."""
        if torch.equal(drawing.last, self.verified[row.name]):
            return replace(row, **changes)
        return withhold(row, Gate(False, reason="a timed run drew other images than the verified one"))

    def memory(self, name: str, took: Memory | None) -> int | None:
        """Bytes of a call: what it takes beyond what the process holds, and what the engine holds from calls before."""
        if took is None:
            return None
        total = took.peak + self.kept[name]
        self.kept[name] += took.kept
        return total

    def layout(self) -> OutputLayout | None:
        """Where the parameters stand in the module's output, as compiling found; None: nothing was compiled."""
        return next((sampler.prepare(self.entry.cond(1)).analysis.layout for sampler in self.samplers.values()), None)
