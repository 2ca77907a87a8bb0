"""The speed report: its arithmetic, its gate, what it says, and one small run from end to end, without judging times."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import importable

from pixelfast.engines.native import engine as cpu


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.fixture
def results() -> ModuleType:
    from speed import results

    return results


def cell_of(results: ModuleType, **changes: Any) -> Any:
    """A cell of 4 images with the usual loop, one engine and both forwards."""
    rows = (
        results.Row("naive", "ok", times=results.Times((200.0,)), steps=5, gate=results.Gate(True)),
        results.Row(
            "cpu",
            "ok",
            times=results.Times((0.5, 0.4, 0.9)),
            tuned=results.Times((0.3, 0.6, 0.3)),
            peaks=(1e9, 2e9, 4e9),
            flops=5e8,
            traffic=1e8,
            memory=1_500_000,
            compile_s=2.0,
            gate=results.Gate(True, draws=100, differ=1, ties=1, parameter_error=1e-6),
        ),
    )
    cell = results.Cell(
        "a",
        (1, 7, 5),
        4,
        rows,
        results.Forward(results.Times((1.0, 2.0, 1.0)), 4, "NCHW", 1000),
        results.Forward(results.Times((0.6,)), 1, "channels_last"),
    )
    return replace(cell, **changes)


def run_of(results: ModuleType, *cells: Any, **facts: Any) -> Any:
    known = {
        "machine": "m", "versions": "v", "commit": "c", "date": "d", "processor": "p", "threads": 1, "peak_note": "",
        "instruction_set": "scalar", "torch_capability": "t", "peak_flops": 2e9, "bandwidth": {"L2": 1e9, "DRAM": 1e8},
    }  # fmt: skip
    return results.Run({**known, **facts}, {}, tuple(cells))


# ---------------------------------------------------------------- arithmetic


def test_equal_steps_are_multiplied(results: ModuleType) -> None:
    assert results.extrapolate([0, 3, 6], [0.5, 0.5, 0.5], height=7, per_row=10) == pytest.approx(0.5 * 70)


def test_steps_that_grow_with_the_row_are_summed(results: ModuleType) -> None:
    steps = {row: 0.1 * (row + 1) for row in range(7)}  # what cropped forwards cost
    total = 5 * sum(steps.values())
    assert results.extrapolate([0, 6], [steps[0], steps[6]], height=7, per_row=5) == pytest.approx(total)
    assert results.extrapolate([6, 2, 0], [steps[6], steps[2], steps[0]], height=7, per_row=5) == pytest.approx(total)


def test_rows_outside_those_measured_cost_as_much_as_the_nearest(results: ModuleType) -> None:
    assert results.extrapolate([1, 2], [1.0, 2.0], height=5, per_row=1) == pytest.approx(1 + 1 + 2 + 2 + 2)


@pytest.mark.parametrize("rows", [[], [7], [-1, 3]])
def test_steps_outside_the_image_are_refused(results: ModuleType, rows: list[int]) -> None:
    with pytest.raises(ValueError, match=r"rows of the image, 0 \.\. 6"):
        results.extrapolate(rows, [1.0] * len(rows), height=7, per_row=5)


def test_ratios(results: ModuleType) -> None:
    cell = cell_of(results)
    row = cell.row("cpu")
    assert cell.ratio_default(row) == pytest.approx(0.5 / 1.0)
    assert cell.ratio_tuned(row) == pytest.approx(0.3 / 0.6)  # the numerator that was measured beside the tuned forward
    assert cell.speedup(row) == pytest.approx(200 / 0.5)
    assert cell.images_per_second(row) == pytest.approx(4 / 0.5)
    assert row.fraction_of_peak() == pytest.approx(5e8 / 0.5 / 2e9)
    assert row.times.spread == pytest.approx(0.25 / 0.5)


def test_ratios_without_a_denominator(results: ModuleType) -> None:
    cell = cell_of(results, forward=None, tuned=None, rows=cell_of(results).rows[1:])
    row = cell.row("cpu")
    assert cell.ratio_default(row) is cell.ratio_tuned(row) is cell.speedup(row) is None
    assert replace(row, peaks=()).fraction_of_peak() is None


def test_results_survive_json(results: ModuleType) -> None:
    run = run_of(results, cell_of(results))
    assert results.run_from(json.loads(json.dumps(results.to_json(run)))) == run


@pytest.mark.parametrize(
    "data", [{}, {"schema": 2, "cells": []}, {"schema": 1, "cells": [{}], "facts": {}, "options": {}, "notes": []}]
)
def test_other_files_are_no_results(results: ModuleType, data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"results\.json"):
        results.run_from(data)


# ---------------------------------------------------------------- the gate


def test_a_row_whose_gate_fails_has_no_speed(results: ModuleType) -> None:
    from speed import report

    cell = cell_of(results)
    failed = results.withhold(cell.row("cpu"), results.Gate(False, reason="3 wrong draws"))
    assert (failed.status, failed.times, failed.tuned, failed.memory) == ("failed", None, None, None)
    cell = replace(cell, rows=(cell.row("naive"), failed))
    text = report.cell_text(cell)
    assert "FAILED" in text
    assert "cpu: FAILED: 3 wrong draws" in text
    assert "500 ms" not in text
    assert "FAILED: 3 wrong draws" in report.markdown(run_of(results, cell), None, [])
    assert results.withhold(cell_of(results).row("cpu"), results.Gate(True)).times is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-4, "200 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (110.4, "110 s"), (1234.0, "20.6 min"), (1e6, "11.6 days")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    from speed import texts

    assert texts.duration(seconds) == text


# ---------------------------------------------------------------- what is asked for


def test_sweeps_measure_what_is_missing(results: ModuleType) -> None:
    from speed import job, sweeps

    common = job.Job("", (1, 1, 1), (), (), runs=7, threads=1)
    rows = ("naive", "reference", "cpu", "cpu-fp16w")
    done = [replace(common, model="a", shape=(1, 28, 28), images=(1, 64, 256)), replace(common, model="b", images=(4,))]
    found = sweeps.jobs("short", common, ["a", "b"], rows, done)
    assert [(each.shape[1], each.images) for each in found] == [(28, (4,)), *((side, (4,)) for side in sweeps.SIDES["short"])]
    assert {(each.rows, each.sweep, each.verified) for each in found} == {(("cpu",), True, sweeps.VERIFIED)}
    assert [each.yardstick for each in found[:2]] == ["none", "default"]
    assert sweeps.jobs("none", common, ["a"], rows, []) == sweeps.jobs("long", common, ["a"], ("naive", "reference"), []) == []


# ---------------------------------------------------------------- the run as a whole


def test_growth_is_told(results: ModuleType) -> None:
    from speed import report

    def cell(images: int, seconds: float, **changes: Any) -> Any:
        row = replace(cell_of(results).row("cpu"), times=results.Times((seconds,)), tuned=None)
        return cell_of(results, images=images, rows=(row,), tuned=None, sweep=True, **changes)

    cells = [cell(1, 1.0), cell(64, 6.4), cell(4096, 512.0), cell(4, 2.0), cell(4, 32.0, shape=(1, 28, 20))]
    text = report.closing_text(run_of(results, *cells))
    found = [line.split() for line in text.splitlines()]
    assert ["a", "4,096", "cpu", "8.53", "min", "125", "ms", "1.25"] in found
    assert ["a", "1", "cpu", "1", "s", "1", "s", "10.00"] in found
    assert ["a", "28x20", "4", "cpu", "8", "s", "14.3", "ms", "2", "s"] in found
    assert ["a", "7x5", "4", "cpu", "500", "ms", "14.3", "ms", "2", "s"] in found
    whole = report.markdown(run_of(results, *cells), None, [])
    assert "## Time by the number of images: a" in whole
    assert "### a:" not in whole  # no table for each


def test_targets_are_compared(results: ModuleType) -> None:
    from speed import targets

    rows = (replace(cell_of(results).row("cpu"), flops=8e8),)
    cell = cell_of(results, images=16, shape=(1, 28, 28), rows=rows)
    found = targets.table(run_of(results, cell))
    assert found[1:] == [("a", "16", "cpu", "0.50", "0.50", "80%", "75%", "met")]
    slow = replace(cell.row("cpu"), flops=7e8)
    assert targets.table(run_of(results, replace(cell, rows=(slow,))))[1][-1] == "MISSED"
    late = replace(slow, tuned=results.Times((0.4,)), flops=8e8)
    assert targets.table(run_of(results, replace(cell, rows=(late,))))[1][-1] == "MISSED"
    for other in ({"model": "vq"}, {"images": 17}, {"shape": (1, 10, 10)}):
        assert targets.table(run_of(results, replace(cell, **other))) == found[:1]
    assert targets.compile_lines(run_of(results, cell)) == ["compiling a takes 2 s, at most 5 s: met"]


# ---------------------------------------------------------------- comparison


def test_changes_beyond_the_spread_are_flagged(results: ModuleType) -> None:
    from speed import baseline

    def run(*seconds: float) -> Any:
        row = replace(cell_of(results).row("cpu"), times=results.Times(seconds))
        return run_of(results, cell_of(results, rows=(row,)))

    then = run(1.0, 1.1, 1.2)
    for now, verdict, ratio in (
        (run(0.8, 0.9, 0.7), "faster", 0.8 / 1.1),
        (run(1.3, 1.5, 1.4), "slower", 1.4 / 1.1),
        (run(1.15, 1.5, 1.4), "same", 1.4 / 1.1),
    ):
        forward, change = baseline.compare(then, now)
        assert (forward.row, forward.verdict, forward.ratio) == ("forward", "same", 1.0)
        assert (change.row, change.verdict) == ("cpu", verdict)
        assert change.ratio == pytest.approx(ratio)
    assert "1 faster, 0 slower, 1 within the spread" in baseline.text(then, run(0.1))


def test_a_comparison_says_what_makes_it_doubtful(results: ModuleType) -> None:
    from speed import baseline

    then = run_of(results, cell_of(results))
    failed = results.withhold(cell_of(results).row("cpu"), results.Gate(False, reason="wrong"))
    now = run_of(results, cell_of(results, rows=(failed,)), threads=2, peak_flops=1e9, busy_processors=1.3)
    text = baseline.text(then, now)
    assert "the threads differs: 1 then, 2 now" in text
    assert "0.50 times the multiply-adds of then" in text
    assert "other programs used 1.3 processors now" in text
    assert "processors then" not in text
    assert "GONE: a, n = 4, cpu: was measured then, now failed" in text
    other = run_of(results, cell_of(results, model="b"))
    assert "no row was measured in both runs" in baseline.text(then, other)


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "a,lattise"], "there is no model 'lattise': did you mean 'lattice'? models are a, b, "),
        (["--engines", "gpu4"], "there is no engine or row 'gpu4'"),
        (["--n", "0"], "must be a positive integer, got '0'"),
        (["--threads", "-1"], "must be a positive integer"),
        (["--baseline", "nowhere.json"], "--baseline nowhere.json cannot be compared with"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    import run

    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_failed_row_gives_an_exit_code(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import run

    failed = results.withhold(cell_of(results).row("cpu"), results.Gate(False, reason="3 wrong draws"))
    monkeypatch.setattr(run.machine, "facts", lambda threads: {**run_of(results).facts, "busy_processors": 1.5})
    arguments = ["--quick", "--models", "a", "--out", str(tmp_path), "--no-plots"]
    assert run.main(arguments, start=lambda job: [cell_of(results, rows=(failed,))]) == 1
    told = capsys.readouterr()
    assert "FAILED: a, 4 images, cpu: 3 wrong draws" in told.err
    assert "OTHER PROGRAMS USE 1.5 PROCESSORS" in told.out
    assert run.main(arguments, start=lambda job: [cell_of(results)]) == 0


def test_a_process_that_dies_gives_failed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import run
    from speed import worker

    job = worker.Job("no such model", (1, 7, 5), (2, 3), ("naive", "cpu"), runs=1, threads=1)
    cells = run.in_process(job)
    assert [(cell.images, row.name, row.status) for cell in cells for row in cell.rows] == [
        (2, "naive", "failed"), (2, "cpu", "failed"), (3, "naive", "failed"), (3, "cpu", "failed"),
    ]  # fmt: skip


def test_rows_of_several_processes_stand_together(results: ModuleType) -> None:
    import run

    alone = cell_of(results, rows=(results.Row("netket", "ok"),), forward=None, tuned=None)
    (cell,) = run.merged([cell_of(results), alone])
    assert [row.name for row in cell.rows] == ["naive", "netket", "cpu"]
    assert cell.forward is not None


def test_quick_runs_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import run

    out = tmp_path / "first"
    engines = "naive,naive-cropped,reference" + ("" if cpu.unavailable_reason() else ",cpu")
    arguments = ["--quick", "--models", "lattice", "--n", "2", "--runs", "1", "--threads", "1", "--engines", engines]
    assert run.main([*arguments, "--out", str(out)]) == 0
    found = run.read_baseline(out)
    (cell,) = found.cells
    assert (cell.model, cell.shape, cell.images) == ("lattice", (1, 10, 10), 2)
    assert ",".join(row.name for row in cell.rows) == engines
    for row in cell.rows:
        assert (row.status, row.gate.ok, row.gate.differ) == ("ok", True, row.gate.ties)
        assert row.times.median > 0
        assert row.extrapolated == (row.name != "cpu")
    assert cell.row("reference").gate.draws == 2 * 2 * 10
    assert math.isfinite(cell.ratio_default(cell.row("reference")))
    assert found.facts["commit"]
    text = (out / "report.md").read_text()
    assert "| ~" in text
    assert "| 0 of 40 |" in text
    assert cell.ratio_tuned(cell.row("reference")) is None  # which is there to be compared with
    if cell.tuned is not None and cell.row("cpu") is not None:  # there is glibc
        assert cell.ratio_tuned(cell.row("cpu")) > 0
    capfd.readouterr()
    second = cell_of(sys.modules["speed.results"])
    arguments += ["--out", str(tmp_path / "second"), "--baseline", str(out / "results.json")]
    assert run.main(arguments, start=lambda job: [cell, second]) == 0
    assert "0 faster, 0 slower" in capfd.readouterr().out
    assert "Compared with" in (tmp_path / "second" / "report.md").read_text()


def test_pictures(results: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from speed import plots, sweeps

    cells = [cell_of(results, images=images) for images in (1, sweeps.TOGETHER)]
    cells.append(cell_of(results, shape=(1, 14, 10)))
    assert plots.draw(tmp_path, run_of(results, *cells)) == [
        "speedup.png", "time_by_images.png", "time_by_size.png", "roofline.png",
    ]  # fmt: skip
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("speedup.png", "roofline.png"))
    bare = cell_of(results, rows=(results.Row("cpu", "failed", "wrong"),), forward=None, tuned=None)
    assert plots.draw(tmp_path, run_of(results, bare)) == []
