"""Settings of the whole test suite."""

from __future__ import annotations

import gc
import logging
import os

import pytest
import torch

# torch.export logs every step of a trace at the lowest level; pytest would keep all of it.
logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)

# Triton must know before it is imported whether to interpret: test_interpreted.py runs these in processes of their own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETED else ["engines/interpreted"]
if INTERPRETED:
    import fast_interpreter  # noqa: F401

# A trace makes many small objects, most of which live on: looking for garbage among them so often takes a fifth of the time.
gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # In the interpreter, masked lanes divide 0 by 0 and are thrown away; NumPy says so.
    for item in items if INTERPRETED else ():
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The tensors of the tests are tiny: handing them to threads costs more than it gains. Some tests leave another number."""
    torch.set_num_threads(1)
