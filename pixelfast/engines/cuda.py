"""The CUDA engine: small nets by one cluster kernel (csrc/cuda/), on GPUs of NVIDIA's Hopper generation.

A call is one launch. Each cluster of thread blocks draws some images from their first row to their last; what the steps
of a pixel need of the weights stays in the blocks' shared memory (csrc/cuda/tables.h). The module is built where nvcc is,
and imports anywhere. No GPU has run it yet: a processor has, by csrc/cuda/shim.h.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import EngineUnavailable
from ..host.forking import resting
from ..ir.program import CUSTOM, Lookup, Map, Norm, Product, Program, Reduce
from .base import Request, Result, check, compiled_call, numerical_error
from .packing import pack


def unavailable_reason() -> str | None:
    """None if the engine can run here, otherwise why it cannot."""
    try:
        reason = native().unavailable()
    except ImportError as error:
        return f"the CUDA engine was not built ({error}): install pixelfast from its source where nvcc is, on Linux"
    return str(reason) or None


def native() -> Any:
    """The C++ module; imported on first use, since it may be missing."""
    return importlib.import_module("pixelfast._cuda")


HEADS = ("categorical", "bernoulli_logit", "bernoulli_probability")
RUNS = (Product, Lookup, Map, Reduce, Norm)
"""Bodies of instructions that its kernel has."""
MOST_VALUES = 48  # leaves and operations of an expression: kMostValues in csrc/cuda/tables.h


def refuses(head: str) -> str | None:
    """Why the kernel cannot draw from a head, or None."""
    if head in HEADS:
        return None
    kind = "a head's own functions" if head == CUSTOM else f"a {head.replace('_', ' ')}"
    return f"its kernel draws from {', '.join(HEADS)}, not from {kind}"


def unsupported(program: Program) -> str | None:
    """What a program needs that the kernel does not have, with the layer that it comes from; None: nothing."""
    for instruction in program.instructions():
        what, body = None, instruction.body
        if not isinstance(body, RUNS):
            what = f"is {type(body).__name__.lower()}"
        elif not instruction.lattice.everywhere:
            what = "is computed for some rows or columns only, as in strided models"
        elif instruction.sweep:
            what = "is a recurrence along a row"
        elif isinstance(body, Map) and len(body.leaves) + len(body.ops) > MOST_VALUES:
            what = f"is an expression of more than {MOST_VALUES} operands and operations"
        if what is not None:
            return f"{instruction.layer or 'an instruction'} {what}, which its kernel does not have: use engine='cpu'"
    return refuses(program.head)


class CudaEngine:
    """A program made ready for a GPU.

    Raises:
        EngineUnavailable: the engine was not built, there is no GPU that it runs on, or the kernel lacks something that
            the program needs.
        ValueError: the program is malformed.
    """

    def __init__(self, program: Program) -> None:
        reason = unavailable_reason() or unsupported(program)
        if reason is not None:
            raise EngineUnavailable(f"the CUDA engine cannot run this: {reason}")
        self.program = program
        self._engine = native().Engine(*pack(program))

    def run(self, request: Request) -> Result:
        """Sample; ``on_row`` is called once all rows are finished.

        Raises:
            InvalidInput: the request does not fit the program.
            EngineUnavailable: the kernel lacks something that the program needs, or the GPU failed.
            NumericalError: parameters that describe no distribution; ``position`` is (image, row, col, channel).
        """
        check(self.program, request)
        call, result = compiled_call(self.program, request)
        try:
            with resting():  # a forked child has no GPU
                position = self._engine.sample(**call)
        except (native().DeviceError, native().Unsupported) as error:
            raise EngineUnavailable(f"the CUDA engine cannot run this program: {error}") from error
        if position is not None:
            raise numerical_error(*position)
        if request.on_row is not None:
            for row in range(self.program.shape[1]):
                request.on_row(row, result.values)
        return result
