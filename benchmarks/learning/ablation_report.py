"""The report of `ablations.py`: a table and a plot for each, with what the spread over seeds allows to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

HEAD = """# Ablations

{machine}; {versions}; commit {commit}; {date}.

Bits/dim: -log2 p(image) / (C H W), averaged over the held-out images, after the last epoch, by the averaged weights: mean over
seeds, and the range in brackets. A seed fixes the first weights and the order of the images; the difference is to the first
variant. "Weights" leaves out those that a mask hides. Two variants are called separate where their ranges do not overlap, which
for few seeds is a hint and no proof. "Past not seen": of all pairs of a pixel and an earlier one, those in which the first does
not depend on the second. Models are small and runs are short: what learns faster and what is better in the end look alike here.
"""

QUICK = "\n**A quick run: these numbers mean nothing.**\n"

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7")
MARKERS = ("o", "D", "s", "^", "v")


def write_report(folder: Path, facts: Mapping[str, str], results: Mapping[str, Mapping[str, Any]], quick: bool) -> None:
    """Write `report.md` and a plot for each ablation."""
    lines = [HEAD.format(**facts), QUICK if quick else ""]
    for name, found in results.items():
        lines += ["\n", section(name, found)]
        if plot(folder / f"{name}.png", found, facts):
            lines.append(f"\n![{found['title']}: held-out bits/dim by epoch]({name}.png)\n")
    (folder / "report.md").write_text("".join(lines), encoding="utf-8")


def section(name: str, found: Mapping[str, Any]) -> str:
    """Title, conditions, table and one sentence for each pair of variants."""
    variants, options = found["variants"], found["options"]
    seeds = len(variants[0]["runs"])
    blind = "unseen" in variants[0]
    shape = "×".join(map(str, found["shape"]))
    lines = [
        f"## {found['title']}\n\n`python benchmarks/learning/ablations.py {name}`: {found['images']:,} ",
        f"images of {found['data']} ({shape}, {found['levels']} levels), {found['held_out']:,} held out; ",
        f"{counted(options['epochs'], 'epoch')}, batches of {options['batch_size']}, learning rate {options['lr']:g} ",
        f"falling to 0, {counted(seeds, 'seed')}. Independent ",
        f"pixels with the frequencies of each place: {found['independent_pixels']:.3f}.\n\n",
        f"| variant | weights | {'past not seen | ' if blind else ''}trained on | held out | difference |\n",
        f"| --- | --- | {'--- | ' if blind else ''}--- | --- | --- |\n",
    ]
    for place, variant in enumerate(variants):
        unseen = f"{variant['unseen']:.0%} | " if blind else ""
        difference = "" if not place else f"{fmean(differences(variants[0], variant)):+.3f}"
        trained = fmean(run["trained_on"][-1] for run in variant["runs"])
        lines.append(
            f"| {variant['name']} | {variant['weights']:,} | {unseen}{trained:.3f} | {spread(last(variant))} | {difference} |\n"
        )
    lines += ["\n", *(verdict(base, variant) for place, variant in enumerate(variants) for base in variants[:place])]
    return "".join(lines)


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def last(variant: Mapping[str, Any]) -> list[float]:
    """Held-out bits/dim of every seed after the last epoch."""
    return [run["held_out"][-1] for run in variant["runs"]]


def differences(base: Mapping[str, Any], variant: Mapping[str, Any]) -> list[float]:
    """By seed: how much more bits/dim than the first variant."""
    return [b - a for a, b in zip(last(base), last(variant), strict=True)]


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{fmean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else f"{values[0]:.3f}"


def verdict(base: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    """What may be said of a variant, given the spread over seeds."""
    first, second = last(base), last(variant)
    if len(first) < 2:
        return f"- {variant['name']} and {base['name']}: one seed says nothing about the spread.\n"
    better = "better" if fmean(second) < fmean(first) else "worse"
    if max(first) < min(second) or max(second) < min(first):
        return f"- {variant['name']}: {better} than {base['name']}, and separate from it.\n"
    return f"- {variant['name']}: not separate from {base['name']} in runs as short as these.\n"


def plot(file: Path, found: Mapping[str, Any], facts: Mapping[str, str]) -> bool:
    """Held-out bits/dim against epochs: the mean over seeds as a line, their range as a band. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    from speed.plot_style import DPI

    figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
    ends: list[float] = []
    for variant, colour, marker in zip(found["variants"], COLOURS, MARKERS, strict=False):
        by_epoch = list(zip(*(run["held_out"] for run in variant["runs"]), strict=True))
        epochs, mean = range(1, len(by_epoch) + 1), [fmean(values) for values in by_epoch]
        low, high = [min(values) for values in by_epoch], [max(values) for values in by_epoch]
        axes.plot(epochs, mean, color=colour, marker=marker, markersize=4, linewidth=1.5, label=variant["name"])
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        ends += [value for values in by_epoch[len(by_epoch) // 5 :] for value in values]
    margin = 0.08 * (max(ends) - min(ends)) or 0.1
    axes.set_ylim(min(ends) - margin, max(ends) + margin)  # the first epochs would press the others together
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"held-out bits/dim, {found['data']}")
    axes.grid(color="#e5e5e5", linewidth=0.7)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(found["title"], fontsize=12, fontweight="bold")
    seeds = counted(len(found["variants"][0]["runs"]), "seed")
    figure.supxlabel(f"mean and range over {seeds}; commit {facts['commit']}, {facts['date']}", fontsize=8)
    figure.savefig(file, dpi=DPI)
    pyplot.close(figure)
    return True
