"""Whole programs of small layers, the Triton engine against the reference interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from programs import Builder, request
from triton_runs import compare

from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.errors import EngineUnavailable


def test_calls_do_not_see_each_other() -> None:
    """Memory and launches are kept: another number of images, other fields, no parameters, and the first call again."""
    builder = Builder(np.random.default_rng(12), (1, 2, 2), features=5)
    program, rng = builder.build(), np.random.default_rng(3)
    engine = TritonEngine(program)
    calls = [request(program, rng, n, fields=builder.field_values(n)) for n in (2, 1, 2)]
    calls.append(dataclasses.replace(calls[0], want_parameters=False))
    results = [compare(engine, call) for call in calls]
    again = compare(engine, calls[0])
    np.testing.assert_array_equal(again.values, results[0].values)
    np.testing.assert_array_equal(again.parameters, results[0].parameters)
    assert len(engine._sessions) == 2


def test_pixel_by_pixel() -> None:
    """As rows go that are too long for one graph."""
    builder = Builder(np.random.default_rng(5), (2, 3, 2), features=5)
    program, fields = builder.build(), builder.field_values(2)
    call = request(program, np.random.default_rng(3), 2, known=0.5, fields=fields)
    compare(TritonEngine(program, most_issues=1, poison=True, arrangement="graph"), call)


def test_bfloat16_is_refused() -> None:
    program = Builder(np.random.default_rng(13), (1, 2, 2), features=5).build()
    with pytest.raises(EngineUnavailable, match=r"interpreter multiplies bfloat16 wrongly\. Use precision='fp16' or 'fp32'"):
        TritonEngine(program, "bf16")
