"""Every engine of the registry runs whole programs as the reference interpreter does, and whole models as the naive loop does.

See test_conformance.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance import Case, Run, agree, answer, each
from oracle import agree as agree_with_the_loop
from oracle import spread_error
from program_cases import MODELS, PROGRAMS, SMALL, Model, builder_of, of_columns, some_pixels
from programs import request
from tolerances import PROGRAM

from pixelfast.engines.base import Request
from pixelfast.engines.reference import run as reference
from pixelfast.inputs.conditions import Conditions
from pixelfast.ir.program import Program
from pixelfast.lowering.given_rows import known_order
from pixelfast.precision import PRECISIONS


@each(PROGRAMS)
def test_program(run: Run, case: Case) -> None:
    program, call, expected = case.made(run.precision)
    found = answer(run, program, call)
    if found is None:
        return
    agree(found, expected, case.tolerated(run.precision), run)
    if call.given is not None:
        known = call.given >= 0
        np.testing.assert_array_equal(found.values[known], call.given[known])


@each(MODELS)
def test_model(run: Run, case: Model) -> None:
    traced = case.traced()
    call = traced.request(3, 0, case.cond)
    found = answer(run, traced.compiled.program, call)
    if found is None:
        return
    if run.precision == "fp32":
        assert agree_with_the_loop(traced, found, traced.run("naive", call, case.cond), call, case.cond, str(run)) == 0
        return
    assert found.parameters is not None
    values = torch.from_numpy(found.values).long()
    forced = traced.oracle.parameters(values, Conditions.parse(case.cond)).numpy()
    assert spread_error(found.parameters, forced) <= PRECISIONS[run.precision].tolerance


def feed_forward() -> tuple[Program, Request]:
    builder = builder_of("categorical", 12, (2, 3, 3), features=5)
    program, fields = builder.build(), builder.field_values(2)
    return program, request(program, np.random.default_rng(3), 2, fields=fields)


@each({"feed-forward": feed_forward, "recurrent": lambda: of_columns(3, 3, 2, 0.0)}, exact=True)
def test_known_rows_give_what_drawn_rows_gave(run: Run, case: object) -> None:
    """Whatever the order in which a row runs whose values are all given, all parameters stay what they were."""
    assert callable(case)
    program, call = case()
    assert (known_order(program) is None) == (case is not feed_forward)
    drawn = reference(program, call, poison=True)
    for known in (slice(0, 2), slice(1, 3), slice(0, 3)):
        given = np.full_like(drawn.values, -1)
        given[:, known] = drawn.values[:, known]
        found = answer(run, program, replace(call, given=given, want_log_prob=False))
        if found is not None:
            agree(found, replace(drawn, log_prob=None), PROGRAM, run)


ONCE = {"": None}


@each(ONCE)
def test_no_images(run: Run, case: None) -> None:
    builder = builder_of("categorical", 13, SMALL)
    program = builder.build()
    found = answer(run, program, request(program, np.random.default_rng(4), 0, fields=builder.field_values(0)))
    assert found is not None
    assert found.values.shape == (0, 3, 3, 2)
    assert found.log_prob is not None
    assert found.log_prob.shape == (0,)


@each(ONCE, exact=True)
def test_rows_are_handed_out_once_each(run: Run, case: None) -> None:
    builder = builder_of("categorical", 12, SMALL, features=5)
    program, fields, rows = builder.build(), builder.field_values(4), list[tuple[int, np.ndarray]]()
    call = request(program, np.random.default_rng(3), 4, known=some_pixels(4, SMALL), fields=fields)
    found = answer(run, program, replace(call, on_row=lambda row, values: rows.append((row, values.copy()))))
    assert found is not None
    assert [row for row, _ in rows] == [0, 1, 2]
    for row, values in rows:
        np.testing.assert_array_equal(values[:, : row + 1], found.values[:, : row + 1])


@each(ONCE, exact=True)
def test_calls_do_not_see_each_other(run: Run, case: None) -> None:
    """Another number of images, other fields, nothing wanted but values, and the first call again."""
    builder = builder_of("categorical", 12, (1, 2, 2), features=5)
    program, rng = builder.build(), np.random.default_rng(3)
    engine = run.make(program)
    calls = [request(program, rng, n, fields=builder.field_values(n)) for n in (2, 1, 2)]
    calls.append(replace(calls[0], want_parameters=False, want_log_prob=False))
    for call in (*calls, calls[0]):
        agree(engine(call), reference(program, call, poison=True), PROGRAM, run)


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
@each(ONCE, exact=True)
def test_what_is_not_wanted_is_not_given(run: Run, case: None, wanted: tuple[bool, bool]) -> None:
    builder = builder_of("categorical", 12, (1, 2, 2), features=5)
    program = builder.build()
    call = request(program, np.random.default_rng(3), 2, fields=builder.field_values(2))
    found = answer(run, program, replace(call, want_log_prob=wanted[0], want_parameters=wanted[1]))
    assert found is not None
    assert ((found.log_prob is not None), (found.parameters is not None)) == wanted
