"""The attention instruction of the Triton engine against the interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from attention_cases import CASES, Case, fields_of, program_of
from native import close
from programs import request, with_body
from tolerances import INSTRUCTION, LOG_PROB

from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.engines.triton.memory import halves
from pixelfast.ir.program import Instruction, Map, Op, Program, Slot


def check(program: Program, known: float, scale: float = 1.0, precision: str = "fp32") -> np.ndarray:
    rng = np.random.default_rng(4)
    fields = tuple(field * np.float32(scale) for field in fields_of(program, rng, IMAGES))
    if precision == "fp16":
        fields = (fields[0], fields[1].astype(np.float16).astype(np.float32))  # keys and values
    call = request(program, rng, IMAGES, known=known, fields=fields)
    expected = reference(program, call, poison=True)
    result = TritonEngine(program, precision, poison=True).run(call)
    np.testing.assert_array_equal(result.values, expected.values)
    close(result.parameters, expected.parameters, INSTRUCTION, "triton")
    np.testing.assert_allclose(result.log_prob, expected.log_prob, rtol=LOG_PROB, atol=1e-4)
    return result.parameters


IMAGES = 2
# Pixel by pixel takes seconds each.
@pytest.mark.parametrize(
    ("name", "known"), [("wide", 1.0), ("whole vectors", 0.0), ("a mask and a bias for each head", 1.0), ("one channel", 1.0)]
)
def test_caches_in_float16(name: str, known: float) -> None:
    """The same as in float32 with keys and values that are rounded to float16 beforehand."""
    program = program_of(CASES[name], np.random.default_rng(4))
    assert halves(program, "fp16") == {2}
    assert not halves(program, "fp32")
    check(program, known, precision="fp16")


def test_caches_that_stay_float32() -> None:
    """What something else reads, or writes, is not rounded."""
    program = program_of(Case(), np.random.default_rng(4))
    query, cache, zeros, attention = program.steps[0]
    assert isinstance(cache.body, Map)
    for step in (
        (query, cache, Instruction(Slot(0, 0, 21), Map((Slot(2, 0, 21),), ()), cache.rect), attention),
        (query, with_body(cache, ops=(Op("relu", (0,)),)), zeros, attention),
    ):
        changed = dataclasses.replace(program, steps=(step,))
        assert not halves(changed, "fp16")
    check(changed, 1.0, precision="fp16")


def test_runs_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four pixels: several of a run, and the last one not full."""
    monkeypatch.setattr("pixelfast.kernels.attention.HELD", 1)
    check(program_of(CASES["a bias for each head"], np.random.default_rng(5)), 1.0)
