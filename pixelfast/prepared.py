"""A frozen module, and what is compiled of it: a program and an engine for each kind of condition, on demand."""

from __future__ import annotations

from typing import Any

from torch import nn

from .distributions.base import Head
from .engines import registry
from .engines.base import Engine
from .engines.naive import NaiveEngine
from .errors import EngineUnavailable, UnsupportedModel
from .host.boundary import public
from .host.locks import Lock
from .inputs.arguments import check_flags
from .inputs.conditions import Conditions
from .ir.scan_order import RASTER, Order
from .pipeline import Analysis, Compiled, analyse, compile_program
from .trace.capture import accepted_reading, blank_output, frozen_copy
from .trace.index import IMAGES
from .trace.output import OutputLayout, ambiguous, candidates


class Prepared:
    """The part of a `pixelfast.Sampler` that does not draw: see there."""

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        head: Head,
        engine: str = "auto",
        precision: str = "fp32",
        self_check: bool = True,
        order: Order = RASTER,
    ) -> None:
        self._device = next((tensor.device for tensor in module.parameters() if tensor.device.type != "cpu"), registry.CPU)
        self.engine, self.precision = registry.choose(engine, precision, head, self._device), precision
        self._chosen = engine == "auto"
        check_flags(self_check=self_check)
        self.shape, self.self_check, self.order = shape, self_check, order
        self.head = head.frozen(shape)  # refuses a wrong encoding before anything else happens
        self._module = frozen_copy(module)
        self._compiled: dict[tuple[object, ...], tuple[Compiled, Engine | None]] = {}
        self._naive: dict[tuple[object, ...], NaiveEngine] = {}
        self._readings: dict[tuple[object, ...], int] = {}
        self._checked: set[tuple[object, ...]] = set()
        self._lock = Lock()

    @public
    def prepare(self, cond: Any = None) -> Compiled:
        """Compile for conditions like `cond`, if that has not been done; returns what was compiled.

        Raises:
            NotAutoregressive, UnsupportedModel, InvalidInput, NumericalError: the model cannot be sampled; each says why.
        """
        return self._prepare(self._understood(cond))[0]

    def _understood(self, cond: Any, n: int | None = None) -> Conditions:
        """What `cond=` means for n images, or for any number: the first reading that the module accepts."""
        readings = Conditions.parse(cond).readings(n)
        if len(readings) == 1:
            return readings[0]
        key = readings[0].signature()
        with self._lock:
            if key not in self._readings:
                self._readings[key] = accepted_reading(self._module, self.head, self.shape, readings)
            return readings[self._readings[key]]

    def _prepare(self, conditions: Conditions) -> tuple[Compiled, Engine | None]:
        key = conditions.signature()
        with self._lock:
            if key not in self._compiled:
                compiled = compile_program(self._analyse(conditions), self.head)
                self._compiled[key] = compiled, None if self.engine == registry.NAIVE else self._make(compiled)
            return self._compiled[key]

    def _make(self, compiled: Compiled) -> Engine:
        """The engine for a program; where it was chosen by "auto" and refuses the program, the next one."""
        try:
            return registry.make(self.engine, compiled.program, self.precision, self._device)
        except EngineUnavailable:
            if not self._chosen:
                raise
            self.engine = registry.choose("auto", self.precision, compiled.program, self._device, but=self.engine)
            return registry.make(self.engine, compiled.program, self.precision, self._device)

    def _analyse(self, conditions: Conditions) -> Analysis:
        return analyse(self._module, self.shape, self.head, conditions, self.order)

    def _oracle(self, conditions: Conditions) -> NaiveEngine:
        """The naive engine, which needs no more than the layout of the output."""
        key = conditions.signature()
        with self._lock:
            if key not in self._naive:
                if self.engine != registry.NAIVE:
                    layout = self._prepare(conditions)[0].analysis.layout
                else:
                    layout = self._naive_layout(conditions)
                self._naive[key] = NaiveEngine(self._module, self.head, layout, self.order)
            return self._naive[key]

    def _naive_layout(self, conditions: Conditions) -> OutputLayout:
        """The layout of the output by its shape alone, or by tracing if the shape leaves a choice.

        Raises:
            AmbiguousLayout: it leaves a choice, and tracing gave no answer.
        """
        output = blank_output(self._module, self.head, self.shape, conditions)
        result = candidates(tuple(output.shape), IMAGES, self.shape, self.head)
        if len(result) == 1:
            return result[0]
        try:
            analysis = self._analyse(conditions)
        except UnsupportedModel as error:
            reason = "and which one is autoregressive cannot be found out, since the model cannot be traced"
            raise ambiguous(tuple(output.shape), result, reason) from error
        if analysis.leak is not None:
            raise analysis.leak
        return analysis.layout

    def _faster_engines(self) -> list[tuple[str, str]]:
        """Those before the one in use that cannot run this, and why."""
        faster = list(registry.ENGINES)[: list(registry.ENGINES).index(self.engine)]
        return [(name, why) for name, why in registry.refusals(self.head, self.precision).items() if name in faster]

    @public
    def explain(self, cond: Any = None) -> str:
        """What was found in the model and how it is sampled, for reading."""
        name = type(self._module).__name__
        channels, height, width = self.shape
        how = self.engine if self.order == RASTER else f"{self.engine}, order {self.order.name}"
        if self.engine == registry.NAIVE:
            return f"{name}: engine {how}, {channels * height * width} full forwards for each batch"
        compiled = self._prepare(self._understood(cond))[0]
        program, graph = compiled.program, compiled.analysis.graph
        return "\n".join(
            [
                f"{name}: engine {how}, precision {self.precision}, output layout {compiled.analysis.layout.text}",
                *(f"not the faster engine {other}: {why}" for other, why in self._faster_engines()),
                f"multiply-adds for an image: {program.macs:,} ({program.macs / max(graph.dense_macs, 1):.2f} of one forward)",
                f"memory: {program.weight_bytes():,} bytes of weights, {program.bytes_per_image():,} bytes for each image",
                "schedule:",
                str(compiled.schedule),
            ]
        )
