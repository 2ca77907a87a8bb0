"""A draw without a distribution, wherever it is: all arrangements name the first one, and no thread reads past it.

The program looks drawn values up in tables (`programs.Builder`). The native engine refuses to look up one that is not drawn,
with an error of its own, instead of reading outside the tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from native import ARRANGEMENTS, needs_engine
from programs import Builder, request, with_body

from pixelfast.engines.base import Request
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.errors import NumericalError
from pixelfast.ir.program import Instruction, Lookup, Pixel, Program

pytestmark = needs_engine

HEIGHT, WIDTH, IMAGES, TRIES = 7, 5, 3, 8


def failing(row: int, column: slice, **options: Any) -> tuple[Program, Request]:
    """A program whose parameters are NaN from some pixels of a row on, and which looks furthest to the right in its tables."""
    builder = Builder(np.random.default_rng(row), (2, HEIGHT, WIDTH), features=9)
    program, fields = builder.build(), list(builder.field_values(IMAGES))
    fields[1] = fields[1].copy()
    top, left = row - builder.around.row0, column.start - builder.around.col0
    fields[1][0, top, left : left + column.stop - column.start] = np.nan  # of all images

    def looks_far(instruction: Instruction) -> Instruction:
        if not isinstance(instruction.body, Lookup):
            return instruction
        return with_body(instruction, taps=(Pixel(-1, 3, program.shape[0] - 1), *instruction.body.taps[1:]))

    program = replace(program, steps=tuple(tuple(map(looks_far, step)) for step in program.steps))
    return program, request(program, np.random.default_rng(5), IMAGES, fields=fields, **options)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 4), (2, 1), (3, 4), (6, 4)])
def test_no_thread_goes_on_past_a_failed_draw(row: int, col: int) -> None:
    program, call = failing(row, slice(col, col + 1))
    with pytest.raises(NumericalError) as expected:
        reference(program, call)
    engine = CpuEngine(program)
    for arrangement in ARRANGEMENTS:
        for _ in range(TRIES):
            with pytest.raises(NumericalError) as found:
                engine.run(call, arrangement=arrangement)
            assert found.value.position == expected.value.position == (0, row, col, 0)  # type: ignore[attr-defined]


def test_rows_are_reported_once_where_a_draw_fails() -> None:
    """The search for the first failure runs the images again, and reports nothing."""
    rows: list[int] = []
    program, call = failing(5, slice(0, WIDTH), on_row=lambda row, values: rows.append(row))
    for arrangement in ARRANGEMENTS:
        rows.clear()
        with pytest.raises(NumericalError):
            CpuEngine(program).run(call, arrangement=arrangement)
        assert rows == list(range(len(rows)))
