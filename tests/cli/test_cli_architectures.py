"""`pixelfast train` and `pixelfast sample` with every architecture that has no test of the command line elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelfast.cli import main as cli
from pixelfast.files import checkpoint
from pixelfast.training.train import bits_per_dim

COMMANDS = {
    "pixelcnnpp": ["--features", "6", "--blocks", "1", "--mixtures", "2", "--dropout", "0.1"],
    "pixelsnail": ["--features", "6", "--blocks", "1", "--residuals", "1", "--heads", "3", "--embed", "2"],
    "pixelrnn": ["--features", "6", "--layers", "1", "--lstm", "diagonal"],
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 4, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(12) % 3)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_train_and_sample(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--data", "data.npz", "--levels", "4", "--epochs", "2", "--out", "run", "--model", name]
    assert cli.main([*common, *COMMANDS[name]]) == 0
    assert re.search(r"epoch 2/2: bits/dim [0-9.]+ while training, held out [0-9.]+", capsys.readouterr().out)
    config = checkpoint.read_config("run")
    assert config["architecture"] == name
    assert config["arguments"].get("classes", 3) == 3
    assert cli.main(["sample", "--checkpoint", "run", "-n", "2", "--engine", "naive", "--verify", "-o", "out.npz"]) == 0
    assert "verified: exact: 2 images" in capsys.readouterr().out
    assert np.load("out.npz")["images"].shape == (2, 1, 4, 8)


@pytest.mark.usefixtures("data")
def test_train_an_autoencoder() -> None:
    common = ["train", "--data", "data.npz", "--levels", "4", "--epochs", "1", "--out", "run", "--model", "autoencoder"]
    assert cli.main([*common, "--features", "6", "--layers", "1", "--code", "3", "--spatial"]) == 0
    model = checkpoint.load("run")
    assert (model.code, model.spatial) == (3, True)


@pytest.mark.usefixtures("data")
def test_train_a_prior_given_upper_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """An .npz brings the upper codes as s_train and s_test, as they are; `eval` scores with those of its part."""
    generator = np.random.default_rng(1)
    codes, upper = generator.integers(0, 9, (14, 6, 4)), generator.integers(0, 5, (14, 3, 2))
    np.savez("codes.npz", X_train=codes[:12], X_test=codes[12:], s_train=upper[:12], s_test=upper[12:])
    common = ["train", "--levels", "9", "--source-levels", "9", "--epochs", "2", "--out", "run", "--model", "pixelsnail"]
    sizes = ["--features", "6", "--blocks", "1", "--residuals", "1", "--embed", "3", "--upper", "5", "--dropout", "0"]
    assert cli.main([*common, *sizes, "--data", "codes.npz"]) == 0
    shown = capsys.readouterr().out
    assert "conditional on a map of upper codes" in shown
    model = checkpoint.load("run")
    images, maps = (torch.from_numpy(part).unsqueeze(1) for part in (codes, upper))
    for split, part in (("test", slice(12, 14)), ("train", slice(0, 12)), ("all", slice(0, 14))):
        expected = bits_per_dim(model, images[part], None, maps[part])
        if split == "test":
            assert float(re.findall(r"held out ([0-9.]+)", shown)[-1]) == pytest.approx(expected, abs=1e-4)
        options = ["--data", "codes.npz", "--source-levels", "9", "--split", split]
        assert cli.main(["eval", "--checkpoint", "run", *options]) == 0
        assert float(re.findall(r"([0-9.]+) bits/dim", capsys.readouterr().out)[0]) == pytest.approx(expected, abs=1e-4)
    assert cli.main([*common, *sizes, "--data", "data.npz", "--source-levels", "256"]) != 0
    assert "--upper needs a map of upper codes for each image, and data.npz has no s_train" in capsys.readouterr().err


@pytest.mark.usefixtures("data")
def test_train_a_single_stack() -> None:
    common = ["train", "--data", "data.npz", "--levels", "4", "--epochs", "1", "--out", "run", "--model", "gated"]
    assert cli.main([*common, "--features", "6", "--layers", "1", "--stacks", "1"]) == 0
    assert checkpoint.load("run").config["stacks"] == 1


@pytest.mark.usefixtures("data")
def test_foreign_options(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--data", "data.npz", "--out", "run"]
    assert cli.main([*common, "--model", "pixelcnnpp", "--no-colour", "--lstm", "row"]) != 0
    assert "--lstm, --no-colour is no option of --model pixelcnnpp" in capsys.readouterr().err
