"""The cluster kernel (csrc/cuda/) on a processor: compiled once with AddressSanitizer, and run as a program of its own."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelfast.engines.base import Request, Result
from pixelfast.ir.program import Program
from pixelfast.lowering.packing import pack

CASES = Path(__file__).parent
"""Where programs lie that try the shim itself."""
CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [CSRC / name for name in ("cuda/emulate.cpp", "cuda/plan.cpp", "program.cpp", "validate.cpp", "validate_wave.cpp")]
OPTIONS = ("-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-fno-omit-frame-pointer")
SANITIZERS = "-fsanitize=address,undefined"
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
ORDERS = ("first", "last", "random")
SHARED = 227 * 1024
NO_FAILURE = -1  # as a signed number


class Refused(Exception):
    """What the kernel, its planner or the shim had to say."""


@dataclass(frozen=True)
class Shape:
    """How the kernel is launched: blocks of a cluster, images of a cluster, threads of a block, and the shim's order."""

    ranks: int = 1
    images: int = 1
    threads: int = 32
    shared: int = SHARED
    order: str = "first"
    seed: int = 0
    unguarded: bool = False  # without the waits that keep a fast block from a slow one's replica: wrong on purpose


@dataclass(frozen=True)
class Emulated:
    """A result, and what the plan came to: products of the steps, how many keep their weights, waits, and later stores."""

    result: Result
    failure: int
    products: int
    resident: int
    guards: int
    asyncs: int
    shared_bytes: int
    replica: int


def missing() -> str | None:
    """Why the kernel cannot be emulated here, or None."""
    if shutil.which("g++") is None:
        return "there is no g++"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.cpp")
        probe.write_text("#include <ucontext.h>\nint main() { return 0; }\n")
        run = subprocess.run(["g++", SANITIZERS, str(probe), "-o", str(probe.with_suffix(""))], capture_output=True)
    return "g++ has no AddressSanitizer, or the system no ucontext.h" if run.returncode else None


@functools.lru_cache
def executable(*sources: Path) -> Path:
    """The program, compiled anew where a source has changed."""
    files = sorted({*CSRC.glob("*.h"), *CSRC.glob("*.cpp"), *CSRC.glob("cuda/*"), *sources})
    content = b"".join(file.read_bytes() for file in files) + " ".join([*OPTIONS, SANITIZERS, *map(str, sources)]).encode()
    built = CSRC.parent / "build" / "emulated_cuda" / hashlib.sha256(content).hexdigest()[:16]
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        beside = built.with_suffix(f".{os.getpid()}")
        command = ["g++", *OPTIONS, SANITIZERS, f"-I{CSRC / 'cuda'}", "-o", str(beside), *map(str, sources)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        beside.rename(built)
    return built


def emulate(program: Program, request: Request, shape: Shape, folder: Path) -> Emulated:
    """Sample by the emulated kernel."""
    words, arrays, _ = pack(program)
    images = len(request.noise)
    numbers = [shape.ranks, shape.images, shape.shared, shape.threads, ORDERS.index(shape.order), shape.seed]
    numbers += [shape.unguarded, images]
    flags = [request.given is not None, request.want_log_prob, request.want_parameters]
    parts = [
        np.array([len(words), len(arrays)], np.int64), words, np.array([array.size for array in arrays], np.int64), *arrays,
        np.array(numbers, np.int64), np.array([request.temperature], np.float64), np.array(flags, np.int64), request.noise,
    ]  # fmt: skip
    parts += [] if request.given is None else [request.given]
    for field in request.fields:
        parts += [np.array(field.shape, np.int64), field]
    source, target = folder / "request", folder / "result"
    source.write_bytes(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    command = [str(executable(*SOURCES)), str(source), str(target)]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    if run.returncode == 3:
        raise Refused(run.stderr.strip())
    assert run.returncode == 0, run.stderr[-4000:]
    data = target.read_bytes()
    facts = np.frombuffer(data, np.int64, 7)
    at = facts.nbytes
    result = []
    parameters_shape = (*request.noise.shape, program.parameters)
    for wanted, kind, size in (
        (True, np.int32, request.noise.shape),
        (request.want_log_prob, np.float64, (images,)),
        (request.want_parameters, np.float32, parameters_shape),
    ):
        count = int(np.prod(size)) if wanted else 0
        result.append(np.frombuffer(data, kind, count, at).reshape(size) if wanted else None)
        at += count * np.dtype(kind).itemsize
    return Emulated(Result(*result), *(int(fact) for fact in facts))
