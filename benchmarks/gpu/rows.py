"""The rows of a GPU: the package's engines, the usual loop, and the same loop with each step replayed as a CUDA graph.

A model is traced once for all of its rows. An engine is timed as a user meets it: noise and conditions are made on the
processor, and the time ends when the images are there again. Letters: N images, C channels, H rows, W columns, P parameters of
a sub-pixel's distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelfast import EngineUnavailable, UnsupportedModel
from pixelfast.distributions import noise
from pixelfast.distributions.base import Head
from pixelfast.engines import reference, registry
from pixelfast.engines.base import Request
from pixelfast.engines.naive import NaiveEngine
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.inputs.conditions import Conditions
from pixelfast.pipeline import Compiled, evaluate_fields
from pixelfast.verify import compare
from speed import rows as row_names
from speed.engine_rows import PART_IMAGES, PART_ROWS, SEED
from speed.job import Job
from speed.loop_rows import Loops
from speed.measure import tf32, wait
from speed.models import Model
from speed.results import Gate
from speed.texts import short
from speed.usual_loop import UsualLoop

SAME_LOGITS = 1e-2
"""How far a loop's logits may lie from the plain one's, over their standard deviation: PyTorch's convolutions may use TF32."""
GRAPH_STEPS = 6
"""Steps of the captured loop that are timed together: of each channel twice."""


@dataclass
class Traced:
    """A model, traced once: the module on the device, and the program that engines take."""

    entry: Model
    head: Head
    shape: tuple[int, int, int]
    module: nn.Module
    compiled: Compiled
    device: torch.device
    compile_s: float

    def request(self, images: int, given: np.ndarray | None = None, **options: Any) -> Request:
        """What a call of `sample` hands to an engine; the conditions are evaluated for it."""
        fields = evaluate_fields(self.compiled, Conditions.parse(self.entry.cond(images)), images)
        return Request(noise.uniforms(SEED, 0, images, self.shape), given, fields, head=self.head, **options)

    def gate(self, values: np.ndarray, parameters: np.ndarray, request: Request, precision: str, most: int) -> Gate:
        """Check so many images (N, H, W, C) against the module itself: one forward over them, float32 without TF32."""
        count = min(most, len(values))
        cond = Conditions.parse(self.entry.cond(len(values))).rows(slice(count), len(values))
        drawn = torch.from_numpy(values[:count]).long()
        unknown = np.ones(drawn.shape, bool) if request.given is None else request.given[:count] < 0
        with tf32(False):
            own = NaiveEngine(self.module, self.head, self.compiled.analysis.layout).parameters(drawn, cond)
        result = compare(
            self.head, drawn, drawn, torch.from_numpy(request.noise[:count]), torch.from_numpy(unknown),
            torch.from_numpy(parameters[:count]), own, 1.0, precision,
        )  # fmt: skip
        differ = result.wrong + result.ties + result.moved
        return Gate(result.ok, result.draws, differ, result.ties, result.parameter_error, "" if result.ok else str(result))


@dataclass
class EngineDrawing:
    """Draws all images by an engine of the package."""

    traced: Traced
    images: int
    engine: str
    precision: str
    told: str = ""  # an arrangement of the Triton engine
    last: np.ndarray | None = None

    def __post_init__(self) -> None:
        program = self.traced.compiled.program
        self.runs: Any = registry.make(self.engine, program, self.precision)
        if self.told:
            if self.runs.arrangement(self.images).name == self.told:
                raise EngineUnavailable("that is what it chooses by itself: see the row without")
            self.runs = TritonEngine(program, self.precision, arrangement=self.told)  # type: ignore[call-arg]

    @property
    def note(self) -> str:
        """What the engine has chosen, and why, if it has a choice."""
        if self.told or not hasattr(self.runs, "arrangement"):
            return ""
        chosen = self.runs.arrangement(self.images)
        return f"{chosen.name}: {chosen.reason}"

    def __call__(self) -> float:
        """Sets `last`, int32 (N, H, W, C); returns seconds."""
        wait(self.traced.device)
        begin = time.perf_counter()
        self.last = self.runs.run(self.traced.request(self.images)).values
        wait(self.traced.device)
        return time.perf_counter() - begin

    def gate(self, most: int) -> Gate:
        """Draw once more, with the parameters, and check some of the images; `last` must be the same ones."""
        request = self.traced.request(self.images, want_parameters=True)
        drawn = self.runs.run(request)
        assert drawn.parameters is not None
        if not np.array_equal(drawn.values, self.last):
            return Gate(False, reason="it draws other images when their parameters are asked for")
        return self.traced.gate(drawn.values, drawn.parameters, request, self.precision, most)

    @property
    def steps(self) -> int:
        return 0


@dataclass
class InterpretedDrawing:
    """Draws the last rows of pixels of some images by the interpreter in PyTorch, and tells how long all of them would take."""

    traced: Traced
    images: int
    last: np.ndarray | None = None

    def __post_init__(self) -> None:
        channels, height, width = self.traced.shape
        self.count, self.rows = min(self.images, PART_IMAGES), min(PART_ROWS, height)
        size = self.count, height, width, channels
        self.given = np.random.default_rng(SEED).integers(self.traced.head.levels, size=size, dtype=np.int32)
        self.given[:, height - self.rows :] = -1
        self.steps = self.rows * width * channels

    def __call__(self) -> float:
        ends = [time.perf_counter()]
        drawn = self.draw(lambda *_: ends.append(time.perf_counter()))
        self.last = drawn[0].values
        height = self.traced.shape[1]
        return median([end - begin for begin, end in pairwise(ends)][-self.rows :]) * height * self.images / self.count

    def draw(self, on_row: Callable[..., None] | None = None, **options: Any) -> tuple[Any, Request]:
        request = self.traced.request(self.count, self.given, on_row=on_row, **options)
        # The rows' times are those of an exact float32 engine.
        with tf32(False):
            return reference.run(self.traced.compiled.program, request, device=self.traced.device), request

    def gate(self, most: int) -> Gate:
        drawn, request = self.draw(want_parameters=True)
        return self.traced.gate(drawn.values, drawn.parameters, request, "fp32", most)


class GraphLoop:
    """The usual loop with a step as one CUDA graph for each channel: forward, the pixel's parameters, draw, write-back.

    Row and column are numbers in device memory. On a processor, for tests, the same step runs without a graph.
    """

    def __init__(self, loop: UsualLoop) -> None:
        self.loop, self.device = loop, loop.device
        self.shape = loop.noise.shape  # (N, H, W, C)
        self.input = loop.head.encode_images(loop.values)  # (N, C, H, W)
        self.table = loop.head.table(tuple(loop.values.shape[1:])).to(self.device)  # (C, K)
        self.row, self.col = (torch.zeros(1, dtype=torch.long, device=self.device) for _ in "rc")
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.last: dict[int, Tensor] = {}

    @torch.no_grad()
    def compute(self, channel: int) -> Tensor:
        """The parameters of a sub-pixel (N, P); its value is drawn and encoded."""
        loop, condition = self.loop, self.loop.conditions
        output = loop.forward(self.input, *condition.args, **condition.kwargs)
        output = output[0] if isinstance(output, (tuple, list)) else output
        everywhere = loop.layout.read(output, self.shape[0])  # (N, H, W, C, P)
        parameters = everywhere[:, :, :, channel].index_select(1, self.row).index_select(2, self.col)[:, 0, 0]
        place = self.row * self.shape[2] + self.col
        earlier = loop.values[:, :channel].flatten(2).index_select(2, place)[:, :, 0]  # (N, channel)
        uniform = loop.uniform[..., channel].flatten(1).index_select(1, place)[:, 0]  # (N,)
        drawn = loop.head.draw(loop.head.conditional(parameters, earlier), uniform)
        loop.values[:, channel].view(len(drawn), -1).index_copy_(1, place, drawn.unsqueeze(1))
        self.input[:, channel].view(len(drawn), -1).index_copy_(1, place, self.table[channel][drawn].unsqueeze(1))
        return parameters

    def capture(self, channel: int) -> None:
        """Capture a step, as PyTorch wants it: after some steps on another stream, in which libraries make what they need.

        The images stay as they were. On a processor there is nothing to capture.
        """
        if channel in self.last:
            return
        before = self.loop.values.clone(), self.input.clone()
        if self.device.type != "cuda":
            self.last[channel] = self.compute(channel)
        else:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self.compute(channel)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.last[channel] = self.compute(channel)
            self.graphs[channel] = graph
        self.loop.values.copy_(before[0])
        self.input.copy_(before[1])

    def step(self, row: int, col: int, channel: int) -> None:
        self.row.fill_(row)
        self.col.fill_(col)
        if channel in self.graphs:
            self.graphs[channel].replay()
        else:
            self.last[channel] = self.compute(channel)

    def parameters(self, row: int, col: int, channel: int) -> Tensor:
        self.capture(channel)
        self.step(row, col, channel)
        return self.last[channel]

    def seconds(self, steps: int) -> float:
        """Seconds for all sub-pixels, from the mean of `steps` that are issued one after another: all cost the same."""
        _, height, width, channels = self.shape
        for channel in range(channels):
            self.capture(channel)
        wait(self.device)
        begin = time.perf_counter()
        for i in range(steps):
            self.step(height // 2, i % width, i % channels)
        wait(self.device)
        return (time.perf_counter() - begin) / steps * height * width * channels


@dataclass
class GpuLoops(Loops):
    """The forms of the usual loop on a device, that of CUDA graphs among them."""

    @staticmethod
    def of(job: Job, traced: Traced, batch: int, images: int) -> GpuLoops:
        layout = traced.compiled.analysis.layout
        return GpuLoops(job, traced.entry, traced.module, traced.head, batch, images, layout, traced.device, SAME_LOGITS)

    def other(self, name: str) -> tuple[Any, int]:
        return (GraphLoop(self.loop(self.module)), GRAPH_STEPS) if name == "naive-graph" else super().other(name)


def drawing(name: str, traced: Traced, images: int) -> EngineDrawing | InterpretedDrawing:
    """What draws a row's images; the time to get there is part of compiling.

    Raises:
        EngineUnavailable: the engine cannot run here, or cannot run this program.
    """
    if name == row_names.SLOW:
        return InterpretedDrawing(traced, images)
    row, told = row_names.ARRANGED.get(name, (name, ""))
    engine, precision = row_names.ENGINES[row]
    registry.choose(engine, precision, traced.head)  # says why, if it cannot
    return EngineDrawing(traced, images, engine, precision, told)


def explained(error: Exception) -> tuple[str, str]:
    """Status and reason of a row that has no time: an engine that says no beforehand is no mistake."""
    return ("skipped" if isinstance(error, (EngineUnavailable, UnsupportedModel)) else "failed"), short(error)
