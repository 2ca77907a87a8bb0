"""The files of benchmarks/ import each other by name, as they do when one of them is run; tests import them the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def importable() -> Iterator[None]:
    """benchmarks/ on the path; afterwards nothing of it stays imported."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and BENCHMARKS in Path(file).parents:
                del sys.modules[name]
