"""Numbers for people, with as many digits as they deserve; tables of them, and errors, as text."""

from __future__ import annotations

from collections.abc import Sequence

TIMES = (("µs", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 360_000.0))
"""Units, their seconds, and the times from which on the next one is used."""


def duration(seconds: float) -> str:
    """A time in a unit that suits it, with three digits."""
    for unit, size, most in TIMES:
        if seconds < most:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 86400)} days"


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, and commas if it is large."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def size(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} GB"


def short(error: Exception) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for the terminal, without columns that are empty below their title; the first row holds the titles."""
    lines = _filled(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return ["  " + "  ".join(line).rstrip() for line in padded]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same in Markdown."""
    head, *lines = ["| " + " | ".join(text.replace("|", "/") for text in line) + " |" for line in _filled(rows)]
    return [head, "| " + " | ".join(["---"] * len(_filled(rows)[0])) + " |", *lines]


def _filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    used = [i for i in range(len(rows[0])) if len(rows) == 1 or any(row[i] for row in rows[1:])]
    return [[row[i] for i in used] for row in rows]
