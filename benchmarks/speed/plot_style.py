"""What the pictures of a report share: colours, ticks on logarithmic axes, legends.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; each row also has a marker of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from speed.results import Run

STYLES: dict[str, tuple[str, str, str]] = {
    "naive": ("#000000", "o", "usual loop (extrapolated)"),
    "naive-cropped": ("#56B4E9", "v", "usual loop, rows so far (extrapolated)"),
    "naive-compiled": ("#CC79A7", "^", "usual loop, torch.compile (extrapolated)"),
    "netket": ("#009E73", "P", "NetKet, cached"),
    "reference": ("#E69F00", "s", "eager PyTorch, cached"),
    "cpu": ("#D55E00", "D", "pixelfast, cpu"),
    "cpu-fp16w": ("#7A3B00", "X", "pixelfast, cpu, fp16w"),
}
"""Colour, marker and name of each row."""
OTHERS = ("#0072B2", "*")
FORWARD = ("#0072B2", "one forward over them, eager PyTorch")
PANEL = (3.9, 3.1)
COLUMNS = 3
LEAST_APART = 1.6
"""Labels of a logarithmic axis stand at numbers at least so many times larger than the one before."""
DPI = 150


def style(name: str) -> tuple[str, str, str]:
    """Colour, marker and name of a row; engines of the future look alike until they get their own."""
    return STYLES.get(name, (*OTHERS, f"pixelfast, {name}"))


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
            handles.append(pyplot.Line2D([], [], color=FORWARD[0], marker=".", linestyle="--", label=FORWARD[1]))
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


def only_ticks(axes: Axes, labels: dict[int, str]) -> None:
    """Ticks along x at these numbers and nowhere else; a number that is close to the one before it goes without a label."""
    shown: list[int] = []
    for number in sorted(labels):
        if not shown or number >= LEAST_APART * shown[-1]:
            shown.append(number)
    axes.set_xticks(shown, [labels[number] for number in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def time_tick(value: float) -> str:
    """A power of ten of seconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size * 0.999:
            return f"{value / size:,.0f} {unit}"
    return f"{value:.0e} s"
