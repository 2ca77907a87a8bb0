"""What the speed report measures: engines once they are verified, the usual loop, forwards, memory, the machine."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import importable
from torch import nn

import pixelfast
from pixelfast import Categorical
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.reference import run as interpret


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import models
    from speed.borrowed import DataMaskedConv2d

    def build(shape: Any) -> nn.Module:
        return nn.Sequential(DataMaskedConv2d("A", 1, 6, 5), nn.ReLU(), nn.Conv2d(6, 4, 1))

    entry = models.Model(build, (1, 7, 5), "for tests", (3,), head=Categorical(4))
    monkeypatch.setitem(models.MODELS, "tiny", entry)


def test_an_engine_that_draws_wrong_images_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import worker

    tiny_model(monkeypatch)
    job = worker.Job("tiny", (1, 7, 5), (3,), ("naive", "reference"), runs=1, threads=1, yardstick="default")
    (good,) = worker.Worker(job).run()
    assert [row.status for row in good.rows] == ["ok", "ok"]
    assert good.row("reference").gate.draws == 3 * 2 * 5
    plain = pixelfast.Sampler.sample

    def wrong(self: Any, *args: Any, **options: Any) -> Any:
        images = plain(self, *args, **options)
        return (images + 1) % self.head.levels

    monkeypatch.setattr(pixelfast.Sampler, "sample", wrong)
    (bad,) = worker.Worker(job).run()
    assert [row.status for row in bad.rows] == ["ok", "failed"]
    assert "NOT exact" in bad.row("reference").reason
    assert bad.row("reference").times is None


def test_an_engine_that_draws_other_images_when_timed_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import engine_rows, worker

    tiny_model(monkeypatch)
    measure = worker.Worker(worker.Job("tiny", (1, 7, 5), (3,), ("reference",), runs=1, threads=1, yardstick="none"))
    plain, calls = engine_rows.PartDrawing.__call__, []

    def drifting(self: Any) -> float:
        seconds = plain(self)
        calls.append(1)
        if len(calls) > 1:
            self.last = self.last.clone().fill_(0)
        return seconds

    monkeypatch.setattr(engine_rows.PartDrawing, "__call__", drifting)
    (cell,) = measure.run()
    assert "other images than the verified one" in cell.row("reference").reason


def test_the_steps_of_the_usual_loop_are_spread() -> None:
    from speed.usual_loop import spread

    assert spread(5, 28, 28, 3) == [(0, 2, 0), (7, 8, 1), (14, 14, 2), (20, 19, 0), (27, 25, 1)]
    assert [row for row, _, _ in spread(5, 3, 4, 1)] == [0, 1, 2]
    assert [row for row, _, _ in spread(1, 9, 4, 1)] == [0, 8]
    assert spread(4, 1, 1, 1) == [(0, 0, 0)]


@pytest.mark.parametrize("crop", [False, True])
def test_the_usual_loop_draws_what_it_should(monkeypatch: pytest.MonkeyPatch, crop: bool) -> None:
    import pixelfast
    from pixelfast.inputs.conditions import Conditions
    from speed import models
    from speed.usual_loop import UsualLoop

    tiny_model(monkeypatch)
    module, head = models.MODELS["tiny"].make((1, 7, 5))
    sampler = pixelfast.compile(module, (1, 7, 5), head, engine="reference")
    layout = sampler.prepare().analysis.layout
    loop = UsualLoop(module, head, layout, Conditions(), pixelfast.distributions.noise.uniforms(3, 0, 2, (1, 7, 5)), crop)
    for row in range(7):
        for col in range(5):
            loop.step(row, col, 0)
    assert torch.equal(loop.values.byte(), sampler.sample(2, seed=3))


def test_the_usual_loop_of_a_mixture_depends_on_the_channels_before() -> None:
    from mixture_cases import Masked

    import pixelfast
    from pixelfast.inputs.conditions import Conditions
    from speed.usual_loop import UsualLoop

    shape, head = (3, 7, 5), pixelfast.MixtureOfLogistics(9, 2, 3)
    module = Masked(head)
    sampler = pixelfast.compile(module, shape, engine="reference")
    layout = sampler.prepare().analysis.layout
    loop = UsualLoop(module, head, layout, Conditions(), pixelfast.distributions.noise.uniforms(3, 0, 2, shape))
    for place in np.ndindex(7, 5, 3):
        loop.step(*place)
    assert torch.equal(loop.values.byte(), sampler.sample(2, seed=3))


def test_what_an_engine_refuses_is_a_row_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import pixelfast
    from speed import models
    from speed.engine_rows import Engines
    from speed.job import Job

    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(x, (1, 0))[..., :-1].expand(-1, 6, -1, -1).sort(1)[0]

    head = pixelfast.MixtureOfLogistics(5, 2, 1)
    entry = models.Model(lambda shape: Sorting(), (1, 7, 5), "for tests", (3,), head=head)
    monkeypatch.setitem(models.MODELS, "sorting", entry)
    job = Job("sorting", (1, 7, 5), (3,), ("reference",), 1, 1, 1.0)
    found = Engines(job, entry, *entry.make((1, 7, 5))).rows["reference"]
    assert found.status == "skipped"
    assert "aten.sort" in found.reason


def test_turns_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import measure

    seen: list[str] = []
    tasks = {name: lambda name=name: seen.append(name) for name in ("numerator", "denominator", "seldom")}
    monkeypatch.setattr(measure, "timed", lambda task: (task() or 1.0, 1.0))
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "BRIEF", 1.5)
    times, peaks = measure.turns(tasks, 7, beside=lambda: seen.append("peak") or 5.0, brief=["seldom"])
    assert seen[:6] == ["peak", "numerator", "peak", "denominator", "peak", "seldom"]
    assert {name: len(found.runs) for name, found in times.items()} == {"numerator": 7, "denominator": 7, "seldom": 2}
    assert peaks["numerator"] == (5.0,) * 7


@pytest.mark.parametrize(("budget", "runs"), [(1000.0, 7), (9.0, 5), (0.0, 3)])
def test_a_budget_that_is_spent_leaves_three_runs(monkeypatch: pytest.MonkeyPatch, budget: float, runs: int) -> None:
    from speed import measure

    monkeypatch.setattr(measure, "timed", lambda task: (1.0, 1.0))
    monkeypatch.setattr(measure, "PAUSE", 0)
    times, _ = measure.turns({"one": lambda: None, "other": lambda: None}, 7, budget=budget)
    assert {len(found.runs) for found in times.values()} == {runs}


def test_a_task_that_does_a_part_tells_the_whole() -> None:
    from speed import measure

    times, _ = measure.turns({"part": lambda: 100.0}, 2)
    assert times["part"].runs == (100.0, 100.0)
    assert measure.timed(lambda: 100.0)[1] < 100


def test_the_fastest_batch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import yardsticks

    sizes: list[int] = []
    cost = {1: 1.0, 4: 2.0, 16: 12.0, 20: 30.0, 64: 99.0}

    def try_batch(task: Any, batch: int, look_at_memory: bool) -> Any:
        task()
        return yardsticks.Tried(cost[batch] / batch, 1000 if look_at_memory else None)

    def tried(images: int, **options: Any) -> dict[int, Any]:
        result: dict[int, Any] = {}
        yardsticks.try_batches(sizes.append, images, result, **options)
        return result

    monkeypatch.setattr(yardsticks, "try_batch", try_batch)
    result = tried(20, memory=1 << 40)
    assert sizes == [1, 4, 16, 20]
    assert yardsticks.fastest(result, 20) == 4
    assert yardsticks.fastest(result, 3) == 1  # more than there are images
    assert yardsticks.fastest(result, 20, seconds=1.5) == 1  # 4 at once take longer
    assert yardsticks.fastest(result, 20, seconds=0.1) == 1
    assert set(tried(20, memory=4000)) == {1}  # four times as many images would take more than half of the memory
    assert set(tried(20, most=16)) == {1, 4, 16}
    sizes.clear()
    yardsticks.try_batches(sizes.append, 64, result)
    assert sizes == [64]  # the others are known


def test_a_forward_in_batches_sees_every_image_with_its_condition() -> None:
    from pixelfast.inputs.conditions import Conditions
    from speed.yardsticks import EagerForward

    class Recorder(nn.Module):
        def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            seen.append((x[:, 0, 0, 0].tolist(), label.tolist()))
            return x

    seen: list[Any] = []
    images = torch.arange(5.0).view(5, 1, 1, 1)
    forward = EagerForward(Recorder(), images, Conditions((torch.arange(5),)))
    forward.split(2)
    forward()
    assert seen == [([0.0, 1.0], [0, 1]), ([2.0, 3.0], [2, 3]), ([4.0], [4])]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="there is no /proc here")
def test_peak_memory() -> None:
    from speed import measure

    kept = []
    found = measure.peak_memory(lambda: torch.ones(20_000_000))  # 80 MB
    also = measure.peak_memory(lambda: kept.append(torch.ones(20_000_000)))
    if found is None or also is None:
        pytest.skip("this system does not reset the high-water mark")
    assert 70e6 < found.peak < 120e6
    assert found.kept < 20e6
    assert 70e6 < also.kept < 120e6


def test_the_traffic_of_a_program() -> None:
    from micro import tiny
    from speed import roofline

    made = tiny.product(inputs=3, outputs=5, taps=2, per_row=False, copies=1)
    pixels = tiny.HEIGHT * tiny.WIDTH
    weights = 2 * 3 * 5 + 5
    fills = 3 + 1 + 1  # of the source and the parameters, and the read of the draw
    expected = 4 * pixels * (weights + 6 * (2 * 3 + 5 + fills))
    assert roofline.traffic(made.program, images=6, threads=1) == expected
    assert roofline.traffic(made.program, images=6, threads=4) == expected + 4 * pixels * 3 * weights


def test_lower_precisions_are_measured_where_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    import run
    from speed import rows

    monkeypatch.setattr(rows, "runs_here", lambda name: True)

    def jobs(*arguments: str) -> Any:
        args = run.arguments().parse_args(["--sweep", "none", *arguments])
        names = args.models or ["a", "b"]
        return {job.model: job for job in run.jobs(args, names, rows.find(args.engines), run.common_job(args))}

    found = jobs()
    assert "cpu-fp16w" in rows.LOWER
    assert set(rows.LOWER).isdisjoint(found["a"].rows)
    assert {row for row in rows.LOWER if rows.on("cpu", row)} < set(found["b"].rows)
    assert not set(rows.ON_CUDA) & set(found["b"].rows)
    assert list(found["b"].rows) == rows.in_order(list(found["b"].rows))
    assert found["b"].lower == 1
    asked = jobs("--models", "a", "--engines", "cpu-fp16w,cpu", "--n", "3")["a"]
    assert (asked.rows, asked.images, asked.lower > 3) == (("cpu", "cpu-fp16w"), (3,), True)


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
def test_a_sweep_verifies_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import job, worker

    tiny_model(monkeypatch)
    asked = job.Job("tiny", (1, 7, 5), (9,), ("cpu",), runs=1, threads=1, verified=2, yardstick="none", sweep=True)
    (cell,) = worker.Worker(asked).run()
    assert (cell.sweep, cell.forward, cell.row("cpu").gate.draws) == (True, None, 2 * 35)
    assert cell.row("cpu").times.median > 0


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
def test_a_lower_precision_is_held_to_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import job, worker

    tiny_model(monkeypatch)
    asked = job.Job("tiny", (1, 7, 5), (3, 4), ("cpu", "cpu-fp16w"), runs=1, threads=1, lower=3, yardstick="none")
    both, exact = worker.Worker(asked).run()
    assert [row.name for row in exact.rows] == ["cpu"]
    low = both.row("cpu-fp16w")
    assert low.status == "ok"
    assert 1e-6 < low.gate.parameter_error < 1e-2


def test_every_model_can_be_built() -> None:
    from speed import models

    for name, entry in models.MODELS.items():
        module, head = entry.make(entry.shape)
        assert not module.training, name
        assert entry.note, name
        cond = entry.cond(2)
        shape = entry.quick_shape()
        with torch.no_grad():
            inputs = head.encode_images(torch.zeros(2, *shape, dtype=torch.long))
            output = module(inputs) if cond is None else module(inputs, cond)
        assert output.numel() == 2 * math.prod(shape[1:] if head.shared else shape) * head.parameters, name


def test_tiny_programs_run() -> None:
    from micro import tiny

    for made in (
        tiny.product(5, 7, 2, True, 2),
        tiny.product(5, 7, 2, False, 2),
        tiny.gate(3, 2),
        tiny.norm(5, 1),
        tiny.draw(6),
    ):
        request = made.request(2, threads=1)
        values = interpret(made.program, request).values
        assert values.shape == (2, tiny.HEIGHT, tiny.WIDTH, 1)
        if cpu.unavailable_reason() is None:
            np.testing.assert_array_equal(cpu.CpuEngine(made.program).run(request).values, values)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is measured on Linux")
def test_the_machine_is_measured() -> None:
    from speed import machine

    if isinstance(reason := machine.compiled(), str):
        pytest.skip(reason)
    assert 1e8 < machine.fma_peak(1, 0.01) < 1e13
    assert 1e7 < machine.read_bandwidth(1, 1 << 16, 0.01) < 1e13


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from speed import machine

    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler (no-such-compiler)" in machine.build(tmp_path)
    monkeypatch.setattr(machine, "compiled", lambda: "no compiler")
    assert machine.fma_peak(1) is machine.read_bandwidth(1, 1000) is None
    assert machine.bandwidths(1) == {}
