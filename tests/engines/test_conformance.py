"""Every engine of the registry, in each of its precisions, computes each instruction as the reference interpreter does.

The tables are in tests/helpers: `instruction_cases.py` here, `draw_cases.py` for test_conformance_draws.py, `program_cases.py`
for test_conformance_programs.py. An engine that is added to `pixelfast.engines.registry` is run with all of them, without a
line being written: with what it lists, it must agree within `tolerances.py`; what it does not list, it must refuse. What runs
in several ways, or only in an interpreter or an emulator, has a line in `SPECIAL` of tests/helpers/conformance.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from conformance import RUNS, Case, Run, agree, answer, each
from expression_cases import exact
from instruction_cases import CASES, operation
from tolerances import of_operation

from pixelfast.engines import registry
from pixelfast.ir import program as contract

pytestmark = pytest.mark.filterwarnings("ignore:var")


def test_every_engine_runs_in_every_precision() -> None:
    """At least in name: what cannot run here is skipped, with the reason."""
    found = {(run.engine, run.precision) for run in RUNS}
    listed = {(name, precision) for name, entry in registry.ENGINES.items() for precision in entry.capabilities.precisions}
    assert found == {pair for pair in listed if pair[0] in {run.engine for run in RUNS}}


@each(CASES)
def test_instruction(run: Run, case: Case) -> None:
    program, request, expected = case.made(run.precision)
    found = answer(run, program, request)
    if found is not None:
        agree(found, expected, case.tolerated(run.precision), run)


@each({name: name for name in contract.OPERATIONS}, exact=True)
def test_operation_against_float64(run: Run, case: str) -> None:
    """Rounded once, or as the table says."""
    program, request, _ = CASES[f"operation {case}, given"].made("fp32")
    found = answer(run, program, request)
    assert found is not None
    assert found.parameters is not None
    with np.errstate(all="ignore"):
        truth = exact(case, *operation(case)[0]).astype(np.float32)
    np.testing.assert_allclose(found.parameters[..., 0, :], truth, rtol=of_operation(run.engine, case), atol=2e-38)
