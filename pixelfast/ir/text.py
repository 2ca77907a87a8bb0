"""How graphs, schedules and programs are printed."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 6
"""A line shows so many things that a node or an instruction reads: those of a convolution can be hundreds."""


def at(row: int, col: int) -> str:
    """An offset from the reader's own position, or from the running one; nothing if there is none."""
    return f"@({row:+d},{col:+d})" if row or col else ""


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(texts: Sequence[str]) -> str:
    """The first of them, and how many there are if not all are shown."""
    return ", ".join(texts) if len(texts) <= SHOWN else f"{', '.join(texts[:SHOWN])}, ... {len(texts)} in all"
