"""The demonstration, on two tiny checkpoints in place of the shipped ones: pictures, numbers, and what it says."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import BENCHMARKS

from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/demo.py` as a module, with untrained checkpoints of 7x5 pixels; works on fewer images."""
    torch.manual_seed(0)
    for name, channels, classes in (("digits", 1, 10), ("emoji", 3, 9)):
        model = GatedPixelCNN((channels, 7, 5), levels=3, features=6, layers=1, classes=classes)
        folder = checkpoint.save(model, tmp_path / "shipped" / name, {"classes": [f"class {i}" for i in range(classes)]})
        images = np.random.default_rng(0).integers(3, size=(20, channels, 7, 5)).astype(np.uint8)
        np.savez(folder / "held_out.npz", images=images, labels=np.arange(20, dtype=np.uint8) % classes)
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "shipped")
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # its neighbours
    spec = importlib.util.spec_from_file_location("demo", BENCHMARKS / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "IMAGES", 12)
    return module


def test_the_demonstration(demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--out", str(tmp_path / "out"), "--runs", "2", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    for fact in (
        "machine: ",
        "versions: pixelfast ",
        "commit: ",
        "digits: 12 images of 1 x 7 x 5",
        "emoji: 12 images of 3 x 7 x 5",
    ):
        assert fact in text
    assert "extrapolated from 3 of its 35 steps" in text
    assert "extrapolated from 3 of its 105 steps" in text
    assert text.count("exact: 12 images") == 2
    assert text.count("exact: 16 images, 320 draws") == 3  # four of seven rows are completed
    assert "NOT exact" not in text
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["checkpoint"] for line in lines] == ["digits", "emoji"]
    for line in lines:
        sample, forward, naive = (float(line[name]) for name in ("sample_s", "forward_s", "naive_s_extrapolated"))
        assert float(line["ratio_r"]) == pytest.approx(sample / forward)
        assert float(line["speedup"]) == pytest.approx(naive / sample)
        assert float(line["sample_s_least"]) <= sample <= float(line["sample_s_most"])
        assert (line["wrong_draws"], line["threads"]) == ("0", "1")
        assert "torch" in line["versions"]


def test_its_pictures(demo: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    demo.main(["--out", str(out), "--runs", "1", "--threads", "1"])
    for name in ("digits", "emoji"):
        with Image.open(out / f"{name}.png") as grid:
            assert grid.size == (8 * (5 * 9 + 2) + 2, 2 * (7 * 9 + 12 + 2) + 2)
        with Image.open(out / f"{name}.gif") as drawing:
            assert drawing.n_frames == 8
    with Image.open(out / "completed.png") as grid:
        sheet = np.asarray(grid)
    assert sheet.shape == (5 * (7 * 2 + 2) + 2, 16 * (5 * 2 + 2) + 2, 3)
    for row in range(1, 5):  # given, and three completions: the upper three rows of pixels are those of the first line
        top = 2 + row * 16
        np.testing.assert_array_equal(sheet[top : top + 6], sheet[2:8])


def test_the_usual_loop_is_measured_on_full_forwards(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampler, labels, _ = demo.prepare("digits")
    images = sampler.sample(demo.IMAGES, seed=0, cond=labels)
    calls: list[int] = []
    forward = type(model).forward

    def counted(self: object, images: torch.Tensor, *args: object) -> torch.Tensor:
        calls.append(len(images))
        return forward(self, images, *args)

    monkeypatch.setattr(type(model), "forward", counted)  # what hooks of the model itself hold is copied with it
    demo.naive_step(model, images, labels, runs=1)
    assert calls.count(demo.IMAGES) == demo.STEPS, calls


def test_other_programs_are_mentioned(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "prepare", stop)
    for used, said in ((1.5, True), (0.0, False), (float("nan"), False)):
        monkeypatch.setattr(demo, "processors_in_use", lambda used=used: used)
        with pytest.raises(KeyboardInterrupt):
            demo.main(["--out", str(tmp_path)])
        assert ("OTHER PROGRAMS USE 1.5 PROCESSORS" in capsys.readouterr().out) is said


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="there is no /proc/stat here")
def test_processors_in_use(demo: ModuleType) -> None:
    assert 0 <= demo.processors_in_use() <= (os.cpu_count() or 1) + 1
