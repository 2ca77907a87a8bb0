"""A program as the native engines take it: its stream, with the order of known rows and the wavefront, which Python derives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..ir.contract import DIGEST
from ..ir.program import Program
from ..ir.stream import Stream, write
from ..lowering.given_rows import known_order
from ..lowering.wavefront import Reach, wavefront


@dataclass(frozen=True)
class _Whole:
    """What `pixelfast.ir.contract.PROGRAM` names.

    Attributes:
        known_order: positions among all steps' instructions, each step's followed by its draw; none: column by column.
    """

    program: Program
    known_order: tuple[int, ...]
    leads: tuple[int, ...]
    reaches: tuple[Reach, ...]


def pack(program: Program) -> Stream:
    """The stream of a program. Fields' values are not in it: a call brings them."""
    first = [0, *accumulate(len(step) + 1 for step in program.steps)]
    order = tuple(first[step] + index for step, index in known_order(program) or ())
    front = wavefront(program)
    return write(_Whole(program, order, front.leads, front.reaches))


def outdated(module: Any) -> str | None:
    """Why a compiled module cannot read our streams; None if it can: both come from one contract."""
    if getattr(module, "contract", None) == DIGEST:
        return None
    return (
        "the native engine was built for another version of pixelfast: build it again with `pip install -e .` in the folder of "
        "its source, or `python setup.py build_ext --inplace`"
    )
