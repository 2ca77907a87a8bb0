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
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)")
JUMP = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
LABEL = re.compile(r"\.L_\w+:")
SHARED = 227 * 1024  # bytes of shared memory that a block may have on Hopper


@dataclass(frozen=True)
class Compiled:
    """A kernel for sm_90: its intermediate code, how often each machine instruction occurs, and what it needs.

    Attributes:
        spills: loads and stores of registers that did not suffice, inside of loops. A value that ptxas sets aside from before
            a loop to behind it costs nothing: it does so with registers left, where more would let fewer programs run at once.
    """

    ptx: str
    instructions: Mapping[str, int]
    spills: int
    registers: int
    stack: int
    shared: int

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
    listing = _output(tools / "nvdisasm", "-c", cubin, path=tools)
    return Compiled(
        compiled.asm["ptx"],
        Counter(INSTRUCTION.findall(listing)),
        spills_in_loops(listing),
        int(re.search(r"REG:(\d+)", usage)[1]),
        int(re.search(r"STACK:(\d+)", usage)[1]),
        compiled.metadata.shared,
    )


def spills_in_loops(listing: str) -> int:
    """Loads and stores of local memory between the target of a jump backwards and the jump, in what nvdisasm printed."""
    lines = listing.splitlines()
    labels = {line.strip()[:-1]: number for number, line in enumerate(lines) if LABEL.fullmatch(line.strip())}
    jumps = [(labels.get(found[1], number), number) for number, line in enumerate(lines) if (found := JUMP.search(line))]
    loops = [(start, end) for start, end in jumps if start < end]
    names = [INSTRUCTION.findall(line) for line in lines]
    spilled = [number for number, name in enumerate(names) if name in (["LDL"], ["STL"])]
    return sum(any(start < number < end for start, end in loops) for number in spilled)


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
