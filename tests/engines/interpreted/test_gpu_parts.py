"""What the GPU check measures, by Triton's interpreter: right numbers, whatever the time."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import importable
from torch import nn

from pixelfast.models import GatedPixelCNN


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("gpu.training")
    monkeypatch.setattr(module, "RUNS", 1)
    monkeypatch.setattr(module, "WARM", 0)
    return module


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_a_persistent_program_goes_through_its_stages(dtype: torch.dtype, most: float) -> None:
    timed = importlib.import_module("gpu.triton_latencies")
    assert timed.error_of_stages(3, 16, dtype, "cpu", 4) <= most


@pytest.mark.parametrize("precision", ["float32", "float16 by autocast"])
@pytest.mark.parametrize("case", ["layer", "model"])
def test_training_is_compared_and_timed(
    case: str, precision: str, training: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    made = training.layer_case(2, "cpu", 6, 5) if case == "layer" else training.model_case(2, "cpu", 6, 5, 1)
    assert training.measure(case, *made, precision, "cpu")
    found = json.loads(capsys.readouterr().out)
    assert found["fused, ms"] > 0
    assert found["error"] <= 1e-6 if precision == "float32" else found["error"] <= 2 * found["PyTorch's error"]


def test_wrong_gradients_have_no_time(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pixelfast.kernels import gated_backward

    right = gated_backward.weight_backward
    monkeypatch.setattr(gated_backward, "weight_backward", lambda *arguments: right(*arguments) * 1.001)
    assert not training.measure("layer", *training.layer_case(2, "cpu", 6, 5), "float32", "cpu")
    found = json.loads(capsys.readouterr().out)
    assert "error is above 1e-04" in found["failed"]
    assert "fused, ms" not in found


def test_the_engine_s_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu.worker import GpuWorker
    from speed import models
    from speed.job import Job

    def build(shape: Any) -> nn.Module:
        return GatedPixelCNN(shape, levels=5, features=6, layers=1, classes=3)

    shape = (3, 3, 2)
    monkeypatch.setitem(models.MODELS, "tiny", models.Model(build, shape, "for tests", (3,), classes=3))
    job = Job("tiny", shape, (3,), ("triton", "triton-fp16"), runs=1, threads=1, budget=1.0, device="cuda", yardstick="none")
    (cell,) = GpuWorker(job, lambda cells: None, "cpu").run()
    for row in cell.rows:
        assert (row.status, row.reason, row.gate.draws) == ("ok", "", 3 * 3 * 3 * 2)
        assert row.times.median > 0
