"""Recurrences along a row in the native engine, however a row's instructions are shared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from native import ARRANGEMENTS, ISAS, compare, needs_engine
from programs import swept
from tolerances import PROGRAM

from pixelfast import NumericalError
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference

pytestmark = needs_engine


@pytest.mark.parametrize("images", [1, 3, 13])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 1)])
@pytest.mark.parametrize("sweep", [1, -1])
def test_sweep(sweep: int, shape: tuple[int, int], images: int) -> None:
    """Column by column from either side, and the same bits however the row's other instructions are shared."""
    program, call = swept(np.random.default_rng(images), *shape, sweep, images)
    drawn = compare(program, call, PROGRAM)
    given = np.where(np.arange(shape[0])[:, None, None] < 2, drawn.values, -1).astype(np.int32)
    compare(program, dataclasses.replace(call, given=given), PROGRAM)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa)
        whole = engine.run(call)
        for arrangement in ARRANGEMENTS:
            teams, team, split, _ = arrangement
            if team and split != "parts":
                with pytest.raises(ValueError, match="no such arrangement"):
                    engine.run(call, arrangement=arrangement)
                continue
            found = engine.run(dataclasses.replace(call, threads=teams * max(team, 1)), arrangement=arrangement)
            np.testing.assert_array_equal(found.parameters, whole.parameters, err_msg=f"{isa} {arrangement}")


def test_the_order_of_a_sweep_counts() -> None:
    """The other way round, the same instructions read what is not there."""
    program, call = swept(np.random.default_rng(0), 7, 5, 1)
    turned = tuple(dataclasses.replace(instruction, sweep=-instruction.sweep) for instruction in program.row)
    with pytest.raises(NumericalError):
        reference(dataclasses.replace(program, row=turned), call, poison=True)
    with pytest.raises(ValueError, match="not come to yet"):
        CpuEngine(dataclasses.replace(program, row=turned))
