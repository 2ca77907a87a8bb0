"""Precisions: how the weights and inputs of products are rounded, and how far that may move a model's distributions.

Only products (convolutions and linear layers) are concerned: everything else stays in float32, as do all sums. What the
precisions cost and win is measured in docs/precision.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidInput


@dataclass(frozen=True)
class Precision:
    """What a precision does, and what is promised of it.

    Attributes:
        summary: what is stored how.
        tolerance: how far distributions may lie from those of a float32 forward of the module (`verify.distances`).
    """

    summary: str
    tolerance: float


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision("float32, exact", 1e-4),
    "fp16w": Precision("weights stored as float16, float32 arithmetic", 1e-2),
    "bf16": Precision("products of bfloat16 on a GPU, float32 sums", 5e-1),
    "fp16": Precision("products of float16 on a GPU, float32 sums", 1e-2),
}


def check_precision(name: str) -> str:
    """The name, if there is such a precision.

    Raises:
        InvalidInput: there is none.
    """
    if not isinstance(name, str) or name not in PRECISIONS:
        raise InvalidInput(f"there is no precision {name!r}; precisions are {', '.join(PRECISIONS)}")
    return name
