"""What the native engine is to reach, and whether a run reached it."""

from __future__ import annotations

from dataclasses import dataclass

from results import Cell, Run
from texts import duration


@dataclass(frozen=True)
class Target:
    """At most so much of the time of a tuned forward, at least so much of the peak (None: no matter), for a row of a cell."""

    model: str
    images: int
    ratio: float
    peak: float | None
    row: str = "cpu"

    def cell(self, run: Run) -> Cell | None:
        return next((c for c in run.cells if (c.model, c.images) == (self.model, self.images) and c.tuned), None)


TARGETS = (
    Target("a", 1, 0.45, 0.50),
    Target("a", 16, 0.50, 0.75),
    Target("a", 64, 0.50, 0.78),
    Target("a", 256, 0.50, 0.78),
    Target("b", 1, 1.2, 0.33),
    Target("b", 1, 0.95, None, "cpu-fp16w"),
    Target("b", 4, 0.80, 0.62),
    Target("b", 16, 0.70, 0.70),
    Target("b", 64, 0.65, 0.75),
    Target("b", 256, 0.65, 0.75),
)
"""The sizes are those of `models.MODELS`."""
COMPILE_SECONDS = {"a": 5.0, "b": 10.0}


def table(run: Run) -> list[tuple[str, ...]]:
    """The targets that the run has numbers for, the header first."""
    found: list[tuple[str, ...]] = [("model", "n", "row", "R tuned", "at most", "of peak", "at least", "")]
    for target in TARGETS:
        cell = target.cell(run)
        row = cell.row(target.row) if cell else None
        ratio = cell.ratio_tuned(row) if cell and row else None
        if row is None or ratio is None:
            continue
        reached = row.fraction_of_peak() if target.peak is not None else None
        met = ratio <= target.ratio and (target.peak is None or (reached is not None and reached >= target.peak))
        found.append(
            (
                target.model,
                str(target.images),
                target.row,
                f"{ratio:.2f}",
                f"{target.ratio:.2f}",
                "" if reached is None else f"{reached:.0%}",
                "" if target.peak is None else f"{target.peak:.0%}",
                "met" if met else "MISSED",
            )
        )
    return found


def compile_lines(run: Run) -> list[str]:
    """Compile times and what they may be."""
    lines = []
    for model, most in COMPILE_SECONDS.items():
        cell = next((c for c in run.cells if c.model == model and c.tuned and c.row("cpu")), None)
        took = cell.row("cpu").compile_s if cell else None  # type: ignore[union-attr]
        if took is not None:
            met = "met" if took <= most else "MISSED"
            lines.append(f"compiling {model} takes {duration(took)}, at most {duration(most)}: {met}")
    return lines
