"""What this machine is and has: the processor, the GPU, versions, tools. Nothing that is missing is an error here."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.records import emit
from speed.surroundings import commit, output, processor

PACKAGES = {
    "torch": "without it, nothing runs",
    "triton": "without it, no Triton kernels",
    "numpy": "without it, nothing runs",
    "safetensors": "without it, pixelfast cannot be imported",
    "setuptools": "without it, no native engine is built",
    "pybind11": "without it, PyTorch's copy of its headers is used",
    "pytest": "without it, no tests run",
    "hypothesis": "the GPU tests do without",
    "pytest-xdist": "without it, tests run one after another",
}
"""What the check uses, and what becomes of it without."""


def device() -> tuple[str | None, str]:
    """The CUDA device, or None and why there is none."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return None, f"PyTorch cannot be imported: {error}"
    if not torch.cuda.is_available():
        return None, "no CUDA device"
    p = torch.cuda.get_device_properties(0)
    l2 = getattr(p, "L2_cache_size", 0) / 2**20
    return (
        f"{p.name}, {p.multi_processor_count} multiprocessors, {p.total_memory / 2**30:.0f} GiB, L2 {l2:.0f} MiB, "
        f"compute capability {p.major}.{p.minor}, CUDA {torch.version.cuda}"
    ), ""


def main() -> int:
    emit("fact", name="machine", value=f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}")
    emit("fact", name="Python", value=f"{platform.python_version()} at {sys.executable}")
    for name, without in PACKAGES.items():
        try:
            emit("fact", name=name, value=version(name))
        except PackageNotFoundError:
            emit("fact", name=name, value=None, note=f"missing: {without}")
    for tool, without in {"nvcc": "no CUDA engine, no latencies", "g++": "no native engine", "git": "no commit"}.items():
        found = shutil.which(tool)
        said = output(tool, "--version") if found else None
        value = None if said is None else f"{said.splitlines()[-1 if tool == 'nvcc' else 0]}, {found}"
        emit("fact", name=tool, value=value, **({} if value else {"note": f"missing: {without}"}))
    known = commit()
    emit("fact", name="commit", value=os.environ.get("COMMIT") if known == "unknown" else known)
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.mem"
    emit("fact", name="nvidia-smi", value=output("nvidia-smi", query, "--format=csv,noheader"))
    value, reason = device()
    emit("fact", name="device", value=value, **({"note": reason} if reason else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
