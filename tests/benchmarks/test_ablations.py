"""The ablations and the short trainings: what they count and claim, and small runs from end to end without judging numbers."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import BENCHMARKS, importable
from torch import nn

from pixelfast import data
from pixelfast.cli import main as cli
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN, PixelCNN


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


def test_independent_pixels_by_hand() -> None:
    from learning.histogram import PRIOR, independent_pixels

    images = torch.tensor([[[[0, 1, 2]]], [[[0, 1, 1]]]])
    everywhere = torch.tensor([3, 4, 2], dtype=torch.float64) / 9  # one more of each value than there are
    chances = [(counts + PRIOR * everywhere) / (2 + PRIOR) for counts in torch.tensor([[2, 0, 0], [0, 2, 0], [0, 1, 1]])]
    expected = -sum(math.log2(chances[place][value]) for place, value in enumerate((0, 2, 2))) / 3
    assert independent_pixels(images, torch.tensor([[[[0, 2, 2]]]]), 3) == pytest.approx(expected)


def test_colours_have_frequencies_of_their_own() -> None:
    from learning.histogram import independent_pixels

    images = torch.zeros(4000, 3, 2, 2, dtype=torch.long)
    images[:, 1] = 1
    images[::2, 2] = 1
    assert independent_pixels(images, images, 2) == pytest.approx(1 / 3, abs=0.01)  # only the last colour is open


def test_weights_that_a_mask_hides_do_not_count() -> None:
    from learning.ablation_variants import weights

    plain = GatedPixelCNN((1, 7, 5), 3, features=4, layers=1, stacks=1)
    first = 4 * (3 * 7 + 3) + 4
    layer = 8 * 4 * (3 + 2) + 8 + 4 * 4 + 4
    assert weights(plain) == first + layer + (4 * 4 + 4) + (3 * 4 + 3)
    above, left = 4 * (3 * 7) + 4, 4 * 3 + 4  # mask A of the vertical stack hides its own row
    layer = 8 * 4 * (2 * 3 + 2) + 2 * 8 + (8 * 8 + 8) + 4 * 4 + 4
    assert weights(GatedPixelCNN((1, 7, 5), 3, features=4, layers=1)) == above + left + layer + 20 + 15


def test_what_is_not_seen_of_the_past() -> None:
    from learning.ablation_variants import unseen

    class Left(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(x, (1, 0))[..., :-1].unsqueeze(1)  # (N, 1, C, H, W)

    assert unseen(Left(), (1, 3, 2)) == pytest.approx(1 - 3 / 15)  # one pixel of each row sees the one to its left
    assert unseen(GatedPixelCNN((3, 4, 5), 2, features=12, layers=3), (3, 4, 5)) == 0
    assert unseen(PixelCNN((1, 4, 9), 2, features=8, blocks=1), (1, 4, 9)) > 0


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([2.0, 2.2], [1.8, 1.9], "better than one, and separate"),
        ([2.0, 2.2], [2.3, 2.4], "worse than one, and separate"),
        ([2.0, 2.2], [2.1, 2.4], "not separate from one"),
        ([2.0], [1.0], "one seed says nothing"),
    ],
)
def test_verdicts(first: list[float], second: list[float], words: str) -> None:
    from learning.ablation_report import verdict

    def variant(name: str, bits: list[float]) -> dict[str, Any]:
        return {"name": name, "runs": [{"held_out": [9.0, value]} for value in bits]}

    assert words in verdict(variant("one", first), variant("other", second))


def test_every_ablation_runs(tmp_path: Path) -> None:
    from learning import ablations

    assert ablations.main(["all", "--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert sorted(found["ablations"]) == ["blind-spot", "blocks", "colour", "layer-norm", "skips"]
    assert {"machine", "versions", "commit", "date"} <= set(found["facts"])
    report = (tmp_path / "report.md").read_text()
    for name, part in found["ablations"].items():
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert f"({name}.png)" in report
        for variant in part["variants"]:
            assert f"| {variant['name']} | {variant['weights']:,} |" in report
    assert [variant["arguments"]["blocks"] for variant in found["ablations"]["blocks"]["variants"]] == [5, 8, 10]
    blind = [variant["unseen"] for variant in found["ablations"]["blind-spot"]["variants"]]
    assert blind[0] == 0 < blind[1]


def test_ablation_on_other_data_with_seeds_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from learning import ablations

    images = np.random.default_rng(0).integers(0, 256, (12, 7, 5), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images)
    common = ["--data", str(tmp_path / "mine.npz"), "--levels", "4", "--epochs", "1", "--runs", str(tmp_path / "runs")]
    out = ["--out", str(tmp_path / "out")]
    assert ablations.main(["skips", "--seeds", "2", *common, *out]) == 0
    first = json.loads((tmp_path / "out" / "results.json").read_text())["ablations"]["skips"]
    assert [[run["seed"] for run in variant["runs"]] for variant in first["variants"]] == [[0, 1], [0, 1]]
    assert first["variants"][0]["runs"][0]["held_out"] != first["variants"][0]["runs"][1]["held_out"]
    monkeypatch.setattr(PixelCNN, "forward", lambda self, x: pytest.fail("a finished run was trained again"))
    assert ablations.main(["skips", "--seeds", "2", *common, *out]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["ablations"]["skips"] == first
    assert ablations.main(["colour", *common, *out]) == 2
    assert "colour needs colour images, and those of" in capsys.readouterr().err


def test_codes_and_back() -> None:
    from learning.patch_codes import cut, decode, learn, nearest, paste

    images = np.arange(2 * 8 * 12, dtype=np.float32).reshape(2, 8, 12)
    assert np.array_equal(cut(images, 4)[1, 1, 2], images[1, 4:8, 8:12].reshape(-1))
    assert np.array_equal(paste(cut(images, 2)), images)
    patches = np.repeat(np.array([[0, 0, 9, 9], [5, 5, 5, 5], [1, 2, 3, 4]], np.float32), 20, 0)
    book = learn(patches, 3)
    assert sorted(map(tuple, book.round(3))) == [(0, 0, 9, 9), (1, 2, 3, 4), (5, 5, 5, 5)]
    codes = nearest(cut(paste(patches[None, None, 20:22]), 2), book)
    assert np.array_equal(decode([codes], [book]), paste(patches[None, None, 20:22]))


def test_every_training_is_a_command(tmp_path: Path) -> None:
    from learning.trainings import TRAININGS

    parser = cli.build_parser()
    for training in TRAININGS.values():
        parser.parse_args(["train", "--data", training.data, "--out", str(tmp_path), *shlex.split(training.arguments)])
    assert {shlex.split(training.arguments)[1] for training in TRAININGS.values()} == {
        "pixelcnn", "gated", "pixelrnn", "autoencoder", "pixelcnnpp", "pixelsnail",
    }  # fmt: skip


def test_short_trainings(tmp_path: Path) -> None:
    from learning import trained_runs

    names = "autoencoder,pixelsnail upper codes,pixelsnail lower codes"
    command = ["--quick", "--only", names, "--samples", "2", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    assert trained_runs.main(command) == 0
    found = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert ",".join(run["name"] for run in found) == names
    assert str(tmp_path) not in (tmp_path / "results.json").read_text() + (tmp_path / "report.md").read_text()
    lower = checkpoint.load(tmp_path / "runs" / "pixelsnail-lower-codes")
    assert lower.config["upper"] == 128
    assert (tmp_path / "report.md").read_text().count(" | exact: 2 images") == 3
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_data_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from learning import trained_runs

    with pytest.raises(SystemExit):
        trained_runs.main(["--only", "pixelcnnpp", "--data", str(tmp_path)])
    assert "emoji16.npz: --data takes their folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        trained_runs.main(["--only", "pixelcnn,pixelrnn"])
    assert "there is no run 'pixelrnn'" in capsys.readouterr().err


def test_shipped_images() -> None:
    """Small, of the stated range, and nothing that is held out is trained on."""
    from learning.ablation_variants import DATA

    assert sum(file.stat().st_size for file in (BENCHMARKS / "data").iterdir()) < 300_000
    for name, channels, train, test in (("digits8", 1, 1437, 360), ("emoji8", 3, 3380, 200)):
        images = DATA[name]
        found = data.load(images.file, images.levels, source_levels=images.source_levels)
        assert found.shape == (channels, 8, 8)
        assert (len(found.images), len(found.test_images)) == (train, test)
        assert int(found.images.max()) == images.levels - 1
        both = torch.cat([found.images, found.test_images]).flatten(1)
        known = {tuple(row) for row in both[:train].tolist()}
        assert not any(tuple(row) in known for row in both[train:].tolist())
