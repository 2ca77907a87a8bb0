"""The rows of the speed report on a GPU, measured on a processor: what is verified, saved, skipped, and where tensors lie."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import importable
from torch import nn

import pixelfast
from pixelfast.distributions import noise
from pixelfast.inputs.conditions import Conditions
from pixelfast.models import GatedPixelCNN, PixelCNNpp, PixelSNAIL

SHAPE = (3, 7, 5)


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    from speed import models

    def build(shape: Any) -> nn.Module:
        return GatedPixelCNN(shape, levels=5, features=6, layers=1, classes=3)

    monkeypatch.setitem(models.MODELS, "tiny", models.Model(build, SHAPE, "for tests", (3,), classes=3))


def job(*rows: str, images: tuple[int, ...] = (3,), **options: Any) -> Any:
    from speed.job import Job

    defaults = {"runs": 1, "threads": 1, "budget": 1.0, "device": "cuda", "yardstick": "default"}
    return Job("tiny", SHAPE, images, rows, **{**defaults, **options})


def measured(*rows: str, **options: Any) -> tuple[list[Any], list[Any]]:
    """The cells of a job, and what was saved on the way."""
    from gpu.worker import GpuWorker

    saved: list[Any] = []
    cells = GpuWorker(job(*rows, **options), lambda cells: saved.append(list(cells)), "cpu").run()
    return cells, saved


def test_rows_are_verified_and_timed_and_saved_one_by_one() -> None:
    rows = "naive", "naive-graph", "reference"
    cells, saved = measured(*rows, images=(3, 1))
    assert [(cell.images, [row.name for row in cell.rows]) for cell in cells] == [(3, list(rows)), (1, list(rows))]
    for cell in cells:
        assert cell.forward.times.median > 0
        assert [(row.status, row.times.median > 0, row.extrapolated) for row in cell.rows] == [("ok", True, True)] * 3
        assert cell.row("reference").gate.draws == cell.images * 2 * 5 * 3
        assert cell.row("naive-graph").gate.parameter_error < 1e-5
    assert [sum(len(cell.rows) for cell in cells) for cells in saved] == [1, 2, 3, 4, 5, 6]


def test_engines_that_cannot_run_say_why() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (cell,), _ = measured("triton", "cuda")
    assert [row.status for row in cell.rows] == ["skipped", "skipped"]
    assert "the engine 'triton' cannot run here" in cell.row("triton").reason


class Wrong:
    """Stands for an engine; draws other images than the reference on the way that is named."""

    def __init__(self, program: Any, wrong: str) -> None:
        self.program, self.wrong, self.calls = program, wrong, 0

    def run(self, request: Any) -> Any:
        from dataclasses import replace

        from pixelfast.engines import reference

        self.calls += 1
        result = reference.run(self.program, request)
        if self.wrong == "always" or (self.wrong == "later" and self.calls > 3):
            return replace(result, values=(result.values + 1) % self.program.levels)
        if self.wrong == "parameters" and result.parameters is not None:
            return replace(result, parameters=result.parameters + 0.1 * (np.arange(result.parameters.shape[-1]) == 0))
        return result


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("never", ""),
        ("always", "NOT exact"),
        ("parameters", "NOT exact"),
        ("later", "a timed run drew other images than the verified one"),
    ],
)
def test_an_engine_that_draws_wrong_images_has_no_time(wrong: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from pixelfast.engines import registry

    entry = replace(registry.ENGINES["triton"], unavailable_reason=lambda: None, make=lambda program, *_: Wrong(program, wrong))
    monkeypatch.setitem(registry.ENGINES, "triton", entry)
    (cell,), _ = measured("triton")
    row = cell.row("triton")
    assert said in row.reason
    assert (row.status, row.times is None) == (("failed", True) if said else ("ok", False))
    assert row.gate.draws == (3 * 7 * 5 * 3 if wrong != "later" else 0)


def test_what_has_not_begun_when_time_is_over_is_left_out() -> None:
    (cell,), saved = measured("naive", "reference", limit=0.0)
    assert [row.status for row in cell.rows] == ["skipped", "skipped"]
    assert "s of this model were spent" in cell.rows[0].reason
    assert len(saved) == 2


def test_a_process_that_hangs_gives_what_it_had_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import run
    from speed import processes
    from speed.results import Cell, Gate, Row, Times, to_json

    row = Row("naive", "ok", times=Times((1.0,)), gate=Gate(True))
    saved = json.dumps([to_json(Cell("tiny", SHAPE, 3, (row,)))])
    script = tmp_path / "worker.py"
    script.write_text(f"import sys, time\nopen(sys.argv[1], 'w').write({saved!r})\ntime.sleep(600)\n", encoding="utf-8")
    monkeypatch.setitem(run.WORKERS, "cuda", script)
    monkeypatch.setattr(processes, "KILLED_AFTER", 4.0)
    told: list[Any] = []
    first, other = run.in_process(job("naive", "triton", images=(3, 1), limit=1.0), told.append)
    assert [(row.name, row.status) for row in first.rows] == [("naive", "ok"), ("triton", "failed")]
    assert [row.status for row in other.rows] == ["failed", "failed"]
    assert "the measuring process was killed after 5 s" in other.rows[0].reason
    assert told == [[Cell("tiny", SHAPE, 3, (row,))]]


def test_what_is_asked_for_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import run
    from speed import rows

    monkeypatch.setattr(rows, "runs_here", lambda name: True)

    def jobs(*arguments: str) -> list[Any]:
        args = run.arguments().parse_args(["--device", "cuda", *arguments])
        result = run.jobs(args, ["a", "b"], rows.find(args.engines, args.quick, args.device), run.common_job(args))
        return list(result)

    first, second = jobs()
    assert (first.device, first.images, first.yardstick) == ("cuda", (64, 1, 1024), "default")
    assert {"naive", "naive-graph", "reference", "triton", "triton-fp16", "cuda"} <= set(second.rows)
    assert not {"cpu", "naive-cropped", "netket"} & set(second.rows)
    assert jobs("--n", "2,1,64", "--limit", "30", "--engines", "cuda,naive")[0].images == (64, 1, 2)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            run.main(["--device", "cuda"])
        assert "PyTorch finds no CUDA device" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="--device cpu has no row 'naive-graph': there are naive, "):
        rows.find(["naive-graph"])
    with pytest.raises(ValueError, match="--device cuda has no row 'cpu'"):
        rows.find(["cpu"], device="cuda")


MODELS = {
    "gated": lambda: GatedPixelCNN((3, 4, 5), levels=5, features=6, layers=1, classes=3),
    "mixture": lambda: PixelCNNpp((3, 4, 4), levels=8, features=6, blocks=1, mixtures=2),
    "attention": lambda: PixelSNAIL((1, 3, 4), levels=8, features=8, blocks=1, residuals=1, key=2, heads=2, embed=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_the_captured_loop_stays_on_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers: any that were left on the processor, or looked at, end it, as they would end a capture."""
    from gpu.rows import GraphLoop
    from speed.usual_loop import UsualLoop

    module = MODELS[name]().eval()
    head, shape = module.head, module.shape
    cond = torch.arange(3) if name == "gated" else None
    layout = pixelfast.compile(module, shape, cond=cond, engine="reference").prepare(cond).analysis.layout
    device = torch.device("meta")
    arguments = Conditions.parse(cond).to(device)
    loop = UsualLoop(copy.deepcopy(module).to(device), head, layout, arguments, noise.uniforms(0, 0, 3, shape), False, device)
    # Where it begins, numbers are looked at.
    monkeypatch.setattr(head, "encode_images", lambda images: head.table(images.shape[1:]).to(device)[0][images])
    captured = GraphLoop(loop)
    for channel in range(shape[0]):
        assert captured.compute(channel).device == device


@pytest.mark.parametrize("name", MODELS)
def test_the_captured_loop_draws_what_it_should(name: str) -> None:
    from gpu.rows import GraphLoop
    from speed.usual_loop import UsualLoop

    module = MODELS[name]().eval()
    head, shape = module.head, module.shape
    cond = torch.arange(3) if name == "gated" else None
    sampler = pixelfast.compile(module, shape, cond=cond, engine="reference")
    layout = sampler.prepare(cond).analysis.layout
    loop = GraphLoop(UsualLoop(module, head, layout, Conditions.parse(cond), noise.uniforms(3, 0, 3, shape)))
    before = loop.loop.values.clone(), loop.input.clone()
    for channel in range(shape[0]):
        loop.capture(channel)
    assert all(torch.equal(now, then) for now, then in zip((loop.loop.values, loop.input), before, strict=True))
    for row, col, channel in np.ndindex(shape[1], shape[2], shape[0]):
        loop.step(row, col, channel)
    assert torch.equal(loop.loop.values.byte(), sampler.sample(3, seed=3, cond=cond))


def test_verifying_turns_tf32_off_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import rows as gpu_rows

    seen: list[tuple[bool, bool]] = []
    flags = torch.backends.cudnn
    plain = gpu_rows.NaiveEngine.parameters
    monkeypatch.setattr(
        gpu_rows.NaiveEngine, "parameters",
        lambda *arguments: (seen.append((flags.enabled, flags.allow_tf32)), plain(*arguments))[1],
    )  # fmt: skip
    (cell,), _ = measured("reference")
    assert cell.rows[0].status == "ok"
    assert seen == [(True, False)]
    assert (flags.enabled, flags.allow_tf32) == (True, True)


def test_what_belongs_beside_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, report = importlib.import_module("speed.machine"), importlib.import_module("speed.report")
    properties = type("P", (), {"name": "GPU 9", "multi_processor_count": 7, "total_memory": 3 << 30, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    text = report.heading(machine.gpu_facts(2))
    assert "GPU: GPU 9, 7 multiprocessors, 3 GiB, compute capability 9.0" in text
    assert "unknown (the processor's is not measured beside a GPU)" in text
