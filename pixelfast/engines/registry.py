"""Which engines there are, which can run here, and which one `engine="auto"` takes.

An engine that is asked for by name is used or refused, with the reason; it never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..distributions.base import Head
from ..errors import EngineUnavailable, like
from ..ir.program import CUSTOM, Program
from ..lowering.draws import head_name
from ..precision import NATIVE, check_precision
from . import cpu, cuda, reference
from .base import Request, Result
from .triton import engine as triton


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
    """An engine: what it is, why it cannot run here (None: it can), how it is made, and the precisions that it has.

    `refuses` says why it cannot draw from a head, or gives None.
    """

    summary: str
    unavailable: Callable[[], str | None]
    make: Callable[[Program, str], Engine]
    precisions: tuple[str, ...] = ("fp32",)
    refuses: Callable[[Head], str | None] = lambda head: None


def _without_functions(head: Head) -> str | None:
    """Why an engine of compiled code cannot draw from this head.

    Calling back into Python would hold all threads up at every draw, since one at a time may run it, and a function over the
    images of a tile may give other last bits than over another number of images: images would depend on their batch.
    """
    if head_name(head) != CUSTOM:
        return None
    return (
        f"a {type(head).__name__} draws by Python functions, which compiled code cannot call from its threads without waiting "
        "for each other, nor with the same bits for any number of images"
    )


ENGINES: dict[str, Entry] = {
    "cpu": Entry(
        "native engine in C++",
        cpu.unavailable_reason,
        lambda program, precision: cpu.CpuEngine(program, precision=precision),
        NATIVE,
        _without_functions,
    ),
    "triton": Entry(
        "Triton kernels on an NVIDIA GPU",
        triton.unavailable_reason,
        triton.TritonEngine,
        triton.PRECISIONS,
        triton.refuses,
    ),
    "cuda": Entry(
        "cluster kernel for small nets, on Hopper GPUs",
        cuda.unavailable_reason,
        lambda program, _: cuda.CudaEngine(program),
        refuses=lambda head: _without_functions(head) or cuda.refuses(head_name(head)),
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
    if not isinstance(name, str) or name not in NAMES:
        raise EngineUnavailable(f"there is no engine {name!r}; engines are {', '.join(NAMES)}{like(name, NAMES)}")
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


def reasons(head: Head, precision: str = "fp32") -> dict[str, str]:
    """Of each engine that cannot run here, has no such precision or cannot draw from this head: why."""
    result = {}
    for name, entry in ENGINES.items():
        missing = None if precision in entry.precisions else f"it has no precision {precision!r}"
        reason = entry.unavailable() or missing or entry.refuses(head)
        if reason is not None:
            result[name] = reason
    return result


def choose(name: str, precision: str, head: Head, on_cuda: bool = False, but: str = "") -> str:
    """The engine for a name: itself, or for "auto" the first of `ENGINES` that can run here and draw from the head.

    Args:
        on_cuda: the module is on a GPU: there, "triton" comes first.
        but: an engine that "auto" has tried in vain.

    Raises:
        EngineUnavailable: the engine asked for cannot; the text says why.
    """
    check_name(name, precision)
    refused = reasons(head, precision)
    usable = [engine for engine in ENGINES if engine not in refused]
    if name == "auto":
        # Triton's interpreter is there for tests.
        usable = [engine for engine in usable if engine != but and not (engine == "triton" and triton.interpreted())]
        if on_cuda and "triton" in usable:
            return "triton"
    if name == "auto" and usable:
        return usable[0]
    if name == "auto":
        raise EngineUnavailable("no engine can run this: " + "; ".join(f"{engine}: {why}" for engine, why in refused.items()))
    if name in refused:
        others = " or ".join(map(repr, [*usable, *(["naive"] if precision == "fp32" else [])]))
        use = f"engine={others}" if others else "precision='fp32'"
        raise EngineUnavailable(f"the engine {name!r} cannot run this: {refused[name]}; use {use}")
    return name
