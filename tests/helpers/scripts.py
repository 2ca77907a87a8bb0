"""The folders of benchmarks/ are imported from there, as they are when a program of it runs; tests import them the same way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def importable() -> Iterator[None]:
    """benchmarks/ first on the path, whatever else has a name that is there; afterwards everything is as it was."""
    ours = {path.stem for path in BENCHMARKS.iterdir()}
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in ours}
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]
        sys.modules.update(others)
