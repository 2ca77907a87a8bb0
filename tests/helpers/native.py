"""The native engine against the reference interpreter: what several test files share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tolerances import LOG_PROB

from pixelfast.engines.base import Request, Result
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.ir.program import Program, Rect

needs_engine = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
"""For the files whose tests need the engine."""

ISAS = cpu.native().isas() if cpu.unavailable_reason() is None else []

HEIGHT, WIDTH, IMAGES = 7, 5, 3
IMAGE = Rect(0, HEIGHT, 0, WIDTH)

ARRANGEMENTS = [
    (1, 0, "none", 1), (1, 1, "none", 1), (1, 1, "none", 3), (2, 1, "none", 2), (1, 2, "rows", 1), (1, 3, "rows", 2),
    (2, 2, "rows", 4), (1, 2, "parts", 1), (1, 3, "parts", 1), (2, 2, "parts", 1), (1, 2, "rows", 3), (1, 4, "parts", 1),
    (3, 2, "rows", 2),
]  # fmt: skip
"""Teams, threads of a team (0: rows one after another), how a team shares its work, columns of a chunk."""


def close(found: np.ndarray, expected: np.ndarray, tolerance: float, isa: str) -> None:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * float(scale), err_msg=isa)


def compare(program: Program, call: Request, tolerance: float) -> Result:
    """Every instruction set against the reference."""
    expected = reference(program, call, poison=True)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa).run(call)
        np.testing.assert_array_equal(found.values, expected.values, err_msg=isa)
        close(found.parameters, expected.parameters, tolerance, isa)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=LOG_PROB, atol=1e-4, err_msg=isa)
    return expected


def some_images(call: Request, images: slice, threads: int = 1) -> Request:
    fields = tuple(field if len(field) == 1 else field[images] for field in call.fields)
    return dataclasses.replace(call, noise=call.noise[images], fields=fields, threads=threads)
