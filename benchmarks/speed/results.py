"""What a run found, as plain values that JSON can hold, and the arithmetic on them.

A `Cell` is one model at one size and one number of images; its `Row`s are the ways to sample it. Every time is kept with all of
its runs, so that a later run can be compared with the spread of this one. Letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Times:
    """Seconds of repeated runs."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def least(self) -> float:
        return min(self.runs)

    @property
    def most(self) -> float:
        return max(self.runs)

    @property
    def spread(self) -> float:
        """Half of the range, as a fraction of the median."""
        return (self.most - self.least) / 2 / self.median


@dataclass(frozen=True)
class Gate:
    """Whether a row draws what it should; without this no speed is shown.

    Attributes:
        ok: it does.
        draws: sub-pixels that were compared with the module's own draws.
        differ: how many of them differ, ties at an edge of the distribution function included.
        ties: how many of those are such ties.
        parameter_error: largest error of a log-probability (loops: of a logit) over the standard deviation; None: not compared.
        reason: what is wrong, if anything is.
    """

    ok: bool
    draws: int = 0
    differ: int = 0
    ties: int = 0
    parameter_error: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One way to sample a cell's images.

    Attributes:
        name: a name of `rows.ROWS`.
        times: of all N images; None where nothing was measured, or a gate stays shut.
        tuned: the same, measured in turns with the tuned forward.
        steps: sub-pixels that were measured, if the times are extrapolated from them; 0: they are not.
        peaks: float32 operations per second that the machine reached next to each time.
        flops: multiply-adds of the program times two, for all images; None: there is no program.
        traffic: bytes that the program moves for all images, see `roofline.traffic`.
        memory: bytes of memory that sampling takes beyond what the process held before; None: not measured.
        compile_s: what is done once, before the first image.
        note: for the reader.
    """

    name: str
    status: Status
    reason: str = ""
    times: Times | None = None
    tuned: Times | None = None
    steps: int = 0
    peaks: tuple[float, ...] = ()
    flops: float | None = None
    traffic: float | None = None
    memory: int | None = None
    compile_s: float | None = None
    gate: Gate | None = None
    note: str = ""

    @property
    def extrapolated(self) -> bool:
        return self.steps > 0

    def fraction_of_peak(self) -> float | None:
        """Operations that the program needs, over those that the machine could have done in the same time."""
        if self.times is None or self.flops is None or not self.peaks:
            return None
        return self.flops / self.times.median / statistics.median(self.peaks)


@dataclass(frozen=True)
class Forward:
    """One forward pass of the module over all images, eager PyTorch.

    Attributes:
        times: of all N images.
        batch: how many images go through it at once: what was fastest.
        layout: "NCHW" or "channels_last".
        memory: bytes that it takes beyond what the process held before; None: not measured.
    """

    times: Times
    batch: int
    layout: str
    memory: int | None = None


@dataclass(frozen=True)
class Cell:
    """One model, one image size, one number of images.

    Attributes:
        forward: PyTorch as it comes.
        tuned: the better of NCHW and channels_last, with an allocator that keeps large blocks; None: not measured.
        sweep: it is there to show how times grow, and stands in no table of its own.
    """

    model: str
    shape: tuple[int, int, int]
    images: int
    rows: tuple[Row, ...]
    forward: Forward | None = None
    tuned: Forward | None = None
    sweep: bool = False

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def ratio_default(self, row: Row) -> float | None:
        """R against the default forward: time to sample over the time of one forward over the same images."""
        return ratio(row.times, self.forward.times if self.forward else None)

    def ratio_tuned(self, row: Row) -> float | None:
        """R against the tuned forward; the numerator was measured in turns with it."""
        return ratio(row.tuned, self.tuned.times if self.tuned else None)

    def speedup(self, row: Row) -> float | None:
        """How many times faster than the usual loop."""
        naive = self.row("naive")
        return ratio(naive.times if naive is not None else None, row.times)

    def images_per_second(self, row: Row) -> float | None:
        return None if row.times is None else self.images / row.times.median


@dataclass(frozen=True)
class Run:
    """Everything that one call of `run.py` found.

    Attributes:
        facts: machine, versions, commit, date; see `machine.facts`.
        options: what was asked for.
        cells: by model, size and number of images.
        notes: what the reader should know: what was skipped and why.
    """

    facts: dict[str, Any]
    options: dict[str, Any]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    schema: int = 1

    @property
    def failed(self) -> list[tuple[Cell, Row]]:
        return [(cell, row) for cell in self.cells for row in cell.rows if row.status == "failed"]


def ratio(above: Times | None, below: Times | None) -> float | None:
    """Median over median."""
    return None if above is None or below is None else above.median / below.median


def extrapolate(rows: Sequence[int], seconds: Sequence[float], height: int, per_row: int) -> float:
    """Seconds of a whole image from those of single steps in some of its rows.

    Steps in the rows between are taken to lie on a straight line, those above the first and below the last to cost as much
    as there. `per_row` is how many steps a row has. With equal steps this is their number times the time of one.
    """
    points = sorted(zip(rows, seconds, strict=True))
    if not points or not 0 <= points[0][0] <= points[-1][0] < height:
        raise ValueError(f"steps must be measured in rows of the image, 0 .. {height - 1}; got rows {list(rows)}")
    total = 0.0
    for row in range(height):
        (left, low), (right, high) = _around(points, row)
        total += low if left == right else low + (high - low) * (row - left) / (right - left)
    return total * per_row


def _around(points: Sequence[tuple[int, float]], row: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """The measured points below and above a row; the same point twice at a point and beyond the ends."""
    below = max((point for point in points if point[0] <= row), default=points[0])
    above = min((point for point in points if point[0] >= row), default=points[-1])
    return below, above


def withhold(row: Row, gate: Gate) -> Row:
    """The row with its gate: one that failed keeps no time, so nobody can print one."""
    if gate.ok:
        return replace(row, gate=gate)
    return Row(row.name, "failed", gate.reason, gate=gate, compile_s=row.compile_s)


def to_json(value: Run | Cell) -> dict[str, Any]:
    """For `json.dump`."""
    return asdict(value)


def run_from(data: Mapping[str, Any]) -> Run:
    """A run from what `to_json` gave.

    Raises:
        ValueError: it is no run, or of another version of this program.
    """
    if data.get("schema") != 1 or "cells" not in data:
        raise ValueError("it is no results.json of this program (schema 1)")
    try:
        cells = tuple(map(cell_from, data["cells"]))
        return Run(dict(data["facts"]), dict(data["options"]), cells, tuple(data["notes"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks or exceeds what a results.json holds: {error}") from error


def cell_from(data: Mapping[str, Any]) -> Cell:
    """A cell from what `to_json` gave."""
    rows = tuple(map(_row_from, data["rows"]))
    shape = data["shape"][0], data["shape"][1], data["shape"][2]
    forwards = _forward_from(data["forward"]), _forward_from(data["tuned"])
    return Cell(data["model"], shape, data["images"], rows, *forwards, sweep=data["sweep"])


def _row_from(data: Mapping[str, Any]) -> Row:
    gate = None if data["gate"] is None else Gate(**data["gate"])
    times = {name: _times_from(data[name]) for name in ("times", "tuned")}
    return Row(**{**data, **times, "peaks": tuple(data["peaks"]), "gate": gate})


def _forward_from(data: Mapping[str, Any] | None) -> Forward | None:
    return None if data is None else Forward(**{**data, "times": _times_from(data["times"])})


def _times_from(data: Mapping[str, Any] | None) -> Times | None:
    return None if data is None else Times(tuple(data["runs"]))
