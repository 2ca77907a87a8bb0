"""The report as text: tables for the terminal and for Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speed import baseline, sweeps, targets
from speed.models import MODELS
from speed.results import Cell, Forward, Row, Run
from speed.rows import ROWS, USUAL
from speed.texts import aligned, duration, markdown_table, significant, size

COLUMNS = (
    "row", "time", "spread", "runs", "images/s", "speed-up", "R", "R tuned", "of peak", "memory", "compile", "error",
    "draws that differ",
)  # fmt: skip

LEGEND = """\
- **time**: median to sample all images, as a user calls it, warm; `~`: extrapolated from steps that were measured.
- **spread**: half of the range of the runs; **runs**: how many there were, fewer where they take long.
- **speed-up**: over the usual loop, one full forward for each sub-pixel, in the batch that suits PyTorch best.
- **R**: time to sample over the time of one eager float32 forward of the module over the same images, same threads, best batch.
  **R tuned**: the same against the better of NCHW and channels_last, once glibc has been told to keep large blocks
  (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD at 1 GiB). Each model has a process of its own, in which everything is first
  measured as it comes; then the allocator is tuned, and sampling and forward take turns again.
- **of peak**: operations of the program (two for each live multiply-add) over those that the same threads reach in a loop of
  multiply-adds in registers, measured next to each run.
- **memory**: how far sampling raises the resident memory of the process at its highest, weights left out.
- **compile**: once for a model, not part of the time.
- **error**: largest error of a log-probability against one forward of the module over the finished images, as
  `pixelfast.verify.distances` defines it; of loops that run the module's own layers, of a logit. Both are relative to the
  standard deviation. **draws that differ**: from what the module would have drawn from the same random numbers; a tie is a
  number within 1e-5 of an edge of the distribution function. A row that fails this check shows no speed. A lower precision is
  held to the error that it states instead, and to the draws that its own logits give.
"""


def heading(facts: dict[str, Any]) -> str:
    """Machine, versions, commit, date, and what the machine can do."""
    lines = [f"{name}: {facts[name]}" for name in ("machine", "versions", "commit", "date")]
    lines += [f"GPU: {facts['gpu']}"] if "gpu" in facts else []
    lines.append(f"instruction set: {facts['instruction_set']} (pixelfast), {facts['torch_capability']} (torch)")
    peak, rates = facts["peak_flops"], facts["bandwidth"]
    if peak:
        reads = ", ".join(f"{name} {rate / 1e9:.0f} GB/s" for name, rate in rates.items())
        lines.append(f"measured peak: {peak / 1e9:.0f} GFLOP/s float32 multiply-adds; reads: {reads}; {_threads(facts)}")
    else:
        lines.append(f"measured peak: unknown ({facts['peak_note']})")
    return "\n".join(lines)


def _threads(facts: dict[str, Any]) -> str:
    return f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"


def cell_title(cell: Cell) -> str:
    """Model, images and size."""
    images = f"{cell.images} image{'s' if cell.images > 1 else ''}"
    return f"{cell.model}: {images} of {'x'.join(map(str, cell.shape))}"


def forward_text(cell: Cell) -> str:
    """The yardsticks on one line."""
    parts = []
    for name, forward in (("eager as it comes", cell.forward), ("eager tuned", cell.tuned)):
        if forward is not None:
            parts.append(f"{name} {duration(forward.times.median)} ±{forward.times.spread:.0%} ({_how(forward)})")
    return "one forward over them: " + "; ".join(parts) if parts else "no forward was measured"


def _how(forward: Forward) -> str:
    memory = "" if forward.memory is None else f", {size(forward.memory)}"
    return f"{forward.layout}, {forward.batch} at once{memory}, {len(forward.times.runs)} runs"


def table(cell: Cell) -> list[tuple[str, ...]]:
    """The cell's rows as text, the header first."""
    return [COLUMNS, *(row_texts(cell, row) for row in cell.rows)]


def row_texts(cell: Cell, row: Row) -> tuple[str, ...]:
    """One row; without a time it says why."""
    if row.status != "ok" or row.times is None:
        return (row.name, f"{row.status.upper()}: {row.reason}", *[""] * (len(COLUMNS) - 2))
    times = row.times
    return (
        row.name,
        ("~" if row.extrapolated else "") + duration(times.median),
        f"±{times.spread:.0%}",
        str(len(times.runs)) + (f" x {row.steps} steps" if row.extrapolated else ""),
        "" if (rate := cell.images_per_second(row)) is None else significant(rate),
        times_text(cell.speedup(row), row),
        "" if row.name in USUAL else ("~" if row.extrapolated else "") + _two(cell.ratio_default(row)),
        _two(cell.ratio_tuned(row)),
        "" if (result := row.fraction_of_peak()) is None else f"{result:.0%}",
        "" if row.memory is None else size(row.memory),
        "" if row.compile_s is None else duration(row.compile_s),
        *_correctness(row),
    )


def times_text(value: float | None, row: Row) -> str:
    """A speed-up, as rough as the extrapolated loop is; 1 for the loop itself."""
    if value is None:
        return ""
    return "1" if row.name == "naive" else "~" + significant(value, 2)


def _correctness(row: Row) -> tuple[str, str]:
    gate = row.gate
    if gate is None or (gate.parameter_error is None and not gate.draws):
        return ("by definition", "") if row.name == "naive" else ("", "")
    error = "" if gate.parameter_error is None else f"{gate.parameter_error:.0e}"
    if not gate.draws:
        return error, ""
    ties = f" ({gate.ties} ties)" if gate.ties else ""
    return error, f"{gate.differ} of {gate.draws:,}{ties}"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 100 else significant(value)


def cell_text(cell: Cell) -> str:
    """A cell for the terminal. Reasons of rows without a time stand below the table."""
    lines = ["", cell_title(cell), f"  {forward_text(cell)}" if cell.forward else "  (a process of its own)"]
    rows = table(cell)
    told = [(row[0], row[1]) for row in rows if row[1].startswith(("FAILED", "SKIPPED"))]
    lines += aligned([(row[0], row[1].split(":")[0], *row[2:]) for row in rows])
    lines += [f"  {name}: {reason}" for name, reason in told]
    lines += [f"  {row.name}: {row.note}" for row in cell.rows if row.note]
    return "\n".join(lines)


def markdown(run: Run, before: Run | None, pictures: Sequence[str]) -> str:
    """The whole report."""
    lines = ["# Speed report", "", *(f"- {line}" for line in heading(run.facts).splitlines())]
    busy = run.facts.get("busy_processors")
    if busy is not None:
        lines.append(f"- processors in use by other programs when it began: {busy:.2f}")
    lines += [f"- {note}" for note in run.notes]
    lines += ["", *(f"![{_stem(name)}]({name})" for name in pictures)]
    lines += ["", "## What the columns mean", "", LEGEND]
    lines += ["Rows:", "", *(f"- `{name}`: {ROWS[name]}" for name in _named(run)), ""]
    lines += closing(run)
    shown = [cell for cell in run.cells if not cell.sweep]
    for model in dict.fromkeys(cell.model for cell in shown):
        lines += [f"## {model}", "", f"{MODELS[model].note}." if model in MODELS else "", ""]
        for cell in shown:
            if cell.model == model:
                lines += [f"### {cell_title(cell)}", "", _sentence(forward_text(cell)), "", *markdown_table(table(cell)), ""]
                lines += [f"`{row.name}`: {row.note}\n" for row in cell.rows if row.note]
    if before is not None:
        lines += [f"## Compared with {before.facts.get('commit')} of {before.facts.get('date')}", ""]
        lines += [f"- BEWARE: {warning}" for warning in baseline.warnings(before, run)]
        lines += [f"- GONE: {line}" for line in baseline.missing(before, run)]
        lines += ["", *markdown_table(baseline.table(baseline.compare(before, run)))]
    return "\n".join(lines).rstrip() + "\n"


def closing(run: Run) -> list[str]:
    """What the run says as a whole, in Markdown: targets, and how times grow."""
    lines: list[str] = []
    for title, found, notes in _sections(run):
        lines += [f"## {title}", "", *markdown_table(found), "", *(f"- {note}" for note in notes), *([""] if notes else [])]
    return lines


def closing_text(run: Run) -> str:
    """The same for the terminal."""
    lines: list[str] = []
    for title, found, notes in _sections(run):
        lines += ["", title, *aligned(found), *(f"  {note}" for note in notes)]
    return "\n".join(lines)


def _sections(run: Run) -> list[tuple[str, list[tuple[str, ...]], list[str]]]:
    """Titles, tables and remarks."""
    result = [("Targets", targets.table(run), targets.compile_lines(run))]
    for group in sweeps.by_images(run):
        if any(cell.sweep for cell in group) and len(sweeps.images_table(group)) > 2:
            result.append((f"Time by the number of images: {group[0].model}", sweeps.images_table(group), []))
    if cells := sweeps.by_size(run):
        result.append(("Time by the size of the images", sweeps.size_table(cells), []))
    return [section for section in result if len(section[1]) > 1]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0].replace("_", " ")


def _named(run: Run) -> list[str]:
    here = {row.name for cell in run.cells for row in cell.rows}
    return [name for name in ROWS if name in here]
