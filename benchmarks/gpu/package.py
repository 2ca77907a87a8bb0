"""The package from a bare checkout, without pip and without a network: laid out in a folder of its own, and built there.

`pixelfast.kernels` lies at the top of the repository, so a checkout cannot be imported as it is. The driver calls `lay_out`,
and everything runs with that folder on its path; where this very checkout is installed (`make setup`), that is used instead.
Run as a program, this file builds the native engines there, by setup.py: it needs setuptools, but no particular version of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {
    "native CPU engine": ("pixelfast._cpu", "pixelfast.engines.native.engine", "unavailable_reason"),
    "CUDA engine": ("pixelfast._cuda", "pixelfast.engines.cuda.engine", "unavailable_reason"),
}
"""The compiled module of an engine, and the function that says why it cannot run."""


def installed() -> bool:
    """Whether this Python's `pixelfast` is this checkout's."""
    saved, sys.path = sys.path, [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
    try:
        spec = importlib.util.find_spec("pixelfast")
    finally:
        sys.path = saved
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == ROOT / "pixelfast"


def lay_out(folder: Path) -> None:
    """Put what can be imported, and what it is built from, into a folder; what was built there before stays."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.o")
    for source, target in (("pixelfast", "pixelfast"), ("kernels", "pixelfast/kernels"), ("csrc", "csrc")):
        shutil.copytree(ROOT / source, folder / target, ignore=ignored, dirs_exist_ok=True)
    # Without pyproject.toml, which only recent versions of setuptools understand.
    shutil.copy(ROOT / "setup.py", folder / "setup.py")


def build(folder: Path) -> int:
    """Build in a folder that `lay_out` made; setup.py itself says what it could not build."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, stdout=sys.stderr).returncode


def main() -> int:
    from gpu.records import emit

    begin, code = time.monotonic(), 0
    if len(sys.argv) > 1:
        code = build(Path(sys.argv[1]))
        emit("fact", name="setup.py", value=f"ended with code {code} after {time.monotonic() - begin:.0f} s")
    else:
        emit("fact", name="setup.py", value="not called: this checkout is installed")
    importlib.import_module("pixelfast.kernels")
    for name, (module, engine, reason) in ENGINES.items():
        try:
            path = importlib.import_module(module).__file__
            refused = getattr(importlib.import_module(engine), reason)()
            emit("fact", name=name, value=path, note="it runs here" if refused is None else f"it does not run here: {refused}")
        except ImportError as error:
            emit("fact", name=name, value=None, note=f"not built: {error}")
            code = code or int(name == "native CPU engine" or shutil.which("nvcc") is not None)
    return code


if __name__ == "__main__":
    sys.exit(main())
