"""The pictures of a report: speed-up by model, time against n and against image size, and the roofline.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; each row also has a marker of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from results import Cell, Row, Run
from rows import ROWS
from sweeps import SIZED, TOGETHER, by_images, by_size, pixels, published
from texts import significant

STYLES: dict[str, tuple[str, str, str]] = {
    "naive": ("#000000", "o", "usual loop (extrapolated)"),
    "naive-cropped": ("#56B4E9", "v", "usual loop, rows so far (extrapolated)"),
    "naive-compiled": ("#CC79A7", "^", "usual loop, torch.compile (extrapolated)"),
    "netket": ("#009E73", "P", "NetKet, cached"),
    "reference": ("#E69F00", "s", "eager PyTorch, cached"),
    "cpu": ("#D55E00", "D", "pixelfast, cpu"),
}
"""Colour, marker and name of each row."""
OTHERS = ("#0072B2", "X")
FORWARD = ("#0072B2", "one forward, eager (tuned)")
PANEL = (3.9, 3.1)
COLUMNS = 3
DPI = 150


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
        lines(axes, group, [cell.images for cell in group], per_image=True)
        axes.set_title(f"{group[0].model}, {shape_text(group[0])}", fontsize=10)
        axes.set_xticks([cell.images for cell in group], [str(cell.images) for cell in group])
        axes.xaxis.set_minor_formatter(NullFormatter())
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
    lines(axes, cells, [pixels(cell) for cell in cells], per_image=True)
    axes.set_xticks([pixels(cell) for cell in cells], [f"{cell.shape[1]}×{cell.shape[2]}" for cell in cells])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("size of the image in pixels (logarithmic)")
    axes.set_ylabel("time for each image")
    title = f"Time for each image against its size: model {SIZED}, {TOGETHER} together"
    finish(figure, run, title, [*names_in(cells), "forward"])
    return figure


def roofline(run: Run) -> Figure | None:
    """Operations per second against operations per byte, below what the machine can do."""
    points = [
        (cell, row)
        for cell in published(run)
        for row in cell.rows
        if row.times is not None and row.flops and row.traffic and row.name != "reference"
    ]
    peaks = [peak for _, row in points for peak in row.peaks]
    if not points or not peaks:
        return None
    peak, rates = statistics.median(peaks), run.facts["bandwidth"]
    figure, axes = pyplot.subplots(figsize=(8.4, 5.6), layout="constrained")
    intensities = [row.flops / row.traffic for _, row in points if row.flops and row.traffic]
    low = min([*intensities, *(peak / rate for rate in rates.values())]) / 3
    high = max([*intensities, *(peak / rate for rate in rates.values())]) * 3
    shown = list(dict.fromkeys(cell.model for cell, _ in points))
    for cell, row in points:
        assert row.flops
        assert row.traffic
        assert row.times
        colour = pyplot.get_cmap("cividis")(shown.index(cell.model) / max(1, len(shown) - 1))
        marker = MARKERS[shown.index(cell.model) % len(MARKERS)]
        at = row.flops / row.traffic, row.flops / row.times.median / 1e9
        axes.scatter(*at, s=marker_size(cell.images), color=colour, marker=marker, edgecolor="black", linewidth=0.6, zorder=3)
    for model in shown:
        colour = pyplot.get_cmap("cividis")(shown.index(model) / max(1, len(shown) - 1))
        marker = MARKERS[shown.index(model) % len(MARKERS)]
        axes.plot([], [], marker, color=colour, markeredgecolor="black", label=model)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis, between=True)
    axes.set_xlim(low, high)
    reached = [row.flops / row.times.median for _, row in points if row.flops and row.times]
    bottom = min(*reached, peak / 20) / 1.5
    axes.set_ylim(bottom / 1e9, max(*reached, peak) / 1e9 * 1.5)
    roofs(axes, peak, rates, (low, high), bottom)
    axes.set_xlabel("arithmetic intensity: operations for each byte between registers and caches (logarithmic)")
    axes.set_ylabel("GFLOP/s, float32 (logarithmic)")
    axes.grid(color="#eeeeee", linewidth=0.7)
    axes.legend(title="model (larger: more images)", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    finish(figure, run, "Roofline of the cpu engine", [])
    return figure


MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*")


def roofs(axes: Axes, peak: float, rates: dict[str, float], across: tuple[float, float], bottom: float) -> None:
    """The measured peak, and one slope for each level of memory, with their names along them."""
    low, high = across
    axes.plot([low, high], [peak / 1e9] * 2, color="black", linewidth=1.5)
    beside: dict[str, Any] = {"xytext": (-4, 4), "textcoords": "offset points", "ha": "right", "fontsize": 9}
    axes.annotate(f"multiply-adds: {peak / 1e9:.0f} GFLOP/s", (high, peak / 1e9), **beside)
    slowest = min(rates.values(), default=0)
    for (name, rate), dash in zip(rates.items(), ("-", "--", ":"), strict=False):
        axes.plot([low, peak / rate], [low * rate / 1e9, peak / 1e9], color="#555555", linestyle=dash, linewidth=1.2)
        begin = 1.15 * max(low, bottom / rate)
        below = rate == slowest  # else its name might lie upon that of the line above
        aside = 0.92 if below else 1.06
        axes.text(
            begin,
            begin * rate / 1e9 * aside,
            f"{name}: {rate / 1e9:.0f} GB/s",
            rotation=math.degrees(math.atan(rate / 1e9 * aside)),  # the slope in numbers of the axes
            rotation_mode="anchor",
            transform_rotates_text=True,
            va="top" if below else "bottom",
            fontsize=9,
        )


def marker_size(images: int) -> float:
    """Area of a point, in square points."""
    return 30 + 16 * math.log2(images)


def lines(axes: Axes, cells: Sequence[Cell], along: Sequence[float], per_image: bool) -> None:
    """One line for each row over the cells, with the range of the runs, and one for the forward."""
    for name in names_in(cells):
        found = [
            (x, row.times, cell.images) for x, cell in zip(along, cells, strict=True) if (row := cell.row(name)) and row.times
        ]
        if not found:
            continue
        colour, marker, _ = style(name)
        scale = [1 / n if per_image else 1.0 for _, _, n in found]
        middle = [times.median * s for (_, times, _), s in zip(found, scale, strict=True)]
        below = [(times.median - times.least) * s for (_, times, _), s in zip(found, scale, strict=True)]
        upper = [(times.most - times.median) * s for (_, times, _), s in zip(found, scale, strict=True)]
        xs = [x for x, _, _ in found]
        axes.errorbar(xs, middle, (below, upper), color=colour, marker=marker, markersize=6, linewidth=1.5, capsize=2)
    forwards = [(x, cell.tuned or cell.forward, cell.images) for x, cell in zip(along, cells, strict=True)]
    points = [(x, f.times.median / (n if per_image else 1)) for x, f, n in forwards if f is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=FORWARD[0], linestyle="--", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e5e5e5", linewidth=0.7)


def time_tick(value: float) -> str:
    """A power of ten of seconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size * 0.999:
            return f"{value / size:,.0f} {unit}"
    return f"{value:.0e} s"


def grid(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most `COLUMNS` in a row."""
    cols = min(COLUMNS, panels)
    rows = -(-panels // cols)
    figure, axes = pyplot.subplots(
        rows, cols, figsize=(PANEL[0] * cols, PANEL[1] * rows + 1.2), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for unused in flat[panels:]:
        unused.set_axis_off()
    return figure, flat[:panels]


def finish(figure: Figure, run: Run, title: str, names: Sequence[str]) -> None:
    """Title, the legend of the rows below, and the conditions in small print."""
    figure.suptitle(title, fontsize=12, fontweight="bold")
    handles = []
    for name in names:
        if name == "forward":
            handles.append(pyplot.Line2D([], [], color=FORWARD[0], linestyle="--", label=FORWARD[1]))
        else:
            colour, marker, text = style(name)
            handles.append(pyplot.Line2D([], [], color=colour, marker=marker, linewidth=1.2, label=text))
    facts = run.facts
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    conditions = f"{facts['processor']}, {threads}, commit {facts['commit']}, {facts['date']}"
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(3, len(handles)),
            frameon=False,
            fontsize=9,
            title=conditions,
            title_fontsize=8,
        )
    else:
        figure.supxlabel(conditions, fontsize=8)


def plain_log(axis: Any, between: bool = False) -> None:
    """Powers of ten as plain numbers; 2 and 5 between them, if asked."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if between else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def style(name: str) -> tuple[str, str, str]:
    """Colour, marker and name of a row; engines of the future look alike until they get their own."""
    return STYLES.get(name, (*OTHERS, f"pixelfast, {name}"))


def label(cell: Cell) -> str:
    return f"{cell.model}, {shape_text(cell)}, n = {cell.images}"


def shape_text(cell: Cell) -> str:
    return "×".join(map(str, cell.shape))


def compared(cell: Cell) -> list[Row]:
    return [row for row in cell.rows if row.status == "ok" and row.name != "naive"]


def largest(run: Run) -> list[Cell]:
    """Of each model the cell with the most images."""
    found = {cell.model: cell for cell in sorted(published(run), key=lambda cell: cell.images)}
    return [found[model] for model in dict.fromkeys(cell.model for cell in run.cells)]


def names_in(cells: Sequence[Cell], without: Sequence[str] = ()) -> list[str]:
    """The rows that have a time in any of the cells, from slow to fast."""
    here = {row.name for cell in cells for row in cell.rows if row.times is not None}
    return [name for name in ROWS if name in here and name not in without]
