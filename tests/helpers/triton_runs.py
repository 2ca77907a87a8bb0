"""The Triton engine against the reference interpreter."""

from __future__ import annotations

import numpy as np
from native import close
from tolerances import LOG_PROB, PROGRAM

from pixelfast.engines.base import Request, Result
from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.engine import TritonEngine


def compare(engine: TritonEngine, call: Request) -> Result:
    expected = reference(engine.program, call, poison=True)
    result = engine.run(call)
    np.testing.assert_array_equal(result.values, expected.values)
    if call.want_parameters:
        close(result.parameters, expected.parameters, PROGRAM, "triton")
    np.testing.assert_allclose(result.log_prob, expected.log_prob, rtol=LOG_PROB, atol=1e-4)
    return result


def same_bits(found: Result, expected: Result) -> None:
    for name in ("values", "parameters", "log_prob"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
