"""Which engines there are, what each can run, and which one `engine="auto"` takes.

An engine that is asked for by name is used or refused, with the reason; it never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..distributions.base import Head
from ..errors import EngineUnavailable, like
from ..ir.program import Program
from ..precision import check_precision
from . import pytorch, reference
from .base import Capabilities, Engine, why_not
from .cuda import engine as cuda
from .native import engine as native
from .triton import engine as triton

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """An engine.

    Attributes:
        summary: what it is.
        capabilities: what it can run.
        unavailable_reason: says why it cannot run here, or None.
        make: the engine for a program and a precision; the device is where the module's weights are.
        fast: whether it is meant to be; "auto" says so where it takes one that is not.
        first_on: the kind of device on which a module must be for "auto" to try it before all others.
        automatic: says whether "auto" may take it at all.
    """

    summary: str
    capabilities: Capabilities
    unavailable_reason: Callable[[], str | None]
    make: Callable[[Program, str, torch.device], Engine]
    fast: bool = True
    first_on: str | None = None
    automatic: Callable[[], bool] = lambda: True


ENGINES: dict[str, Entry] = {
    "cpu": Entry(
        "native engine in C++",
        native.CAPABILITIES,
        native.unavailable_reason,
        lambda program, precision, _: native.CpuEngine(program, precision=precision),
    ),
    "triton": Entry(
        "Triton kernels on an NVIDIA GPU",
        triton.CAPABILITIES,
        triton.unavailable_reason,
        lambda program, precision, _: triton.TritonEngine(program, precision),
        first_on="cuda",
        automatic=lambda: not triton.interpreted(),  # the interpreter is there for tests
    ),
    "cuda": Entry(
        "cluster kernel for small nets, on Hopper GPUs",
        cuda.CAPABILITIES,
        cuda.unavailable_reason,
        lambda program, *_: cuda.CudaEngine(program),
    ),
    "reference": Entry(
        "interpreter in plain PyTorch",
        reference.CAPABILITIES,
        lambda: None,
        lambda program, *_: reference.ReferenceEngine(program),
        fast=False,
    ),
    "torch": Entry(
        "the interpreter on the module's device, any of PyTorch's",
        pytorch.CAPABILITIES,
        lambda: None,
        lambda program, _, device: pytorch.TorchEngine(program, device),
        fast=False,
    ),
}
"""Engines that run programs, the fastest first."""

REFERENCE = "reference"
"""The engine that all others are compared with."""
NAIVE = "naive"
"""Runs the module itself, one forward for each sub-pixel, and needs no program: `pixelfast.engines.naive`."""
NAIVE_PRECISION = "fp32"
NAMES = ("auto", *ENGINES, NAIVE)


def check_name(name: str, precision: str = "fp32") -> None:
    """Refuse a name unless an engine of this name exists, can run here and has this precision.

    Raises:
        EngineUnavailable: it does not, or it cannot.
        InvalidInput: no engine has such a precision.
    """
    check_precision(precision)
    if not isinstance(name, str) or name not in NAMES:
        raise EngineUnavailable(f"there is no engine {name!r}; engines are {', '.join(NAMES)}{like(name, NAMES)}")
    if name in ENGINES and (reason := ENGINES[name].unavailable_reason()) is not None:
        raise EngineUnavailable(f"the engine {name!r} cannot run here: {reason}")
    having = having_precision(precision)
    if name not in ("auto", *having) and (name, precision) != (NAIVE, NAIVE_PRECISION):
        raise EngineUnavailable(
            f"the engine {name!r} has no precision {precision!r}: "
            f"use engine={' or '.join(map(repr, having))}, or precision='fp32'"
        )
    if name == "auto" and not any(ENGINES[engine].unavailable_reason() is None for engine in having):
        reasons = "; ".join(f"{engine}: {ENGINES[engine].unavailable_reason()}" for engine in having)
        raise EngineUnavailable(f"no engine that has the precision {precision!r} can run here: {reasons}")


def having_precision(precision: str) -> list[str]:
    """The engines that run programs in a precision."""
    return [name for name, entry in ENGINES.items() if precision in entry.capabilities.precisions]


def refusals(asked: Program | Head, precision: str = "fp32") -> dict[str, str]:
    """The engines that cannot run a program, or any that draws from a head, in a precision here; and why."""
    result = {}
    for name, entry in ENGINES.items():
        reason = entry.unavailable_reason() or why_not(asked, entry.capabilities, precision)
        if reason is not None:
            result[name] = reason
    return result


def choose(name: str, precision: str, asked: Program | Head, device: torch.device = CPU, but: str = "") -> str:
    """The engine for a name: itself, or for "auto" the first of `ENGINES` that can run here and do what is asked.

    Args:
        asked: to run a program, or draw from a head.
        device: where the module's weights are.
        but: an engine that "auto" has tried in vain.

    Raises:
        EngineUnavailable: the engine asked for cannot; the text says why.
    """
    check_name(name, precision)
    refused = refusals(asked, precision)
    if name != "auto":
        if name in refused:
            raise _refused(name, refused, precision)
        return name
    usable = [engine for engine in ENGINES if engine not in refused and engine != but and ENGINES[engine].automatic()]
    if not usable:
        raise EngineUnavailable("no engine can run this: " + "; ".join(f"{engine}: {why}" for engine, why in refused.items()))
    return min(usable, key=lambda engine: ENGINES[engine].first_on != device.type)  # of equals, the first


def make(name: str, program: Program, precision: str = "fp32", device: torch.device = CPU) -> Engine:
    """The engine of a name for a program.

    Raises:
        EngineUnavailable: it cannot run the program in this precision, or not here.
    """
    refused = refusals(program, precision)
    if name in refused:
        raise _refused(name, refused, precision)
    return ENGINES[name].make(program, precision, device)


def _refused(name: str, refused: dict[str, str], precision: str) -> EngineUnavailable:
    """What to raise for one of the engines that refuse: why it does, and which others do not."""
    others = [engine for engine in ENGINES if engine not in refused] + [NAIVE] * (precision == NAIVE_PRECISION)
    use = f"engine={' or '.join(map(repr, others))}" if others else "precision='fp32'"
    return EngineUnavailable(f"the engine {name!r} cannot run this: {refused[name]}; use {use}")
