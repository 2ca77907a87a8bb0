"""What this machine is, what it can do at most, and how busy it is with other things.

The float32 peak and the read bandwidths are measured by native code, `peak.cpp`, which is compiled for this processor at
first use. Where there is no compiler, they are unknown (None), and so is every fraction of them.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pixelfast.engines.native import engine as cpu
from speed.surroundings import conditions, processor, processors_in_use

SOURCE = Path(__file__).with_name("peak.cpp")
LIBRARY = "PIXELFAST_PEAK_LIBRARY"
"""Environment variable by which a run hands the compiled library to the processes that it starts."""
COMPILERS = ("g++", "c++", "clang++")
PEAK_SECONDS = 0.05
CACHE_BYTES = {"L2": 1 << 20, "L3": 8 << 20}
"""Sizes that are assumed where the system does not tell them."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt."""


@functools.cache
def compiled() -> ctypes.CDLL | str:
    """The compiled `peak.cpp`, or why there is none."""
    path = os.environ.get(LIBRARY)
    if path is None:
        built = build(Path(tempfile.mkdtemp(prefix="pixelfast-peak-")))
        if isinstance(built, str):
            return built
        path = os.environ[LIBRARY] = str(built)
    try:
        result = ctypes.CDLL(path)
    except OSError as error:
        return f"the compiled peak.cpp cannot be loaded: {error}"
    result.pixelfast_peak_flops.restype = result.pixelfast_read_bandwidth.restype = ctypes.c_double
    return result


def build(folder: Path) -> Path | str:
    """Compile `peak.cpp` into `folder`; returns the library, or why that was not possible."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    compiler = next((name for name in names if shutil.which(name)), None)
    if compiler is None:
        return f"no C++ compiler ({', '.join(names)}) was found to build peak.cpp with"
    target = folder / "peak.so"
    options = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread"]
    try:
        subprocess.run([compiler, *options, str(SOURCE), "-o", str(target)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"{compiler} could not build peak.cpp: {said[0] if said else error}"
    return target


def fma_peak(threads: int, seconds: float = PEAK_SECONDS) -> float | None:
    """float32 operations per second that so many threads reach, two for each multiply-add; None if it cannot be measured."""
    native = compiled()
    if isinstance(native, str):
        return None
    return float(native.pixelfast_peak_flops(ctypes.c_int(threads), ctypes.c_double(seconds)))


def read_bandwidth(threads: int, size: int, seconds: float = PEAK_SECONDS) -> float | None:
    """Bytes per second that so many threads read, each from `size` bytes of its own; None if it cannot be measured."""
    native = compiled()
    if isinstance(native, str):
        return None
    rate = native.pixelfast_read_bandwidth(ctypes.c_int(threads), ctypes.c_int64(size), ctypes.c_double(seconds))
    return float(rate) or None


def bandwidths(threads: int) -> dict[str, float]:
    """Bytes per second by level: half of L2 for each thread, half of L3 in all, and memory that fits into no cache."""
    sizes = cache_sizes()
    places = {"L2": sizes["L2"] // 2, "L3": sizes["L3"] // 2 // threads, "DRAM": 4 * sizes["L3"]}
    result = {name: read_bandwidth(threads, size) for name, size in places.items()}
    return {name: rate for name, rate in result.items() if rate is not None}


def cache_sizes() -> dict[str, int]:
    """Bytes of the second-level cache of a core and of the third-level cache."""
    sizes = dict(CACHE_BYTES)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            name = f"L{(index / 'level').read_text().strip()}"
            text = (index / "size").read_text().strip()
        except OSError:
            continue
        if name in sizes and text.rstrip("KM").isdigit():
            sizes[name] = int(text.rstrip("KM")) << (20 if text.endswith("M") else 10)
    return sizes


def raise_malloc_thresholds() -> bool:
    """Let glibc keep large blocks instead of handing them back to the kernel; cannot be undone. False: no glibc here."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(parameter, 1 << 30) == 1 for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD))


def available_memory() -> int:
    """Bytes that new programs may use without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10
    except (OSError, StopIteration, ValueError):
        return 4 << 30


def gpu_facts(threads: int) -> dict[str, Any]:
    """What belongs beside a number of the current CUDA device; of the processor, its name."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    gpu = f"{properties.name}, {properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB"
    triton = find_spec("triton") and version("triton")
    return {
        **_host_facts(threads),
        "processor": properties.name,
        "gpu": f"{gpu}, compute capability {properties.major}.{properties.minor}; CUDA {torch.version.cuda}, Triton {triton}",
        "peak_flops": None,
        "bandwidth": {},
        "peak_note": "the processor's is not measured beside a GPU",
    }


def facts(threads: int) -> dict[str, Any]:
    """Everything about the machine that belongs beside a number; JSON."""
    native = compiled()
    return {
        **_host_facts(threads),
        "processor": processor(),
        "caches": cache_sizes(),
        "peak_flops": fma_peak(threads, 4 * PEAK_SECONDS),
        "bandwidth": bandwidths(threads),
        "peak_note": native if isinstance(native, str) else "",
    }


def _host_facts(threads: int) -> dict[str, Any]:
    busy, built = processors_in_use(), cpu.unavailable_reason() is None
    return {
        **conditions(threads),
        "threads": threads,
        "instruction_set": (os.environ.get("PIXELFAST_ISA") or cpu.native().isas()[0]) if built else "not built",
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "busy_processors": None if math.isnan(busy) else busy,
    }
