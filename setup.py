"""Builds the native engines. Without a C++ compiler, or without nvcc, the installation succeeds without what needs it.

Every instruction set is one source file with its own flags and is chosen at run time, not when building.
PIXELFAST_SANITIZE=address,undefined (or =thread) builds with sanitizers, for debugging: run Python with the matching
library in LD_PRELOAD. PIXELFAST_EMULATE=/usr/include, where SIMDe's headers lie, builds every instruction set that this
machine lacks with emulated intrinsics, for tests.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

COMMON = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]
QUIET = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # g++ 12 warns about its own AVX-512 header
AVX512 = ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
X86 = {
    "ops_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
    "ops_avx512.cpp": AVX512,
}
CUDA = "pixelfast._cuda"
NVCC = shutil.which("nvcc")
EMULATED = ("ops_avx512.cpp", "ops_neon.cpp")


def sanitizers() -> list[str]:
    names = os.environ.get("PIXELFAST_SANITIZE", "")
    return [f"-fsanitize={names}", "-fno-omit-frame-pointer", "-g1", "-O1"] if names else []


def emulation() -> list[str]:
    folder = os.environ.get("PIXELFAST_EMULATE", "")
    if folder and not Path(folder, "simde", "x86", "avx512.h").is_file():
        raise SystemExit(
            f"PIXELFAST_EMULATE={folder}: there are no headers of SIMDe, {folder}/simde/x86/avx512.h is missing. "
            "Install Debian's libsimde-dev, or name the folder that contains simde/."
        )
    return ["-DPIXELFAST_EMULATE", f"-I{folder}"] if folder else []


def pybind11_headers() -> str:
    """Where pybind11's headers are: its own package's, or the copy that PyTorch brings.

    Raises:
        ImportError: there is neither.
    """
    try:
        import pybind11

        return str(pybind11.get_include())
    except ImportError:
        torch = importlib.util.find_spec("torch")
        folder = Path(torch.origin).parent / "include" if torch and torch.origin else None
        if folder is None or not (folder / "pybind11" / "pybind11.h").is_file():
            raise
        return str(folder)


def runs_here(options: list[str]) -> bool:
    """Whether this processor has the instruction sets of these options, as far as the system tells."""
    try:
        found = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return True
    return {option.removeprefix("-m") for option in options} <= set(found.split())


def flags(source: str, x86: bool) -> list[str]:
    """Of a source's instruction set; emulated ones use what AVX2 has.

    With sanitizers the large files take minutes, so those that cannot run here are compiled without flags, to nothing.
    """
    name = Path(source).name
    if sanitizers() and not runs_here(X86.get(name, [])):
        return []
    emulated = emulation() if name in (*EMULATED, "isa.cpp") else []
    return emulated + (X86.get("ops_avx2.cpp" if emulated and name in EMULATED else name, []) if x86 else [])


class BuildEngine(build_ext):
    """Compiles each source with the flags of its instruction set."""

    def build_extension(self, ext: Extension) -> None:
        cuda = ext.name == CUDA
        try:
            self.compile_by_nvcc(ext) if cuda else self.compile_and_link(ext)
        except (CCompilerError, BaseError, ImportError, OSError, subprocess.CalledProcessError) as error:
            # One that was built from other sources would run programs that it misreads.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            name = "CUDA" if cuda else "native CPU"
            print(f"pixelfast: the {name} engine was not built ({error}); the other engines work without it")

    def compile_by_nvcc(self, ext: Extension) -> None:
        """With CUDA's run time inside, so that the module imports where there is neither CUDA nor a driver."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{folder}" for folder in (pybind11_headers(), sysconfig.get_path("include"))]
        options = ["-arch=sm_90a", "-std=c++17", "-O3", "--threads=0", "-cudart=static", "-shared"]
        subprocess.run(
            [NVCC, *options, "-Xcompiler=-fPIC,-fvisibility=hidden", *includes, "-o", str(target), *ext.sources], check=True
        )

    def compile_and_link(self, ext: Extension) -> None:
        headers = pybind11_headers()
        unix = self.compiler.compiler_type == "unix"
        x86 = unix and platform.machine().lower() in ("x86_64", "amd64")
        common = [*COMMON, *QUIET, "-pthread", *sanitizers()] if unix else ["/std:c++17", "/O2", "/EHsc"]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=[*self.compiler.include_dirs, headers],
                depends=ext.depends,
                extra_postargs=common + (flags(source, x86) if unix else []),
            )

        # Each file in a compiler of its own, those that take longest first.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            slow_first = sorted(ext.sources, key=lambda source: not Path(source).name.startswith("ops_"))
            objects = [name for names in pool.map(compile_one, slow_first) for name in names]
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=["-pthread", *sanitizers()] if unix else [],
            target_lang="c++",
        )


def extensions() -> list[Extension]:
    shared = ["csrc/program.cpp", "csrc/validate.cpp", "csrc/validate_wave.cpp"]
    headers = glob("csrc/*.h")
    cpu = Extension(
        "pixelfast._cpu",
        sorted(glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp")),
        depends=sorted(headers + glob("csrc/cpu/*.h")),
        optional=True,
    )
    if NVCC is None or sanitizers():
        return [cpu]
    sources = [f"csrc/cuda/{name}" for name in ("bind.cpp", "kernel.cu", "plan.cpp")]
    return [cpu, Extension(CUDA, [*sources, *shared], depends=sorted(headers + glob("csrc/cuda/*.h")), optional=True)]


setup(
    packages=[*find_packages(include=["pixelfast", "pixelfast.*"]), "pixelfast.kernels"],
    package_dir={"pixelfast": "pixelfast", "pixelfast.kernels": "kernels"},
    package_data={"pixelfast": ["py.typed", "checkpoints/*/*"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildEngine},
)
