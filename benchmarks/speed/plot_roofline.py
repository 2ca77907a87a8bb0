"""The roofline: operations per second against operations per byte, below what the machine can do."""

from __future__ import annotations

import math
import statistics
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from speed.plot_style import finish, plain_log
from speed.results import Run
from speed.sweeps import published

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*")


def roofline(run: Run) -> Figure | None:
    """Operations per second against operations per byte, below what the machine can do."""
    cells = [(cell, cell.row("cpu")) for cell in published(run) if not cell.sweep]
    points = [  # operations per byte and per second
        (cell, row.flops / row.traffic, row.flops / row.times.median)
        for cell, row in cells
        if row is not None and row.times is not None and row.flops and row.traffic
    ]
    peaks = [peak for _, row in cells if row is not None for peak in row.peaks]
    if not points or not peaks:
        return None
    peak, rates = statistics.median(peaks), run.facts["bandwidth"]
    figure, axes = pyplot.subplots(figsize=(8.4, 5.6), layout="constrained")
    ends = [*(intensity for _, intensity, _ in points), *(peak / rate for rate in rates.values())]
    low, high = min(ends) / 3, max(ends) * 3
    shown = list(dict.fromkeys(cell.model for cell, *_ in points))
    looks = {
        model: (pyplot.get_cmap("cividis")(place / max(1, len(shown) - 1)), MARKERS[place % len(MARKERS)])
        for place, model in enumerate(shown)
    }
    for cell, intensity, reached in points:
        colour, marker = looks[cell.model]
        size = marker_size(cell.images)
        axes.scatter(intensity, reached / 1e9, size, color=colour, marker=marker, edgecolor="black", linewidth=0.6, zorder=3)
    for model, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, markeredgecolor="black", label=model)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis, between=True)
    axes.set_xlim(low, high)
    rows = [reached for _, _, reached in points]
    bottom = min(*rows, peak / 10) / 1.5
    axes.set_ylim(bottom / 1e9, max(*rows, peak) / 1e9 * 1.5)
    roofs(axes, peak, rates, (low, high), bottom)
    axes.set_xlabel("arithmetic intensity: operations for each byte between registers and caches (logarithmic)")
    axes.set_ylabel("GFLOP/s, float32 (logarithmic)")
    axes.grid(color="#eeeeee", linewidth=0.7)
    axes.legend(title="model (larger: more images)", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    finish(figure, run, "Roofline of the cpu engine", [])
    return figure


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
