"""The command line: what it writes is what the library gives, and a mistake gives one clear message and status 2."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pixelfast
from pixelfast.cli import main as cli
from pixelfast.cli import models as cli_models
from pixelfast.cli import train as cli_train
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN, PixelCNN
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim

SHAPE = (1, 7, 5)
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, leak=False):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 27).view(3, 1, 3, 3))
        self.leak = leak

    def forward(self, x):
        weight = self.weight.clone()
        if not self.leak:
            weight[:, :, 1, 1:] = 0
            weight[:, :, 2] = 0
        return nn.functional.conv2d(x, weight, padding=1)


def fails():
    return 1 / 0


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint `small`, conditional on two classes, in the working directory."""
    torch.manual_seed(3)
    model = GatedPixelCNN(SHAPE, levels=3, features=4, layers=1, classes=2)
    checkpoint.save(model, tmp_path / "small", {"classes": ["tabby cat", "dog"]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's model in `mynets.py` and its weights in `weights.pt`."""
    (tmp_path / "mynets.py").write_text(NET)
    torch.save({"state_dict": {"module.weight": torch.linspace(2, -2, 27).view(3, 1, 3, 3)}}, tmp_path / "weights.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    return tmp_path


def drawn(*options: str) -> dict[str, np.ndarray]:
    """The arrays that `pixelfast sample` writes."""
    assert cli.main(["sample", *options, "-o", "out.npz"]) == 0
    with np.load("out.npz") as file:
        return dict(file)


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The message of a command that ends with status 2 and no traceback."""
    try:
        status = cli.main(list(command))
    except SystemExit as leaving:  # argparse's own way
        status = leaving.code
    assert status == 2
    out, message = capsys.readouterr()
    assert "Traceback" not in message
    assert "wrote" not in out
    return message


@pytest.mark.parametrize("command", ["train", "sample", "check", "eval"])
def test_help_has_examples_that_can_be_parsed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main([command, "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    examples = [line.split("   ")[0] for line in text.split("examples:")[1].splitlines() if line.startswith("  pixelfast ")]
    assert len(examples) >= 2
    for example in examples:
        words = example.replace('"food & drink"', "food").split()
        assert callable(cli.build_parser().parse_args(words[1:]).run)


def test_train_has_every_option_of_the_library() -> None:
    args = cli.build_parser().parse_args(["train", "--data", "x", "--out", "y"])
    assert TrainOptions(**{name: getattr(args, name) for name in cli_train.OPTIONS}) == TrainOptions()
    for model in (GatedPixelCNN, PixelCNN):
        names = {"no_colour" if name == "colour" else name for name in model().config}
        assert names - {"shape", "classes", "vector", "map_channels"} <= set(vars(args))


def test_sample_writes_what_the_library_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint", "small", "-n", "5", "--seed", "9", "--first", "2", "--temperature", "0.7", "--label", "dog,0"]
    assert cli.main(["sample", *options, "--log-prob", "--verify", "-o", "a.npz", "-o", "a.npy", "-o", "a.png"]) == 0
    labels = torch.tensor([1, 0, 1, 0, 1])
    sampler = pixelfast.compile(checkpoint.load("small"), cond=labels)
    images, log_prob = sampler.sample(5, seed=9, first=2, temperature=0.7, cond=labels, return_log_prob=True)
    with np.load("a.npz") as file:
        assert sorted(file.files) == ["images", "labels", "levels", "log_prob", "seed"]
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["labels"], labels)
        np.testing.assert_allclose(file["log_prob"], log_prob)
        assert (file["seed"], file["levels"]) == (9, 3)
    np.testing.assert_array_equal(np.load("a.npy"), images)
    with Image.open("a.png") as picture:
        assert picture.size == (3 * (5 * 9 + 2) + 2, 2 * (7 * 9 + 2) + 2)
    out = capsys.readouterr().out
    assert "verified: exact: 5 images" in out
    bits = -float(log_prob.mean()) / math.log(2) / 35
    assert f"bits/dim of what was drawn: {bits:.4f}" in out


def test_engines_and_batches_give_the_same_images(folder: Path) -> None:
    options = ["--checkpoint", "small", "-n", "5", "--seed", "1", "--threads", "1"]
    expected = drawn(*options, "--engine", "naive")["images"]
    np.testing.assert_array_equal(drawn(*options, "--engine", "reference", "--batch-size", "2")["images"], expected)
    np.testing.assert_array_equal(drawn(*options)["images"], expected)


def test_sample_draws_an_animation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", "--checkpoint", "small", "-n", "4", "--gif", "a.gif", "--scale", "2", "--columns", "4"]) == 0
    with Image.open("a.gif") as gif:
        assert gif.size == (4 * (10 + 2) + 2, 14 + 2 + 2)
    assert capsys.readouterr().out.endswith("wrote a.gif\n")
    assert not Path("samples.png").exists()


def test_sample_writes_samples_png_by_default_with_captions(folder: Path) -> None:
    assert cli.main(["sample", "--checkpoint", "small", "-n", "2", "--captions"]) == 0
    with Image.open("samples.png") as picture:
        assert picture.size == (2 * 47 + 2, 7 * 9 + 12 + 2 + 2)


def test_sample_completes_what_is_given(folder: Path) -> None:
    known = np.random.default_rng(0).integers(3, size=SHAPE).astype(np.int8)
    np.save("known.npy", known)
    found = drawn("--checkpoint", "small", "-n", "6", "--given", "known.npy", "--keep-rows", "4")["images"]
    np.testing.assert_array_equal(found[:, :, :4], np.broadcast_to(known[:, :4], (6, 1, 4, 5)))
    assert (found[:, :, 4:] != known[:, 4:]).any()
    Image.fromarray((known[0] * 127).astype(np.uint8)).save("known.png")
    options = ["--checkpoint", "small", "-n", "6", "--given", "known.png", "--keep-rows", "4"]
    np.testing.assert_array_equal(drawn(*options)["images"], found)
    known[:, 1:3] = -1
    np.save("hole.npy", known)
    found = drawn("--checkpoint", "small", "-n", "2", "--given", "hole.npy")["images"]
    np.testing.assert_array_equal(found[0][known >= 0], known[known >= 0])


def test_sample_at_another_size_and_with_conditions_from_a_file(folder: Path) -> None:
    np.savez("labels.npz", h=np.array([1, 1, 0]))
    found = drawn("--checkpoint", "small", "-n", "3", "--cond", "labels.npz", "--shape", "1x9x4")
    assert found["images"].shape == (3, 1, 9, 4)
    assert "labels" not in found
    model, labels = checkpoint.load("small"), torch.tensor([1, 1, 0])
    np.testing.assert_array_equal(found["images"], pixelfast.sample(model, 3, shape=(1, 9, 4), seed=0, cond=labels))


def test_a_model_of_ones_own_from_a_file_or_a_module(net: Path) -> None:
    options = ["--levels", "3", "--encode", "unit", "--shape", "1,7,5", "-n", "4", "--seed", "5"]
    weights = ["--checkpoint", "weights.pt"]
    found = drawn("--model", "mynets.py:Net", *weights, *options)["images"]
    np.testing.assert_array_equal(drawn("--model", "mynets:Net", *weights, *options)["images"], found)
    model = cli_models._build("mynets.py:Net", None)
    head = pixelfast.Categorical(3, encode="unit")
    model.load_state_dict({"weight": torch.linspace(2, -2, 27).view(3, 1, 3, 3)})
    np.testing.assert_array_equal(found, pixelfast.sample(model, 4, shape=SHAPE, head=head, seed=5))
    assert (drawn("--model", "mynets.py:Net", *options)["images"] != found).any(), "the weights were not loaded"


def test_how_a_file_of_weights_is_read(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Averaged weights, a choice between several, and a file that does not fit in all."""
    first, second = torch.linspace(2, -2, 27).view(3, 1, 3, 3), torch.linspace(-3, 3, 27).view(3, 1, 3, 3)
    torch.save({"model": {"weight": first}, "ema": {"weight": second}}, "ema.pt")
    torch.save({"a": {"weight": first}, "b": {"weight": second}}, "choice.ckpt")
    torch.save({"weight": second, "bias": torch.ones(3)}, "more.bin")
    options = ["--model", "mynets.py:Net", "--levels", "3", "--encode", "symmetric", "--shape", "1,7,5", "-n", "4"]
    options.append("--no-self-check")
    plain = drawn(*options, "--checkpoint", "ema.pt")["images"]
    other = drawn(*options, "--checkpoint", "ema.pt", "--ema")["images"]
    assert (plain != other).any()
    np.testing.assert_array_equal(drawn(*options, "--checkpoint", "choice.ckpt", "--prefix", "b")["images"], other)
    assert "drawn in" in capsys.readouterr().out
    assert "several sets of weights" in refused(capsys, "sample", *options, "--checkpoint", "choice.ckpt")
    assert "not in the model: bias" in refused(capsys, "sample", *options, "--checkpoint", "more.bin")
    np.testing.assert_array_equal(drawn(*options, "--checkpoint", "more.bin", "--no-strict")["images"], other)
    assert capsys.readouterr().err == "pixelfast: more.bin into Net: not in the model, so left out: bias\n"


def test_check_tells_a_good_model_from_a_leaking_one(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "mynets.py:Net", "--levels", "3", "--shape", "1,7,5"]
    assert cli.main(["check", *options, "--picture", "field.png"]) == 0
    assert "autoregressive: yes" in capsys.readouterr().out
    with Image.open("field.png") as picture:
        assert picture.size == (5 * 16, 7 * 16)
    assert cli.main(["check", *options, "--model-args", '{"leak": true}']) == 1
    assert "autoregressive: NO" in capsys.readouterr().out


def test_check_of_a_checkpoint_needs_no_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--checkpoint", "small"]) == 0
    assert "GatedPixelCNN over 1 x 7 x 5 images\nautoregressive: yes" in capsys.readouterr().out


def dataset(path: Path, count: int = 30) -> tuple[Tensor, Tensor]:
    """An .npz of images (N, 7, 5) of bytes with two classes; the images at 3 levels, (N, 1, 7, 5), and the labels."""
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=count).astype(np.uint8)
    images = (rng.integers(128, size=(count, 7, 5)) + 127 * labels[:, None, None]).astype(np.uint8)
    np.savez(path, images=images, labels=labels)
    return torch.from_numpy(images.astype(np.int64) * 3 // 256).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def test_eval_gives_the_bits_of_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = dataset(folder / "data.npz")
    options = ["--data", "data.npz", "--limit", "20", "--batch-size", "7", "--test-fraction", "0.9"]
    assert cli.main(["eval", "--checkpoint", "small", *options, "--split", "test"]) == 0
    order = np.sort(np.random.default_rng(0).permutation(30)[:27])[:20]
    bits = bits_per_dim(checkpoint.load("small"), images[order], labels[order])
    out = capsys.readouterr().out
    assert out.startswith(f"small: {bits:.4f} bits/dim")
    assert f"{bits * 35 * math.log(2):.1f} nats an image, on 20 images of 1 x 7 x 5" in out


def test_eval_of_a_model_of_ones_own(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, _ = dataset(net / "data.npz")
    assert cli.main(["eval", "--model", "mynets.py:Net", "--levels", "3", "--data", "data.npz", "--split", "all"]) == 0
    model, head = cli_models._build("mynets.py:Net", None), pixelfast.Categorical(3)
    log_prob = pixelfast.compile(model, SHAPE, head, engine="naive").log_prob(images)
    assert f" {-float(log_prob.mean()) / 35 / math.log(2):.4f} bits/dim" in capsys.readouterr().out


def test_train_saves_a_checkpoint_and_goes_on_where_it_stood(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = dataset(folder / "data.npz")
    small = ["--levels", "3", "--features", "4", "--layers", "1", "--epochs", "2", "--batch-size", "5", "--lr", "0.01"]
    command = ["train", "--data", "data.npz", "--out", "run", *small]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "27 images of 1 x 7 x 5, 3 held out, conditional on 2 classes" in out
    assert "epoch 2/2: bits/dim" in out
    model = checkpoint.load("run")
    assert isinstance(model, GatedPixelCNN)
    assert (model.classes, model.head.levels) == (2, 3)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["dataset"], config["training"]["lr"]) == ("data.npz", 0.01)
    held = np.sort(np.random.default_rng(0).permutation(30)[:3])
    assert config["bits_per_dim"] == pytest.approx(bits_per_dim(model, images[held], labels[held]), abs=1e-4)
    assert cli.main(command) == 0
    assert "epoch" not in capsys.readouterr().out, "a finished run was trained again"
    assert "belongs to another run" in refused(capsys, *command, "--lr", "0.02")
    assert cli.main([*command, "--lr", "0.02", "--restart"]) == 0
    assert drawn("--checkpoint", "run", "-n", "3")["images"].shape == (3, *SHAPE)


def test_train_without_labels_and_another_architecture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset(folder / "data.npz")
    common = ["train", "--data", "data.npz", "--levels", "3", "--epochs", "1", "--features", "4", "--limit", "8"]
    assert cli.main([*common, "--out", "a", "--no-labels", "--layers", "1"]) == 0
    assert checkpoint.load("a").classes == 0
    assert "8 images of 1 x 7 x 5, 3 held out, unconditional" in capsys.readouterr().out
    options = ["--model", "pixelcnn", "--blocks", "1", "--norm", "--residual", "original"]
    assert cli.main([*common, "--out", "b", *options]) == 0
    model = checkpoint.load("b")
    assert isinstance(model, PixelCNN)
    assert model.config["norm"]
    assert "--blocks, --norm is no option of --model gated" in refused(capsys, *common, "--out", "c", "--blocks", "1", "--norm")
    assert "--kernel" in refused(capsys, *common, "--out", "c", "--model", "pixelcnn", "--kernel", "5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "0"], "must be a whole number of at least 1, got '0'"),
        (["--temperature", "0"], "temperature must be a number above 0"),
        (["--seed", "-1"], "seed must lie in 0 .. 2**64 - 1"),
        (["--label", "bird"], "classes are 0 tabby cat, 1 dog"),
        (["--label", "0", "--cond", "x.npy"], "both --label and --cond"),
        (["--cond", "missing.npy"], "no readable .npy or .npz file"),
        (["--engine", "quantum"], "invalid choice: 'quantum'"),
        (["--levels", "4"], "--levels describe a model of your own"),
        (["--shape", "7,5"], "--shape takes C,H,W"),
        (["--keep-rows", "3"], "--keep-rows says how much of --given is known"),
        (["--given", "missing.npy"], "missing.npy is no readable .npy file"),
        (["--given", "whole.npy"], "every pixel of --given is known"),
        (["--given", "whole.npy", "--keep-rows", "7"], "--keep-rows must lie in 0 .. 6"),
        (["--given", "small/config.json"], "no readable picture"),
        (["-o", "a.jpg"], "a.jpg must end in .png or .npz or .npy"),
        (["--gif", "a.png"], "a.png must end in .gif"),
        (["-o", "nowhere/a.png"], "there is no folder nowhere"),
        (["--checkpoint", "smal"], "there is no checkpoint 'smal'"),
    ],
)
def test_mistakes_in_sample(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    np.save("whole.npy", np.zeros(SHAPE, np.uint8))
    assert message in refused(capsys, "sample", "--checkpoint", "small", *options)
    assert not Path("samples.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "mynets"], "--model takes MODULE:FACTORY"),
        (["--model", "nothere.py:Net"], "there is no file nothere.py"),
        (["--model", "nothere:Net"], "nothere cannot be imported, ModuleNotFoundError"),
        (["--model", "mynets.py:Other"], "has no 'Other'; it has torch, nn, Net, fails, number"),
        (["--model", "mynets.py:fails"], "failed with ZeroDivisionError: division by zero"),
        (["--model", "mynets.py:number"], "failed with TypeError"),
        (["--model", "mynets.py:Net", "--model-args", "{"], "--model-args is no JSON"),
        (["--model", "mynets.py:Net", "--model-args", "[1]"], "--model-args takes a JSON object"),
        (["--model", "mynets.py:Net"], "what do the model's outputs mean?"),
        (["--model", "mynets.py:Net", "--encode", "unit"], "how many values does a sub-pixel take?"),
        (["--model", "mynets.py:Net", "--levels", "3"], "does not say which images it draws"),
        (["--model", "mynets.py:Net", "--levels", "3", "--encode", "1,2,3"], "--encode takes integer"),
        (["--model", "mynets.py:Net", "--levels", "3", "--shape", "1,7,5", "--encode", "odd"], "unknown encoding 'odd'"),
        (["--model", "mynets.py:Net", "--head", "bernoulli", "--levels", "3"], "a Bernoulli head has 2 levels"),
        (["--model", "mynets.py:Net", "--levels", "3", "--checkpoint", "mynets.py"], "mynets.py is damaged or no PyTorch file"),
        (["--model", "mynets.py:Net", "--levels", "3", "--ema"], "say how --checkpoint FILE is read"),
        (["--model", "mynets.py:Net", "--levels", "3", "--no-strict"], "say how --checkpoint FILE is read"),
        (["--checkpoint", "digits", "--ema", "--no-strict"], "--ema, --no-strict describe a model of your own"),
    ],
)
def test_mistakes_with_a_model_of_ones_own(
    net: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refused(capsys, "check", *options)


def test_a_traceback_is_shown_on_request(folder: Path) -> None:
    with pytest.raises(pixelfast.CheckpointError):
        cli.main(["sample", "--checkpoint", "nothing", "--traceback"])


def test_ctrl_c_ends_quietly(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pixelfast.Sampler, "sample", interrupted)
    assert cli.main(["sample", "--checkpoint", "small"]) == 130
    assert capsys.readouterr().err == ""


def test_missing_extras_are_named_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixelfast.Sampler, "sample", None)
    monkeypatch.setattr(cli_models, "find_spec", lambda name: None)
    assert 'pip install "pixelfast[demo]"' in refused(capsys, "sample", "--checkpoint", "small", "--progress")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert 'pip install "pixelfast[demo]"' in refused(capsys, "sample", "--checkpoint", "small", "-o", "a.png")


def test_a_slower_engine_is_announced(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = cli_models.registry.ENGINES["cpu"]
    monkeypatch.setitem(cli_models.registry.ENGINES, "cpu", replace(entry, unavailable_reason=lambda: "it was not built"))
    assert cli.main(["sample", "--checkpoint", "small", "-n", "1"]) == 0
    assert "using the slower engine 'reference': it was not built" in capsys.readouterr().err
    assert "it was not built" in refused(capsys, "sample", "--checkpoint", "small", "--engine", "cpu")
