"""How the time of the native engines grows: over the number of images, for which it should stay flat, and over their size.

A sweep measures the exact native engine alone, in cells of their own that no table of the report repeats. The first
`VERIFIED` images of each are verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from speed import rows as row_names
from speed.job import Job
from speed.models import MODELS
from speed.results import Cell, Row, Run
from speed.texts import duration

COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "short": {"a": (4, 256), "digits": (4, 16, 256, 1024), "lattice": (1, 4, 16, 256, 4096)},
    "long": {"a": (4, 256, 1024, 4096), "digits": (4, 16, 256, 1024, 4096), "lattice": (1, 4, 16, 256, 4096)},
}
"""Numbers of images by length of the sweep and by model, beside those that the report has anyway."""
SIDES = {"short": (8, 16, 32, 64, 128), "long": (8, 16, 32, 64, 128, 256)}
"""Rows and columns of the images of `SIZED`, `TOGETHER` of which are drawn."""
SIZED = "a"
TOGETHER = 4
LENGTHS = ("none", *SIDES)
VERIFIED = 64
BUDGET = 10.0
FLAT_FROM = 64
"""Images from which on the time of one should not depend on their number."""


def jobs(length: str, common: Job, names: Sequence[str], rows: Sequence[str], done: Sequence[Job]) -> list[Job]:
    """The jobs of a sweep over the models asked for, without the cells that other jobs have.

    Args:
        length: of `LENGTHS`.
        common: runs, threads and so on.
        rows: those of the report; a sweep has the exact native ones among them.
    """
    exact = tuple(name for name in row_names.native(list(rows)) if name not in row_names.LOWER)
    if length == "none" or not exact:
        return []
    common = replace(common, rows=exact, budget=min(common.budget, BUDGET), verified=VERIFIED, sweep=True)
    had = {(job.model, job.shape, images) for job in done for images in job.images}
    result = []
    for name, counts in COUNTS[length].items():
        shape = MODELS[name].shape
        left = tuple(count for count in counts if (name, shape, count) not in had)
        if name in names and left:
            result.append(replace(common, model=name, shape=shape, images=left, yardstick="none"))
    for side in SIDES[length] if SIZED in names else ():
        shape = MODELS[SIZED].shape[0], side, side
        if (SIZED, shape, TOGETHER) not in had:
            result.append(replace(common, model=SIZED, shape=shape, images=(TOGETHER,), yardstick="default"))
    return result


# The cells of a run that show growth.


def published(run: Run) -> list[Cell]:
    """The cells of each model's first size: those of the sweep over sizes are left out."""
    first: dict[str, tuple[int, int, int]] = {}
    for cell in run.cells:
        first.setdefault(cell.model, cell.shape)
    return [cell for cell in run.cells if cell.shape == first[cell.model]]


def by_images(run: Run) -> list[list[Cell]]:
    """Cells of the models that have several numbers of images, a list for each."""
    groups: dict[str, list[Cell]] = {}
    timed = [cell for cell in published(run) if any(row.times for row in cell.rows)]
    for cell in sorted(timed, key=lambda cell: cell.images):
        groups.setdefault(cell.model, []).append(cell)
    order = dict.fromkeys(cell.model for cell in run.cells)
    return [groups[model] for model in order if len(groups.get(model, [])) > 1]


def by_size(run: Run) -> list[Cell]:
    """Cells of the model that has several sizes, from small to large; none unless there are at least two."""
    cells = [cell for cell in run.cells if cell.model == SIZED and cell.images == TOGETHER]
    return sorted(cells, key=pixels) if len(set(map(pixels, cells))) > 1 else []


def pixels(cell: Cell) -> int:
    return cell.shape[1] * cell.shape[2]


# Tables, the header first.


def images_table(group: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Time of an image by how many are drawn, over that of the first number from `FLAT_FROM` on."""
    points = [(cell, row, row.times.median / cell.images) for cell in group for row in _native(cell) if row.times]
    flat: dict[str, float] = {}
    for cell, row, seconds in points:
        if cell.images >= FLAT_FROM:
            flat.setdefault(row.name, seconds)
    head: tuple[str, ...] = ("model", "n", "row", "time", "for each image", f"over that of the first n from {FLAT_FROM} on")
    return [head] + [
        (
            cell.model,
            f"{cell.images:,}",
            row.name,
            duration(seconds * cell.images),
            duration(seconds),
            f"{seconds / flat[row.name]:.2f}" if row.name in flat else "",
        )
        for cell, row, seconds in points
    ]


def size_table(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Time of a pixel by the size of the image."""
    points = [(cell, row, row.times.median / cell.images) for cell in cells for row in _native(cell) if row.times]
    head: tuple[str, ...] = ("model", "size", "n", "row", "for each image", "for each pixel", "compile")
    return [head] + [
        (
            cell.model,
            f"{cell.shape[1]}x{cell.shape[2]}",
            str(cell.images),
            row.name,
            duration(seconds),
            duration(seconds / pixels(cell)),
            "" if row.compile_s is None else duration(row.compile_s),
        )
        for cell, row, seconds in points
    ]


def _native(cell: Cell) -> list[Row]:
    names = row_names.native([row.name for row in cell.rows if row.status == "ok"])
    return [row for row in cell.rows if row.name in names and row.name not in row_names.LOWER]
