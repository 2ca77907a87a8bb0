"""Numbers for people: times, counts and bytes with as many digits as they deserve."""

from __future__ import annotations

TIMES = (("µs", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 360_000.0))
"""Units, their seconds, and the times from which on the next one is used."""


def duration(seconds: float) -> str:
    """A time in a unit that suits it, with three digits."""
    for unit, size, most in TIMES:
        if seconds < most:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 86400)} days"


def significant(value: float, digits: int = 3) -> str:
    """So many digits, with commas in large numbers."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def size(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} GB"
