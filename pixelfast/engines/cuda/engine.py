"""The CUDA engine: small nets by one cluster kernel (csrc/cuda/), on GPUs of NVIDIA's Hopper generation.

A call is one launch. Each cluster of thread blocks draws some images from their first row to their last; what the steps
of a pixel need of the weights stays in the blocks' shared memory (csrc/cuda/tables.h). The module is built where nvcc is,
and imports anywhere. No GPU has run it yet: a processor has, by csrc/cuda/shim.h.
"""

from __future__ import annotations

import importlib
from typing import Any

from ...errors import EngineUnavailable
from ...host.forking import resting
from ...ir.contract import limit, outdated
from ...ir.program import Lookup, Map, Norm, Product, Program, Reduce
from ...lowering.packing import pack
from ..base import Capabilities, Request, Result, check, compiled_call, numerical_error, why_not


def unavailable_reason() -> str | None:
    """None if the engine can run here, otherwise why it cannot."""
    try:
        reason = outdated(native()) or native().unavailable()
    except ImportError as error:
        return f"the CUDA engine was not built ({error}): install pixelfast from its source where nvcc is, on Linux"
    return str(reason) or None


def native() -> Any:
    """The C++ module; imported on first use, since it may be missing."""
    return importlib.import_module("pixelfast._cuda")


CAPABILITIES = Capabilities(
    bodies=(Product, Lookup, Map, Reduce, Norm),
    heads=("categorical", "bernoulli_logit", "bernoulli_probability"),
    most_operands=limit("MostOperands"),
)


class CudaEngine:
    """A program made ready for a GPU.

    Raises:
        EngineUnavailable: the engine was not built, there is no GPU that it runs on, or the kernel lacks something that
            the program needs.
        ValueError: the program is malformed.
    """

    def __init__(self, program: Program) -> None:
        reason = unavailable_reason() or why_not(program, CAPABILITIES)
        if reason is not None:
            raise EngineUnavailable(f"the CUDA engine cannot run this: {reason}")
        self.program = program
        stream = pack(program)
        self._engine = native().Engine(stream.words, stream.arrays)

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
