"""A program as the native engines take it: its stream, with the order of known rows and the wavefront, which Python derives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from ..ir.program import Program
from ..ir.stream import Stream, write
from .given_rows import known_order
from .wavefront import Reach, wavefront


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
