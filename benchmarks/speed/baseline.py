"""Two runs compared: each row's time then and now, and whether it moved further than both runs scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from speed.results import Cell, Row, Run, Times
from speed.surroundings import BUSY
from speed.texts import aligned, duration

Verdict = Literal["faster", "slower", "same"]


@dataclass(frozen=True)
class Change:
    """One row, then and now.

    Attributes:
        ratio: time now over time then; below 1 is faster.
        verdict: "same" where the ranges of the two runs overlap.
    """

    model: str
    shape: tuple[int, int, int]
    images: int
    row: str
    then: Times
    now: Times

    @property
    def ratio(self) -> float:
        return self.now.median / self.then.median

    @property
    def verdict(self) -> Verdict:
        if self.now.most < self.then.least:
            return "faster"
        if self.now.least > self.then.most:
            return "slower"
        return "same"


def compare(before: Run, now: Run) -> list[Change]:
    """The rows that both runs measured, one eager forward included."""
    earlier = {_key(cell, name): times for cell in before.cells for name, times in _times(cell)}
    return [
        Change(cell.model, cell.shape, cell.images, name, earlier[_key(cell, name)], times)
        for cell in now.cells
        for name, times in _times(cell)
        if _key(cell, name) in earlier
    ]


def _key(cell: Cell, name: str) -> tuple[object, ...]:
    return cell.model, cell.shape, cell.images, name


def _times(cell: Cell) -> list[tuple[str, Times]]:
    measured = [(row.name, row.times) for row in cell.rows if row.status == "ok" and row.times is not None]
    return [*([("forward", cell.forward.times)] if cell.forward else []), *measured]


def missing(before: Run, now: Run) -> list[str]:
    """Rows that were fine then and are not now."""
    current: dict[tuple[object, ...], Row] = {_key(cell, row.name): row for cell in now.cells for row in cell.rows}
    return [
        f"{cell.model}, n = {cell.images}, {row.name}: was measured then, now {current[_key(cell, row.name)].status}"
        for cell in before.cells
        for row in cell.rows
        if row.status == "ok" and _key(cell, row.name) in current and current[_key(cell, row.name)].status != "ok"
    ]


def warnings(before: Run, now: Run) -> list[str]:
    """What makes the comparison doubtful."""
    result = [
        f"the {what} differs: {before.facts.get(what)} then, {now.facts.get(what)} now"
        for what in ("processor", "threads", "versions")
        if before.facts.get(what) != now.facts.get(what)
    ]
    for when, run in (("then", before), ("now", now)):
        if (busy := run.facts.get("busy_processors") or 0) > BUSY:
            result.append(f"other programs used {busy:.1f} processors {when}")
    then, here = before.facts.get("peak_flops"), now.facts.get("peak_flops")
    if then and here and not 0.9 < here / then < 1.1:
        result.append(f"the machine itself reaches {here / then:.2f} times the multiply-adds of then")
    return result


def table(changes: Sequence[Change]) -> Sequence[tuple[str, ...]]:
    """Lines of text, the header first."""
    head = ("model", "n", "row", "then", "now", "now / then", "")
    marks = {"faster": "FASTER", "slower": "SLOWER", "same": "within the spread"}
    return [head] + [
        (
            f"{c.model} {'x'.join(map(str, c.shape))}",
            str(c.images),
            c.row,
            duration(c.then.median),
            duration(c.now.median),
            f"{c.ratio:.2f}",
            marks[c.verdict],
        )
        for c in changes
    ]


def text(before: Run, now: Run) -> str:
    """The comparison for the terminal."""
    changes = compare(before, now)
    lines = [f"compared with {before.facts.get('commit')} of {before.facts.get('date')}:"]
    lines += [f"  BEWARE: {warning}" for warning in warnings(before, now)]
    if not changes:
        return "\n".join([*lines, "  no row was measured in both runs"])
    lines += aligned(table(changes))
    moved = {verdict: sum(change.verdict == verdict for change in changes) for verdict in ("faster", "slower", "same")}
    lines.append(f"  {moved['faster']} faster, {moved['slower']} slower, {moved['same']} within the spread of both runs")
    return "\n".join([*lines, *(f"  GONE: {line}" for line in missing(before, now))])
