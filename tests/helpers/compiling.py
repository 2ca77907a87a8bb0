"""Triton kernels compiled for a GPU that need not be there: what the compiler says about them."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TYPES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int32": "i32"}
SHARED = 227 * 1024  # bytes of shared memory that a block may have on Hopper


@dataclass(frozen=True)
class Compiled:
    """A kernel for sm_90: its intermediate code, how often each machine instruction occurs, and what it needs."""

    ptx: str
    instructions: Mapping[str, int]
    registers: int
    stack: int
    shared: int

    @property
    def spills(self) -> int:
        """Loads and stores of registers that did not suffice."""
        return self.instructions["LDL"] + self.instructions["STL"]

    @property
    def tensor_cores(self) -> int:
        return sum(count for name, count in self.instructions.items() if name in ("HMMA", "HGMMA", "WARPGROUP"))


def compile_kernel(kernel: Any, arguments: Mapping[str, Any], warps: int, stages: int, folder: Path) -> Compiled:
    """Compile for sm_90. An argument is a Triton type ("*fp32", "i32"), or the value of a constant.

    Pointers are taken to be aligned to 16 bytes, as PyTorch's are.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    is_type = {name: isinstance(value, str) for name, value in arguments.items()}
    signature = {name: value if is_type[name] else "constexpr" for name, value in arguments.items()}
    constants = {name: value for name, value in arguments.items() if not is_type[name]}
    aligned = [["tt.divisibility", 16]]
    attributes = {(i,): aligned for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    usage = _output(tools / "cuobjdump", "-res-usage", cubin, path=tools)
    machine = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", _output(tools / "nvdisasm", cubin, path=tools))
    return Compiled(
        compiled.asm["ptx"],
        Counter(machine),
        int(re.search(r"REG:(\d+)", usage)[1]),
        int(re.search(r"STACK:(\d+)", usage)[1]),
        compiled.metadata.shared,
    )


def _output(tool: Path, *arguments: object, path: Path) -> str:
    command = [str(tool), *map(str, arguments)]
    return subprocess.run(command, env={"PATH": f"{path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True).stdout


_shared: tuple[Callable[[Any], Any], Sequence[Any]]


def side_by_side(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What `function` gives for each item, on all processors: compiling takes minutes. Kernels are inherited, not sent."""
    global _shared
    _shared = function, items
    if len(items) < 2:
        return [function(item) for item in items]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's threads stay behind: nobody computes here
        with multiprocessing.get_context("fork").Pool(min(len(items), os.cpu_count() or 1)) as pool:
            return pool.map(_shared_item, range(len(items)), chunksize=1)


def _shared_item(index: int) -> Any:
    function, items = _shared
    return function(items[index])
