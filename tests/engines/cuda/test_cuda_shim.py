"""The shim that runs CUDA device code on a processor: what it must do, and what it must find."""

from __future__ import annotations

import re
import subprocess

import pytest
from emulated_cuda import CASES, ENVIRONMENT, ORDERS, executable, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

RIGHT = ("exchange", "neighbours", "later", "shuffle", "unwritten memory")
# Found in one order at least: whoever runs ahead is right by luck in another.
RACES = (
    "exchange without a barrier", "neighbours without a barrier", "later without a wait", "to a block that has ended",
)  # fmt: skip
ERRORS = {
    "later with too many bytes": "deadlock: .*waits for an mbarrier",
    "half a shuffle": "waits for one that has ended|a thread ends that another waits for",
    "divergent barrier": "a divergent barrier: thread .* of block .* waits for its block at line",
    "a barrier that half the block reaches": "waits for one that has ended|a thread ends that another waits for",
    "block against cluster": "a divergent barrier: .*its (block|cluster) .*its (block|cluster)",
    "a store beyond": "a store outside of shared memory",
}


def outcome(case: str, order: str) -> str:
    program = executable(CASES / "shim_cases.cpp")
    command = [str(program), case, str(ORDERS.index(order))]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.strip()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", RIGHT)
def test_right(case: str, order: str) -> None:
    assert outcome(case, order) == "right"


@pytest.mark.parametrize("case", RACES)
def test_a_race_is_found(case: str) -> None:
    assert {outcome(case, order) for order in ORDERS} != {"right"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", ERRORS)
def test_refused(case: str, order: str) -> None:
    assert re.search(ERRORS[case], outcome(case, order))
