"""What the native engine is to reach, and whether a run reached it."""

from __future__ import annotations

from dataclasses import dataclass

from speed.models import MODELS
from speed.results import Cell, Run
from speed.texts import duration


@dataclass(frozen=True)
class Target:
    """For one row: at most so much of the time of a tuned forward, at least so much of the peak (None: no matter)."""

    model: str
    images: int
    ratio: float
    peak: float | None
    row: str = "cpu"


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
COMPILE_SECONDS = {"a": 5.0, "b": 10.0}


def table(run: Run) -> list[tuple[str, ...]]:
    """The targets that the run has numbers for, the header first."""
    result: list[tuple[str, ...]] = [("model", "n", "row", "R tuned", "at most", "of peak", "at least", "")]
    for target in TARGETS:
        cell = next((cell for cell in _cells(run, target.model) if cell.images == target.images), None)
        row = cell.row(target.row) if cell else None
        ratio = cell.ratio_tuned(row) if cell and row else None
        if row is None or ratio is None:
            continue
        reached = row.fraction_of_peak() if target.peak is not None else None
        met = ratio <= target.ratio and (target.peak is None or (reached is not None and reached >= target.peak))
        result.append(
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
    return result


def compile_lines(run: Run) -> list[str]:
    """Compile times and what they may be."""
    lines = []
    for model, most in COMPILE_SECONDS.items():
        took = [row.compile_s for cell in _cells(run, model) for row in cell.rows if row.name == "cpu" and row.compile_s]
        if took:
            met = "met" if took[0] <= most else "MISSED"
            lines.append(f"compiling {model} takes {duration(took[0])}, at most {duration(most)}: {met}")
    return lines


def _cells(run: Run, model: str) -> list[Cell]:
    """The model's cells at its published size."""
    return [cell for cell in run.cells if cell.model == model and cell.shape == MODELS[model].shape and not cell.sweep]
