"""Which engines there are, which can run here, and which one `engine="auto"` takes.

An engine that is asked for by name is used or refused, with the reason; it never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import EngineUnavailable
from ..precision import PRECISIONS, check_precision
from ..program import Program
from . import cpu, cuda, reference
from .request import Request, Result


class Engine(Protocol):
    """Runs one program for any number of images."""

    def run(self, request: Request) -> Result: ...


class ReferenceEngine:
    """The interpreter in plain PyTorch; float32 only."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, request: Request) -> Result:
        return reference.run(self.program, request)


@dataclass(frozen=True)
class Entry:
    """An engine: what it is, why it cannot run here (None: it can), how it is made, and the precisions that it has."""

    summary: str
    unavailable: Callable[[], str | None]
    make: Callable[[Program, str], Engine]
    precisions: tuple[str, ...] = ("fp32",)


ENGINES: dict[str, Entry] = {
    "cpu": Entry(
        "native engine in C++",
        cpu.available,
        lambda program, precision: cpu.CpuEngine(program, precision=precision),
        tuple(PRECISIONS),
    ),
    "cuda": Entry(
        "cluster kernel for small nets, on Hopper GPUs", cuda.unavailable, lambda program, _: cuda.CudaEngine(program)
    ),
    "reference": Entry("interpreter in plain PyTorch", lambda: None, lambda program, _: ReferenceEngine(program)),
}
"""Engines that run programs, the fastest first. "naive" runs the module itself and needs no program."""

NAMES = ("auto", *ENGINES, "naive")


def check_name(name: str, precision: str = "fp32") -> None:
    """Refuse a name unless an engine of this name exists, can run here and has this precision.

    Raises:
        EngineUnavailable: it does not, or it cannot.
        InvalidInput: no engine has such a precision.
    """
    check_precision(precision)
    if name not in NAMES:
        raise EngineUnavailable(f"there is no engine {name!r}; engines are {', '.join(NAMES)}")
    if name in ENGINES and (reason := ENGINES[name].unavailable()) is not None:
        raise EngineUnavailable(f"the engine {name!r} cannot run here: {reason}")
    having = [engine for engine, entry in ENGINES.items() if precision in entry.precisions]
    if name not in ("auto", *having) and (name, precision) != ("naive", "fp32"):
        raise EngineUnavailable(
            f"the engine {name!r} has no precision {precision!r}: "
            f"use engine={' or '.join(map(repr, having))}, or precision='fp32'"
        )
    if name == "auto" and not any(ENGINES[engine].unavailable() is None for engine in having):
        reasons = "; ".join(f"{engine}: {ENGINES[engine].unavailable()}" for engine in having)
        raise EngineUnavailable(f"no engine that has the precision {precision!r} can run here: {reasons}")


def choose(name: str, precision: str = "fp32") -> str:
    """The engine for a name: itself, or for "auto" the first of `ENGINES` that has the precision and can run here."""
    check_name(name, precision)
    if name != "auto":
        return name
    return next(
        candidate for candidate, entry in ENGINES.items() if precision in entry.precisions and entry.unavailable() is None
    )
