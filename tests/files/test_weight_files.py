"""Files that are no files of weights: refused by name, and no code of theirs is run."""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stranger import filled, same
from torch import nn

import pixelfast
from pixelfast import CheckpointError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


class Config:
    """Stands for a class of somebody's training script."""


class Bomb:
    """Pickles as a call of a function that would leave a trace."""

    def __init__(self, function: Callable[[str], object], trace: Path) -> None:
        self.function, self.trace = function, str(trace)

    def __reduce__(self) -> Any:
        return self.function, (self.trace,)


def test_other_objects_are_refused_by_name(file: Path) -> None:
    torch.save({"model": filled().state_dict(), "config": Config()}, file)
    with pytest.raises(
        CheckpointError, match=r"names test_weight_files\.Config, which would be imported or run, and is not"
    ) as caught:
        pixelfast.load(file, filled())
    assert "Where you trust its origin, open it once with torch.load(path, weights_only=False)" in str(caught.value)
    torch.save(filled(), file)
    with pytest.raises(CheckpointError, match=r"names stranger\.Masked, stranger\.Net, torch\.nn\.modules"):
        pixelfast.load(file, filled())
    torch.save({"config": Config()}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"names test_weight_files\.Config, which"):
        pixelfast.load(file, filled())


@pytest.mark.parametrize("function", [os.mkdir, eval, os.system])
@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_file_is_never_run(file: Path, function: Callable[[str], object], new: bool) -> None:
    trace = file.parent / "trace"
    state = filled().state_dict()
    bomb = Bomb(function, trace)
    for content in ({"model": state, "args": bomb}, argparse.Namespace(model=state, more=bomb)):
        torch.save(content, file, _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"(mkdir|eval|system), which would be imported or run"):
            pixelfast.load(file, filled())
    assert not trace.exists()


def test_what_is_permitted_for_a_file_is_not_permitted_afterwards(file: Path) -> None:
    torch.save({"model": filled().state_dict(), "args": argparse.Namespace()}, file)
    before = set(torch.serialization.get_safe_globals())
    pixelfast.load(file, filled())
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(file, weights_only=True)


def test_torchscript_is_refused(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
        with pytest.raises(CheckpointError, match="is a TorchScript archive, which is a program and is not run"):
            pixelfast.load(file, nn.Linear(2, 2))


def test_files_without_names(file: Path) -> None:
    for content in (torch.ones(3), [torch.ones(3)], {"epoch": 3}, {"state": {0: torch.ones(3)}}, None):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=r"holds no tensors by name: save model\.state_dict\(\)"):
            pixelfast.load(file, filled())
    circle: dict[str, Any] = {"weight": torch.ones(1)}
    circle["model"] = circle
    torch.save(circle, file)
    with pytest.raises(CheckpointError, match=r"nothing in .* fits Net"):
        pixelfast.load(file, filled())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(filled().state_dict(), file)
    whole = file.read_bytes()
    target = filled(1)
    for size in (0, 1, 5, 100, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"weights\.\w+ is (truncated or no readable|damaged or no) \w+"):
            pixelfast.load(file, target)
    assert same(target, filled(1))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_downloaded_in_the_place_of_weights_is_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for content, named in [
        (pointer, r"is a Git LFS pointer: .*git lfs pull"),
        (b"<html>not found</html>" * 9, "is a web page"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "is a web page"),
    ]:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=named):
            pixelfast.load(file, filled(1))


def test_damaged_pickles_do_not_crash(file: Path) -> None:
    """Bytes of the pickle of an old file are changed one by one: it loads, or it is refused."""
    torch.save(filled().state_dict(), file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole) // 2, size=100):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(changed))
        with contextlib.suppress(CheckpointError):
            pixelfast.load(file, filled(1))


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        pixelfast.load(tmp_path / "nothing.pt", filled())
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors: give the file of weights itself"):
        pixelfast.load(tmp_path, filled())
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        pixelfast.load(tmp_path / "folder.pt", filled())
    torch.save(filled().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="holds weights only: give the model that they belong to"):
        pixelfast.load(tmp_path / "weights.pt")
