"""Which engines there are, which can run here, and which one `engine="auto"` takes.

An engine that is asked for by name is used or refused, with the reason; it never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import EngineUnavailable
from ..program import Program
from . import cpu, reference
from .request import Request, Result


class Engine(Protocol):
    """Runs one program for any number of images."""

    def run(self, request: Request) -> Result: ...


class ReferenceEngine:
    """The interpreter in plain PyTorch."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, request: Request) -> Result:
        return reference.run(self.program, request)


@dataclass(frozen=True)
class Entry:
    """An engine: what it is, why it cannot run here (None: it can), and how it is made."""

    summary: str
    unavailable: Callable[[], str | None]
    make: Callable[[Program], Engine]


ENGINES: dict[str, Entry] = {
    "cpu": Entry("native engine in C++", cpu.available, cpu.CpuEngine),
    "reference": Entry("interpreter in plain PyTorch", lambda: None, ReferenceEngine),
}
"""Engines that run programs, the fastest first. "naive" runs the module itself and needs no program."""

NAMES = ("auto", *ENGINES, "naive")


def check_name(name: str) -> None:
    """Raise EngineUnavailable unless an engine of this name exists and can run here."""
    if name not in NAMES:
        raise EngineUnavailable(f"there is no engine {name!r}; engines are {', '.join(NAMES)}")
    if name in ENGINES and (reason := ENGINES[name].unavailable()) is not None:
        raise EngineUnavailable(f"the engine {name!r} cannot run here: {reason}")


def choose(name: str) -> str:
    """The engine for a name: itself, or for "auto" the first of `ENGINES` that can run here."""
    check_name(name)
    if name != "auto":
        return name
    return next(candidate for candidate, entry in ENGINES.items() if entry.unavailable() is None)
