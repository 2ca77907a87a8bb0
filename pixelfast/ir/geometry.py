"""Where things stand in the image: rectangles of pixels, and lattices of every second row and column, or fewer."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True)
class Rect:
    """Rows [row0, row1) and columns [col0, col1), in pixels of the image; may reach beyond it."""

    row0: int
    row1: int
    col0: int
    col1: int

    @property
    def empty(self) -> bool:
        return self.row0 >= self.row1 or self.col0 >= self.col1

    @property
    def size(self) -> tuple[int, int]:
        """How many rows and columns it has."""
        return self.row1 - self.row0, self.col1 - self.col0

    def hull(self, other: Rect) -> Rect:
        if self.empty or other.empty:
            return other if self.empty else self
        return Rect(
            min(self.row0, other.row0), max(self.row1, other.row1), min(self.col0, other.col0), max(self.col1, other.col1)
        )

    def shifted(self, rows: int, cols: int) -> Rect:
        return Rect(self.row0 + rows, self.row1 + rows, self.col0 + cols, self.col1 + cols)

    def contains(self, other: Rect) -> bool:
        return other.empty or (
            self.row0 <= other.row0 and other.row1 <= self.row1 and self.col0 <= other.col0 and other.col1 <= self.col1
        )


@dataclass(frozen=True)
class Lattice:
    """Rows r with r mod row_step = row_phase, and columns likewise: where the elements of a strided map stand."""

    row_step: int = 1
    row_phase: int = 0
    col_step: int = 1
    col_phase: int = 0

    @property
    def steps(self) -> tuple[int, int]:
        return self.row_step, self.col_step

    @property
    def everywhere(self) -> bool:
        return self.steps == (1, 1)

    @staticmethod
    def through(row: int, col: int, steps: tuple[int, int]) -> Lattice:
        """The lattice with these steps on which (row, col) lies."""
        return Lattice(steps[0], row % steps[0], steps[1], col % steps[1])

    def shifted(self, rows: int, cols: int) -> Lattice:
        return Lattice.through(self.row_phase + rows, self.col_phase + cols, self.steps)

    def has_row(self, row: int) -> bool:
        return row % self.row_step == self.row_phase

    def columns(self, first: int, last: int) -> range:
        """Its columns in [first, last)."""
        return range(first + (self.col_phase - first) % self.col_step, last, self.col_step)

    def rows(self, first: int, last: int) -> range:
        return range(first + (self.row_phase - first) % self.row_step, last, self.row_step)

    def contains(self, other: Lattice) -> bool:
        return (
            other.row_step % self.row_step == 0
            and other.col_step % self.col_step == 0
            and self.has_row(other.row_phase)
            and other.col_phase % self.col_step == self.col_phase
        )

    def meets(self, other: Lattice) -> bool:
        """Whether any pixel lies on both."""
        return (self.row_phase - other.row_phase) % gcd(self.row_step, other.row_step) == 0 and (
            self.col_phase - other.col_phase
        ) % gcd(self.col_step, other.col_step) == 0

    def within(self, rect: Rect) -> Rect:
        """The smallest rectangle that holds its elements of `rect`."""
        if self.everywhere:
            return rect
        rows, cols = self.rows(rect.row0, rect.row1), self.columns(rect.col0, rect.col1)
        return Rect(rows[0], rows[-1] + 1, cols[0], cols[-1] + 1) if rows and cols else Rect(0, 0, 0, 0)

    def count(self, rect: Rect) -> int:
        """How many of its elements lie in `rect`."""
        return len(self.rows(rect.row0, rect.row1)) * len(self.columns(rect.col0, rect.col1))


EVERYWHERE = Lattice()
"""All rows and columns."""
