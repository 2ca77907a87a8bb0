"""The five latencies that decide between designs: triton_latencies.py, then latencies.cu, which is compiled first."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.records import emit, without_gpu

SOURCE = Path(__file__).with_name("latencies.cu")
INCLUDE = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
OPTIONS = ("-gencode=arch=compute_90a,code=sm_90a", "-std=c++17", "-O3", "-cudart=static", f"-I{INCLUDE}")


def build(target: Path) -> str | None:
    """Compile latencies.cu to a program; None, or why that was not possible."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "there is no nvcc"
    run = subprocess.run([nvcc, *OPTIONS, str(SOURCE), "-o", str(target)], capture_output=True, text=True)
    return f"nvcc failed: {run.stderr.strip()[-1000:]}" if run.returncode else None


def of_cuda() -> int:
    """Run the compiled program; its lines go on as they come."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "latencies")
        if reason := build(program):
            emit("failed", reason=f"no latencies of CUDA kernels: {reason}")
            return 1
        failed = 0
        with subprocess.Popen([str(program)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                failed += "failed" in json.loads(line)
        return int(failed > 0 or process.returncode != 0)


def main() -> int:
    if without_gpu():
        return 0
    try:
        from gpu import triton_latencies

        code = triton_latencies.main()
    except ImportError as error:
        emit("failed", reason=f"no latencies of Triton kernels: {error}")
        code = 1
    return max(code, of_cuda())  # these last: see there


if __name__ == "__main__":
    sys.exit(main())
