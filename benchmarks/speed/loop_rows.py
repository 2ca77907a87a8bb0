"""The rows of what a user has today: the usual loop in its forms, each compared with the plain one before it is timed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pixelfast.distributions import noise
from pixelfast.distributions.base import Head
from pixelfast.inputs.conditions import Conditions
from pixelfast.precision import PRECISIONS
from pixelfast.trace.output import OutputLayout, candidates
from pixelfast.verify import relative_error
from speed import rows as row_names
from speed.job import Job, say
from speed.measure import wait
from speed.models import Model
from speed.results import Gate, Row, Times
from speed.texts import short
from speed.usual_loop import CPU, UsualLoop

STEP_SECONDS = 2.0
"""A step goes over as many images as suit the forward best, but takes no longer, or measuring would take minutes."""
PLAIN_STEPS = 2
"""Measured steps of a loop whose steps all cost the same."""


@dataclass(frozen=True)
class Loop:
    """A form of the usual loop that is to be timed, for some of the images: scale is how many times more there are."""

    name: str
    loop: UsualLoop
    steps: int
    scale: float
    gate: Gate
    compile_s: float | None = None

    def __call__(self) -> float:
        return self.loop.seconds(self.steps) * self.scale

    def row(self, times: Times) -> Row:
        return Row(self.name, "ok", steps=self.steps, times=times, compile_s=self.compile_s, gate=self.gate)


@dataclass
class Loops:
    """The forms that a job names, for one cell.

    Attributes:
        batch: images that go through the module at once.
        layout: where the parameters stand in the module's output; None: what fits the shape of the output.
        device: where the module is.
        close: how far a form's logits may lie from the plain one's, over their standard deviation.
        refused: forms that this module does not allow.
    """

    job: Job
    entry: Model
    module: nn.Module
    head: Head
    batch: int
    images: int
    layout: OutputLayout | None
    device: torch.device = CPU
    close: float = PRECISIONS["fp32"].tolerance
    refused: dict[str, Row] = field(default_factory=dict)

    def prepare(self) -> dict[str, Loop]:
        """Every form, warmed up."""
        asked = [name for name in self.job.rows if name in row_names.USUAL]
        if not (self.entry.compiled and self.images == max(self.job.images)):  # it compiles anew for every batch
            asked = [name for name in asked if name != "naive-compiled"]
        if not asked:
            return {}
        self.conditions = Conditions.parse(self.entry.cond(self.images)).rows(torch.arange(self.batch), self.images)
        self.middle = self.job.shape[1] // 2, self.job.shape[2] // 2, 0
        self.layout = self.layout or self.guessed_layout()
        self.plain = self.loop(self.module)
        self.expected = self.plain.parameters(*self.middle)
        made = {}
        for name in asked:
            say(f"{name}: warming up")
            try:
                made[name] = self.form(name)
            except Exception as error:
                self.refused[name] = Row(name, "skipped", short(error))
        return made

    def loop(self, forward: Any, crop: bool = False) -> UsualLoop:
        assert self.layout is not None
        noises = noise.uniforms(0, 0, self.batch, self.job.shape)
        return UsualLoop(forward, self.head, self.layout, self.conditions.to(self.device), noises, crop, self.device)

    def form(self, name: str) -> Loop:
        """One form, compared with the plain one."""
        scale = self.images / self.batch
        if name == "naive":
            return Loop(name, self.plain, PLAIN_STEPS, scale, Gate(True))
        begin = time.perf_counter()
        other, steps = self.other(name)
        found = other.parameters(*self.middle)
        wait(self.device)
        took = time.perf_counter() - begin
        error = relative_error(found.float().cpu(), self.expected.float().cpu())
        if not error <= self.close:
            raise ValueError(f"its logits differ from the module's by {error:.1e} of their standard deviation")
        return Loop(name, other, steps, scale, Gate(True, parameter_error=error), None if name == "naive-cropped" else took)

    def other(self, name: str) -> tuple[Any, int]:
        """A form that is not the plain one, and how many of its steps are timed."""
        if name == "naive-cropped":
            return self.loop(self.module, crop=True), self.job.steps
        return self.loop(torch.compile(self.module, dynamic=False)), PLAIN_STEPS

    def guessed_layout(self) -> OutputLayout:
        with torch.no_grad():
            blank: Tensor = torch.zeros(self.batch, *self.job.shape, dtype=torch.int64)
            output = self.module(self.head.encode_images(blank), *self.conditions.args, **self.conditions.kwargs)
        return candidates(tuple(output.shape), self.batch, self.job.shape, self.head)[0]
