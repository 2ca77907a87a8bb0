"""Checkpoints: what is saved comes back, foreign files are understood or refused by name, nothing is half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pixelfast.distributions.categorical import Categorical
from pixelfast.distributions.mixture import MixtureOfLogistics
from pixelfast.errors import CheckpointError
from pixelfast.files import checkpoint
from pixelfast.files.access import write_atomically
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp

ARGUMENTS = {"shape": (3, 7, 5), "levels": 4, "features": 17, "layers": 2, "classes": 3}


@pytest.fixture
def model() -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN(**ARGUMENTS).eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    mine = one.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_folder_round_trip(model: GatedPixelCNN, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "run", {"classes": ["a", "b", "c"], "architecture": "not this"})
    again = checkpoint.load(tmp_path / "run")
    assert isinstance(again, GatedPixelCNN)
    assert same(model, again)
    assert not again.training
    config = checkpoint.read_config(tmp_path / "run")
    assert config["classes"] == ["a", "b", "c"]
    assert (config["architecture"], config["levels"], config["encode"]) == ("gated", 4, "symmetric")
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors"]


def test_half_precision_is_stored_small_and_loaded_as_float32(model: GatedPixelCNN, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "full")
    checkpoint.save(model, tmp_path / "half", dtype=torch.float16)
    again = checkpoint.load(tmp_path / "half")
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        assert torch.equal(again.state_dict()[name], tensor.half().float())
    sizes = [(tmp_path / part / "model.safetensors").stat().st_size for part in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]


def test_encoding_comes_back(tmp_path: Path) -> None:
    model = PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
    for encode in ("unit", (0.5, -1.0)):
        model.head = Categorical(4, encode=encode)
        checkpoint.save(model, tmp_path)
        head = checkpoint.load(tmp_path).head
        assert isinstance(head, Categorical)
        assert (head.levels, head.encode) == (4, encode)
    model.head = Categorical(4, encode=lambda images: images / 2)
    with pytest.raises(CheckpointError, match="named or"):
        checkpoint.save(model, tmp_path)


def test_head_must_follow_from_the_arguments(tmp_path: Path) -> None:
    model = PixelCNNpp((3, 4, 4), levels=4, features=4, blocks=1, mixtures=2)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path).head
    assert repr(again) == repr(model.head)
    for head in (MixtureOfLogistics(4, 2, 3, "mixture-major"), Categorical(4), MixtureOfLogistics(5, 2, 3)):
        model.head = head
        with pytest.raises(CheckpointError, match="the head that the model's arguments say"):
            checkpoint.save(model, tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
@pytest.mark.parametrize("nesting", [None, "state_dict", "model", "model_state_dict"])
def test_foreign_nestings_and_prefixes(model: GatedPixelCNN, tmp_path: Path, nesting: str | None, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    file = tmp_path / "weights.pt"
    torch.save(state if nesting is None else {"epoch": 3, nesting: state}, file)
    assert same(model, checkpoint.load(file, GatedPixelCNN(**ARGUMENTS)))


def test_foreign_safetensors(model: GatedPixelCNN, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"module." + name: tensor for name, tensor in model.state_dict().items()}, file)
    assert same(model, checkpoint.load(str(file), GatedPixelCNN(**ARGUMENTS)))


class Wrapped(nn.Module):
    """A user's model whose own names begin with a wrapper's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 2)


def test_own_prefix_is_kept(tmp_path: Path) -> None:
    mine, again = Wrapped(), Wrapped()
    torch.save(mine.state_dict(), tmp_path / "mine.pt")
    assert same(mine, checkpoint.load(tmp_path / "mine.pt", again))


def test_truncated_files(model: GatedPixelCNN, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path)
    weights = tmp_path / "model.safetensors"
    for size in (0, 5, weights.stat().st_size - 1):
        weights.write_bytes(weights.read_bytes()[:size].ljust(size, b"\0"))
        with pytest.raises(CheckpointError, match="truncated or no readable safetensors"):
            checkpoint.load(tmp_path)
    pickled = tmp_path / "weights.pt"
    torch.save(model.state_dict(), pickled)
    whole = pickled.read_bytes()
    for size in (0, 100, len(whole) - 100):
        pickled.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"weights\.pt is"):
            checkpoint.load(pickled, model)


class Namespace:
    """Stands for the objects that old checkpoints pickle beside their weights."""


def test_pickled_objects_are_not_loaded(model: GatedPixelCNN, tmp_path: Path) -> None:
    torch.save({"model": model.state_dict(), "args": Namespace()}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"names test_checkpoint\.Namespace, which would be imported or run, and is not"):
        checkpoint.load(tmp_path / "old.pt", model)


def test_foreign_content(model: GatedPixelCNN, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights at all")
    with pytest.raises(CheckpointError, match=r"no( readable)? PyTorch file"):
        checkpoint.load(tmp_path / "text.pt", model)
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        checkpoint.load(tmp_path / "empty.pt", model)
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"nothing in .* fits GatedPixelCNN:\n(.*\n)*  not in the model: encoder.weight"):
        checkpoint.load(tmp_path / "other.pt", model)


def test_missing_and_surplus_names_show_the_nearest(model: GatedPixelCNN, tmp_path: Path) -> None:
    state = model.state_dict()
    state["hiden.weight"] = state.pop("hidden.weight")
    torch.save(state, tmp_path / "typo.pt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "typo.pt", model)
    assert "missing in the file: hidden.weight (nearest: hiden.weight, (17, 17, 1, 1))" in str(caught.value)
    assert "not in the model: hiden.weight (nearest: hidden.weight, (17, 17, 1, 1))" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_other_shapes(model: GatedPixelCNN, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = GatedPixelCNN(**{**ARGUMENTS, "features": 16})
    with pytest.raises(CheckpointError, match=r"first_vertical.bias: file \(17,\), model \(16,\)"):
        checkpoint.load(tmp_path / "weights.pt", other)


def test_folders_that_are_no_checkpoints(model: GatedPixelCNN, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path)
    config = tmp_path / "config.json"
    good = json.loads(config.read_text())
    for change, message in (
        ({"architecture": "resnet"}, "names the architecture 'resnet'"),
        ({"arguments": None}, "no 'arguments'"),
        ({"arguments": {"colour": "x", "width": 3}}, "do not fit the architecture"),
        ({"arguments": {**good["arguments"], "features": -1}}, "features must be an integer"),
        ({"encode": "other"}, "unknown encoding"),
    ):
        config.write_text(json.dumps({**good, **change}))
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(tmp_path)
    for text, message in (("{", "no readable JSON"), ("[]", "must hold a JSON object")):
        config.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(tmp_path)
    config.write_text(json.dumps(good))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model.safetensors"):
        checkpoint.load(tmp_path)


def test_names(model: GatedPixelCNN, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint 'digitz'"):
        checkpoint.load("digitz")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="holds weights only"):
        checkpoint.load(tmp_path / "weights.pt")


def test_save_refuses_what_it_could_not_load(model: GatedPixelCNN, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Linear is none of them"):
        checkpoint.save(nn.Linear(2, 2), tmp_path)
    with pytest.raises(CheckpointError, match="must be JSON"):
        checkpoint.save(model, tmp_path, {"when": object()})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    write_atomically(file, lambda path: path.write_text("new"))
    assert file.read_text() == "new"


@pytest.mark.parametrize("name", checkpoint.shipped())
def test_shipped_checkpoints_load(name: str) -> None:
    model = checkpoint.load(name)
    config = checkpoint.read_config(name)
    x = model.head.encode_images(torch.zeros(2, *model.shape, dtype=torch.long))
    assert model(x, torch.tensor([0, 1])).shape == (2, model.head.levels, *model.shape)
    assert config["bits_per_dim"] > 0
    assert (checkpoint.SHIPPED / name / "README.md").exists()
