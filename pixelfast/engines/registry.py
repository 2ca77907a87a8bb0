"""Which engines there are, which can run here, and which one `engine="auto"` takes.

An engine that is asked for by name is used or refused, with the reason; it never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import EngineUnavailable
from ..precision import NATIVE, check_precision
from ..program import Program
from . import cpu, reference, triton
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
        NATIVE,
    ),
    "triton": Entry(
        "Triton kernels on an NVIDIA GPU",
        triton.available,
        triton.TritonEngine,
        ("fp32", "fp16"),
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


def choose(name: str, precision: str = "fp32", on_cuda: bool = False, without: str = "") -> str:
    """The engine for a name: itself, or for "auto" the first of `ENGINES` that has the precision and can run here.

    Args:
        on_cuda: the module is on a GPU: there, "triton" comes first.
        without: an engine that "auto" has tried in vain.
    """
    check_name(name, precision)
    if name != "auto":
        return name
    usable = [
        candidate
        for candidate, entry in ENGINES.items()
        if precision in entry.precisions and candidate != without and entry.unavailable() is None
    ]
    if triton.interpreted():  # for tests
        usable = [candidate for candidate in usable if candidate != "triton"]
    if not usable:
        raise EngineUnavailable(f"no other engine than {without!r} that has the precision {precision!r} can run here")
    return "triton" if on_cuda and "triton" in usable else usable[0]
