"""The native CPU engine: `Program`s run by C++ (csrc/), with the best instruction set of this processor.

The environment variable PIXELFAST_ISA (scalar, avx2, avx512 or neon) forces an instruction set, for debugging.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import EngineUnavailable
from ...host.forking import pause
from ...ir.contract import NAMES, outdated
from ...ir.program import Attention, Lookup, Map, Norm, Product, Program, Reduce
from ...lowering.packing import pack
from ..base import Capabilities, OnRow, Request, Result, check, compiled_call, numerical_error, why_not

CAPABILITIES = Capabilities(
    bodies=(Product, Lookup, Map, Reduce, Norm, Attention),
    heads=("categorical", "bernoulli_logit", "bernoulli_probability", "mixture_of_logistics", "mixture_of_gaussians"),
    precisions=NAMES["Precision"],
    lattices=True,
    sweeps=True,
)


def unavailable_reason() -> str | None:
    """None if the engine can run here, otherwise why it cannot."""
    try:
        return outdated(native())
    except ImportError as error:
        return (
            f"the native CPU engine was not built ({error}): install pixelfast from its source with a C++ compiler, "
            "for instance by `pip install -e .`"
        )


def native() -> Any:
    """The C++ module; imported on first use, since it may be missing."""
    return importlib.import_module("pixelfast._cpu")


def usable_threads() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CpuEngine:
    """A program made ready for the processor; any number of threads may run it at once.

    Args:
        program: what to run.
        isa: the instruction set; None: what PIXELFAST_ISA says, or the best there is.
        cell: how many neighbouring columns products over whole rows may compute together, with fewer multiplications
            (csrc/cpu/fast_product.h): 2, 4, or 0 for plain products.
        precision: how the weights of products are stored, and whether their inputs are rounded (`pixelfast.precision`).

    Raises:
        EngineUnavailable: the engine was not built, ``isa`` does not exist here, or the engine lacks what the program needs.
        ValueError: the program is malformed.
    """

    def __init__(self, program: Program, isa: str | None = None, cell: int = 4, precision: str = "fp32") -> None:
        reason = unavailable_reason()
        if reason is None and (isa or os.environ.get("PIXELFAST_ISA", native().isas()[0])) not in native().isas():
            wanted, here = isa or os.environ["PIXELFAST_ISA"], ", ".join(native().isas())
            reason = f"the instruction set {wanted!r} (isa= or PIXELFAST_ISA) is not available here: there are {here}"
        if reason is None and (refused := why_not(program, CAPABILITIES, precision)) is not None:
            reason = f"the native CPU engine cannot run this: {refused}"
        if reason is not None:
            raise EngineUnavailable(reason)
        self.program = program
        stream = pack(program)
        self._engine = _asked(native().Engine, stream.words, stream.arrays, isa=isa or "", cell=cell, precision=precision)

    @property
    def isa(self) -> str:
        """The instruction set in use: scalar, avx2, avx512 or neon."""
        return self._engine.isa

    @property
    def fast_products(self) -> int:
        """How many of the program's instructions are computed with fewer multiplications."""
        return int(self._engine.fast_products)

    @property
    def low_products(self) -> int:
        """How many have weights in the precision asked for, where that is not fp32.

        float16 holds no weight beyond 65504, and keeps too little of an output whose weights are all below 6e-5: products
        with such weights keep float32.
        """
        return int(self._engine.low_products)

    @property
    def instructions(self) -> int:
        """How many instructions run, of a row and of a pixel together: endings of others are fused with them."""
        return int(self._engine.instructions)

    def arrangement(self, images: int, threads: int | None = None) -> dict[str, Any]:
        """How a call would be spread over threads: tiles of images, rows one after another or as a wave."""
        return dict(self._engine.arrangement(images, usable_threads() if threads is None else threads))

    def run(self, request: Request, arrangement: tuple[int, int, str, int] | None = None) -> Result:
        """Sample. The result is the same with every ``arrangement``, which is chosen for speed.

        Args:
            arrangement: for tests: teams, threads of a team (0: rows one after another), how a team shares its work
                ("none", "rows" or "parts") and columns of a chunk; see csrc/cpu/arrangement.h.

        Raises:
            InvalidInput: the request does not fit the program.
            NumericalError: parameters that describe no distribution; ``position`` is (image, row, col, channel).
        """
        check(self.program, request)
        call, result = compiled_call(self.program, request)
        threads = usable_threads() if request.threads is None else request.threads
        position = sample(self._engine, **call, threads=threads, on_row=request.on_row, arrangement=arrangement)
        if position is not None:
            raise numerical_error(*position)
        return result


def sample(
    engine: Any,
    *,
    noise: np.ndarray,
    values: np.ndarray,
    given: np.ndarray | None = None,
    fields: Sequence[np.ndarray] = (),
    log_prob: np.ndarray | None = None,
    parameters: np.ndarray | None = None,
    temperature: float = 1.0,
    threads: int = 1,
    on_row: OnRow | None = None,
    arrangement: tuple[int, int, str, int] | None = None,
) -> tuple[int, int, int, int] | None:
    """One call of a C++ engine; gives (image, row, col, channel) where the parameters describe no distribution, or None.

    Signals arrive, and callbacks run, between waits of at most 20 ms: in Python, above no frame of C++.
    """
    if not len(noise):
        return None
    arrays: dict[str, Any] = {"noise": noise, "given": given, "values": values, "log_prob": log_prob, "parameters": parameters}
    how: dict[str, Any] = {"temperature": temperature, "threads": threads, "arrangement": arrangement}
    call = _asked(native().Sampling, engine, fields=list(fields), by_row=on_row is not None, **arrays, **how)
    drawn = values.view()
    drawn.flags.writeable = False  # the workers look up what stands there
    try:
        reported, finished = 0, False
        while not finished:
            pause()
            finished, rows = _asked(call.wait, reported)
            while on_row is not None and reported < rows:
                on_row(reported, drawn)
                reported += 1
        result: tuple[int, int, int, int] | None = _asked(call.failure)
        return result
    finally:
        call.stop()


def _asked(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What C++ gives; where it fails for want of memory or threads, the error says what to do."""
    try:
        return function(*args, **kwargs)
    except MemoryError as error:
        raise EngineUnavailable(
            "the native engine needs more memory than this machine has: draw fewer images at a time (batch_size=), with fewer "
            "threads (threads=)"
        ) from error
    except RuntimeError as error:
        raise EngineUnavailable(f"the native engine cannot go on: {error}") from error
