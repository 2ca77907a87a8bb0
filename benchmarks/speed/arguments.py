"""Types of arguments that the programs have in common."""

from __future__ import annotations

import argparse
import re


def names_of(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def counts_of(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in names_of(text)}))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)
