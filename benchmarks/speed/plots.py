"""The pictures of a report: speed-up by model, time against n and against image size, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from speed.plot_roofline import roofline
from speed.plot_style import COLUMNS, DPI, FORWARD, STYLES, finish, grid, only_ticks, plain_log, style, time_tick
from speed.results import Cell, Row, Run, Times
from speed.rows import ROWS
from speed.sweeps import SIZED, TOGETHER, by_images, by_size, pixels, published
from speed.texts import significant


def draw(folder: Path, run: Run) -> list[str]:
    """Draw every picture that the run has numbers for; returns their file names."""
    names = []
    for name, make in (
        ("speedup", speedup),
        ("time_by_images", time_by_images),
        ("time_by_size", time_by_size),
        ("roofline", roofline),
    ):
        figure = make(run)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=DPI)
            pyplot.close(figure)
            names.append(f"{name}.png")
    return names


def speedup(run: Run) -> Figure | None:
    """How many times faster than the usual loop, for each model at its largest number of images."""
    cells = [cell for cell in largest(run) if any(cell.speedup(row) for row in compared(cell))]
    if not cells:
        return None
    figure, axes = pyplot.subplots(figsize=(8.4, 1.9 + 0.42 * len(cells)), layout="constrained")
    for place, cell in enumerate(cells):
        for row in compared(cell):
            value = cell.speedup(row)
            if value is None:
                continue
            colour, marker, _ = style(row.name)
            axes.plot(value, place, marker, color=colour, markersize=8, markeredgecolor="white", zorder=3)
            if row.name == "cpu":
                axes.annotate(
                    f"{significant(value, 2)}×", (value, place), (9, 0), textcoords="offset points", va="center", fontsize=9
                )
    axes.axvline(1, color=STYLES["naive"][0], linewidth=1)
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.7), high * 3)
    axes.set_yticks(range(len(cells)), [label(cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_xlabel("times faster than the usual loop (logarithmic)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    finish(figure, run, "Speed-up over one full forward for each sub-pixel", names_in(cells, without=("naive",)))
    return figure


def time_by_images(run: Run) -> Figure | None:
    """Time of one image against how many are drawn together, one panel for each model with several numbers of images."""
    groups = by_images(run)
    if not groups:
        return None
    figure, panels = grid(len(groups))
    for axes, group in zip(panels, groups, strict=True):
        lines(axes, group, [cell.images for cell in group])
        axes.set_title(f"{group[0].model}, {shape_text(group[0])}", fontsize=10)
        only_ticks(axes, {cell.images: f"{cell.images:,}" for cell in group})
    for place, axes in enumerate(panels):
        if place % COLUMNS == 0:
            axes.set_ylabel("time for each image")
        if place + COLUMNS >= len(panels):  # nothing below
            axes.set_xlabel("images drawn together, n")
    shown = names_in([cell for group in groups for cell in group])
    finish(figure, run, "Time for each image, by how many are drawn together", [*shown, "forward"])
    return figure


def time_by_size(run: Run) -> Figure | None:
    """Time of one image against its number of pixels, for the model that is measured at several sizes."""
    cells = by_size(run)
    if not cells:
        return None
    figure, axes = pyplot.subplots(figsize=(8.4, 5.4), layout="constrained")
    lines(axes, cells, [pixels(cell) for cell in cells])
    only_ticks(axes, {pixels(cell): f"{cell.shape[1]}×{cell.shape[2]}" for cell in cells})
    proportional(axes, cells)
    axes.set_xlabel("size of the image in pixels (logarithmic)")
    axes.set_ylabel("time for each image")
    title = f"Time for each image against its size: model {SIZED}, {TOGETHER} together"
    finish(figure, run, title, [*names_in(cells), "forward"])
    return figure


def lines(axes: Axes, cells: Sequence[Cell], along: Sequence[float]) -> None:
    """The time of one image: a line for each row over the cells, with the range of the runs, and one for the forward."""
    for name in names_in(cells):
        timed = [(x, cell.row(name), cell.images) for x, cell in zip(along, cells, strict=True)]
        found = [(x, Times(tuple(t / n for t in row.times.runs))) for x, row, n in timed if row and row.times]
        colour, marker, _ = style(name)
        xs, middle = [x for x, _ in found], [times.median for _, times in found]
        ranges = [times.median - times.least for _, times in found], [times.most - times.median for _, times in found]
        axes.errorbar(xs, middle, ranges, color=colour, marker=marker, markersize=6, linewidth=1.5, capsize=2)
    forwards = [(x, cell.tuned or cell.forward, cell.images) for x, cell in zip(along, cells, strict=True)]
    points = [(x, forward.times.median / n) for x, forward, n in forwards if forward is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=FORWARD[0], marker=".", linestyle="--", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))  # what is flat must look flat
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e5e5e5", linewidth=0.7)


def proportional(axes: Axes, cells: Sequence[Cell]) -> None:
    """A line through the fastest row of the largest image along which time grows with the number of pixels."""
    last = cells[-1]
    seconds = min((row.times.median for row in last.rows if row.times is not None), default=None)
    if seconds is not None:
        ends = [pixels(cells[0]), pixels(last)]
        times = [seconds / last.images * count / pixels(last) for count in ends]
        axes.plot(ends, times, color="#999999", linestyle=":", linewidth=1.5, zorder=1)
        middle = math.sqrt(ends[0] * ends[1]), math.sqrt(times[0] * times[1])
        axes.annotate("proportional to H·W", middle, (14, -4), textcoords="offset points", color="#666666", fontsize=9)


def label(cell: Cell) -> str:
    return f"{cell.model}, {shape_text(cell)}, n = {cell.images}"


def shape_text(cell: Cell) -> str:
    return "×".join(map(str, cell.shape))


def compared(cell: Cell) -> list[Row]:
    return [row for row in cell.rows if row.status == "ok" and row.name != "naive"]


def largest(run: Run) -> list[Cell]:
    """The cell with the most images of each model."""
    cells = [cell for cell in published(run) if not cell.sweep]
    result = {cell.model: cell for cell in sorted(cells, key=lambda cell: cell.images)}
    return [result[model] for model in dict.fromkeys(cell.model for cell in cells)]


def names_in(cells: Sequence[Cell], without: Sequence[str] = ()) -> list[str]:
    """The rows that have a time in any of the cells, from slow to fast."""
    here = {row.name for cell in cells for row in cell.rows if row.times is not None}
    return [name for name in ROWS if name in here and name not in without]
