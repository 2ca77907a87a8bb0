"""The files of benchmarks/ import each other by name, as they do when one of them is run; tests import them the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def importable(*folders: str) -> Iterator[None]:
    """benchmarks/ on the path, and these folders in it; afterwards nothing of it stays imported."""
    before, paths = set(sys.modules), [str(BENCHMARKS), *(str(BENCHMARKS / folder) for folder in folders)]
    sys.path[:0] = paths
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and BENCHMARKS in Path(file).parents:
                del sys.modules[name]
