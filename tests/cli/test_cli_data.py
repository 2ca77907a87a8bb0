"""The command line and data: what `sample` writes is read back as it is, and what data leave open is asked for by option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelfast.cli import main as cli
from pixelfast.data.dataset import load
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN, PixelCNN

SMALL = ["--checkpoint", "small"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint `small` of images 3 x 7 x 3, whose axes no shape tells, in the working directory."""
    torch.manual_seed(3)
    checkpoint.save(PixelCNN((3, 7, 3), levels=4, features=6, blocks=1), tmp_path / "small", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bits(out: str) -> float:
    return float(out.split(" bits/dim")[0].split()[-1])


def test_what_sample_wrote_is_read_back_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ["--engine", "naive"]
    assert cli.main(["sample", *SMALL, *engine, "-n", "5", "--log-prob", "-o", "own.npz", "-o", "own.npy"]) == 0
    with np.load("own.npz") as file:
        images, drawn = file["images"], -file["log_prob"].mean() / np.log(2) / 63
    assert np.array_equal(load("own.npz", test_fraction=0).images, images)
    capsys.readouterr()
    assert cli.main(["eval", *SMALL, "--data", "own.npz", "--split", "all"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert bits(out) == pytest.approx(drawn, abs=1e-4)
    assert cli.main(["eval", *SMALL, "--data", "own.npz", "--test-fraction", "0"]) == 2
    assert "no images are held out: score those that there are, by --split train" in capsys.readouterr().err
    assert cli.main(["eval", *SMALL, "--data", "own.npy", "--axes", "NCHW", "--split", "all"]) == 0
    out, err = capsys.readouterr()
    assert bits(out) == pytest.approx(drawn, abs=1e-4)
    assert err.startswith("pixelfast: own.npy: its pixels are of 8 bits and hold 0 .. 3: taken for values of 4 levels")
    for given in ("own.npz", "own.npy"):
        options = ["-n", "5", "--seed", "9", "--given", given, "--keep-rows", "6", "-o", "again.npz"]
        assert cli.main(["sample", *SMALL, *engine, *options]) == 0
        with np.load("again.npz") as file:
            assert np.array_equal(file["images"][:, :, :6], images[:, :, :6])
    options = ["--features", "6", "--blocks", "1", "--epochs", "1", "--out", "run"]
    assert cli.main(["train", "--model", "pixelcnn", "--data", "own.npz", *options]) == 0
    assert "4 levels; 4 images of 3 x 7 x 3" in capsys.readouterr().out
    assert checkpoint.read_config("run")["levels"] == 4


def test_given_values_are_quantised_where_the_file_says_more_levels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 7, 3), dtype=np.uint8)
    np.savez("bytes.npz", images=values)
    np.savez("said.npz", images=values.astype(np.int64), levels=256)
    Image.fromarray(values.transpose(1, 2, 0) // 64).save("dark.png")
    engine = ["--engine", "naive", "-n", "1", "--keep-rows", "5", "-o", "out.npz"]
    for options in (["said.npz"], ["bytes.npz"], ["bytes.npz", "--source-levels", "256"], ["dark.png", "--source-levels", "4"]):
        assert cli.main(["sample", *SMALL, *engine, "--given", *options]) == 0
        with np.load("out.npz") as file:
            assert np.array_equal(file["images"][0, :, :5], values[:, :5] // 64)
    capsys.readouterr()
    np.save("other.npy", values[:, :6])
    np.save("bytes.npy", values)
    for name, message in (("other.npy", "images have shape (3, 6, 3)"), ("bytes.npy", "the head has levels 0 .. 3")):
        assert cli.main(["sample", *SMALL, *engine, "--given", name]) == 2
        assert message in capsys.readouterr().err


def test_options_of_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sprites").mkdir()
    rgba = np.random.default_rng(0).integers(0, 256, (7, 3, 4), dtype=np.uint8)
    for index in range(2):
        Image.fromarray(rgba, "RGBA").save(folder / f"sprites/{index}.png")
    command = ["eval", *SMALL, "--data", "sprites", "--split", "all"]
    assert cli.main(command) == 2
    assert "--background white" in capsys.readouterr().err
    assert cli.main([*command, "--background", "white"]) == 0
    assert "on 2 images of 3 x 7 x 3" in capsys.readouterr().out


def test_classes_are_the_same_by_their_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of three classes, on data that bring two of them: their numbers differ, their names do not."""
    model = GatedPixelCNN((1, 7, 5), levels=4, features=4, layers=1, classes=3)
    checkpoint.save(model, folder / "named", {"classes": ["bird", "cat", "dog"]})
    images = np.random.default_rng(0).integers(0, 4, (6, 7, 5))
    labels = np.arange(6) % 2
    for classes in (["cat", "dog"], ["bird", "cat", "dog"], ["cat", "fox"]):
        np.savez("-".join(classes) + ".npz", images=images, labels=labels + len(classes) - 2, classes=classes, levels=4)
    command = ["eval", "--checkpoint", "named", "--split", "all", "--data"]
    assert cli.main([*command, "cat-dog.npz"]) == 0
    assert cli.main([*command, "bird-cat-dog.npz"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert cli.main([*command, "cat-fox.npz"]) == 2
    assert "knows the classes bird, cat, dog, but the data have fox" in capsys.readouterr().err
    np.savez("more.npz", images=images, labels=labels + 2, levels=4)
    assert cli.main([*command, "more.npz"]) == 2
    assert "has 3 classes, but the data's labels go up to 3" in capsys.readouterr().err
    assert cli.main(["check", "--checkpoint", "named", "--data", "cat-dog.npz"]) == 0
    assert "bits/dim on 6 images" in capsys.readouterr().out
