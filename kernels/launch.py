"""A launch of a kernel as data: run it, capture it, or compile it ahead of time for a device that is not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Launch:
    """A kernel with everything it is launched with, but for `first`: the column at which it starts.

    Attributes:
        kernel: a function under `triton.jit`.
        grid: programs.
        arguments: tensors and numbers by name.
        constants: by name, known when the kernel is compiled.
        warps: of 32 threads, for each program.
        writes: tensors among the arguments that the kernel stores to.
        body: what each program runs (`bodies.py`), if a persistent kernel may run it as well.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    writes: tuple[str, ...] = ("arena",)
    body: Any = None
    label: str = field(default="", compare=False)

    def __call__(self, first: int = 0) -> None:
        # One stage: with more, loads of a loop are made ahead of time, and may then miss what the loop itself stores.
        self.kernel[self.grid](**self.arguments, first=first, **self.constants, num_warps=self.warps, num_stages=1)

    def signature(self) -> dict[str, str]:
        """The types of all arguments, for compiling ahead of time."""
        named = {name: _type(value) for name, value in [*self.arguments.items(), ("first", 0)]}
        return {name: named.get(name, "constexpr") for name in self.kernel.arg_names}


_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()
