"""Files that are written: by one writer at a time, whole or not at all; killed writers, full disks, damaged training states."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pixelfast
from pixelfast import pictures
from pixelfast.data import dataset as data
from pixelfast.errors import CheckpointError, InvalidInput, OutputError, UnsupportedModel
from pixelfast.files import access as files
from pixelfast.files import checkpoint
from pixelfast.files.access import locked, write_atomically, write_together
from pixelfast.models import GatedPixelCNN
from pixelfast.pictures import read_given
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim, train

GREY = np.random.default_rng(0).integers(0, 256, (4, 7, 5)).astype(np.uint8)
IMAGES = torch.from_numpy(GREY.astype(np.int64) // 64).unsqueeze(1)
OPTIONS = TrainOptions(epochs=2, batch_size=2, warmup=0)


def small() -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN((1, 7, 5), levels=4, features=4, layers=1)


def held_by_another(folder: Path) -> int:
    """The number of a process that holds a folder and is writing its training state."""
    ready, tell = os.pipe()
    process = os.fork()
    if not process:
        try:
            with locked(folder):
                write_atomically(folder / "training.pt", lambda path: (os.write(tell, b"held"), signal.pause()))
        finally:
            os._exit(0)
    os.close(tell)
    assert os.read(ready, 4) == b"held"
    os.close(ready)
    return process


def test_a_training_folder_has_one_writer(tmp_path: Path) -> None:
    """In this process and another one; a killed one holds it no longer, and what it left is removed."""
    run = tmp_path / "run"
    with locked(run):
        with pytest.raises(OutputError, match=r"another run is writing .*run: wait for it, stop it, or choose another folder"):
            train(small(), IMAGES, options=OPTIONS, folder=run)
        assert not list(run.iterdir())
    other = held_by_another(run)
    try:
        with pytest.raises(OutputError, match="another run is writing"):
            train(small(), IMAGES, options=OPTIONS, folder=run)
        assert len(list(run.glob(".training.pt.*.part"))) == 1
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    train(small(), IMAGES, options=OPTIONS, folder=run)
    assert sorted(file.name for file in run.iterdir()) == ["config.json", "model.safetensors", "training.pt"]


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    for name in (".a.png.x1234567.part", ".b.png.x1234567.part", ".a.png.mine.part"):
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a.png", lambda path: path.write_text("new"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.png.mine.part", ".b.png.x1234567.part", "a.png"]

    def write(path: Path) -> None:
        write_atomically(tmp_path / "b.png", lambda other: other.write_text("the other's"))
        path.write_text("mine")

    write_atomically(tmp_path / "b.png", write)
    assert (tmp_path / "b.png").read_text() == "mine", "a writer that is at work is not taken for a killed one"


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small(), IMAGES, options=OPTIONS, folder=tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for full in range(3):
        calls = 0

        def to_disk(path: Path, full: int = full) -> None:
            nonlocal calls
            calls += 1
            if calls > full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(files, "_to_disk", to_disk)
            with pytest.raises(
                OutputError, match=r"cannot be written: no space is left on the disk\. What was there before is kept"
            ):
                train(small(), IMAGES, options=OPTIONS, folder=tmp_path, resume=False)
        found = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert found.keys() == before.keys()
        if full < 2:
            assert found == before, "weights and configuration are moved together"


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 5,000 bytes: what libraries raise then is what they raise when the disk is full."""
    old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)


def save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, images=np.zeros(10_000))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.ones(10_000), path),
        lambda path: Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)).save(path, "PNG"),
        save_npz,
    ],
)
def test_libraries_that_cannot_write(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "a").write_text("old")
    with small_files(), pytest.raises(OutputError, match=r"a cannot be written: .*What was there before is kept"):
        write_atomically(tmp_path / "a", write)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_writer_killed_at_any_step_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Before and after each file is complete or moved: the weights are the old ones or the new ones, and none is lost."""
    old, new = small(), small()
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1)
    seen = set()
    for step in range(5):
        checkpoint.save(old, tmp_path)
        process = os.fork()
        if not process:
            die_at(step)
            checkpoint.save(new, tmp_path)
            os._exit(0)
        seen.add(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        found = checkpoint.load(tmp_path).state_dict()
        assert any(all(torch.equal(found[name], own) for name, own in net.state_dict().items()) for net in (old, new))
    assert seen == {-signal.SIGKILL, 0}
    checkpoint.save(new, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def die_at(step: int) -> None:
    """Kill this process at a step of its next write: `_to_disk` and `os.replace` are one each, for each of two files."""
    left = step

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def die(*args: object) -> object:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*args)

        return die

    files._to_disk = dying(files._to_disk)  # type: ignore[assignment]
    os.replace = dying(os.replace)  # type: ignore[assignment]


def test_several_files_are_moved_only_when_all_are_complete(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a library's own words\nand more")

    def write(path: Path) -> None:
        path.write_text("new")

    with pytest.raises(OutputError, match="b cannot be written: RuntimeError: a library's own words"):
        write_together({tmp_path / "a": write, tmp_path / "b": fail})
    assert not list(tmp_path.iterdir())
    write_together({tmp_path / "a": write, tmp_path / "b": write})
    assert len(list(tmp_path.iterdir())) == 2


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere"), tmp_path / "nul\0"):
        with pytest.raises(OutputError):
            train(small(), IMAGES, options=OPTIONS, folder=folder)
        with pytest.raises(OutputError):
            pixelfast.save(small(), folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update(position=[1, 2, 3]),
        lambda state: state.update(position=[-1, 0, 0.0, 0.0], history=[]),
        lambda state: state.update(position=[10**9, 0, 0.0, 0.0]),
        lambda state: state.update(position=[1, 0, float("nan"), 0.0]),
        lambda state: state.update(history=[{"no": 1}]),
        lambda state: state.update(rng=[torch.zeros(3)]),
        lambda state: state.update(weights={}),
        lambda state: state["optimiser"]["param_groups"][0].update(weight_decay=0.9),
        lambda state: state["optimiser"]["state"][0].update(exp_avg=torch.zeros(1)),
        lambda state: state.pop("average"),
        lambda state: state.update(identity=3),
    ],
)
def test_a_damaged_training_state(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    train(small(), IMAGES, options=TrainOptions(epochs=1, batch_size=2), folder=tmp_path)
    state = torch.load(tmp_path / "training.pt")
    damage(state)
    torch.save(state, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match=r"training\.pt is damaged or no training state: .*resume=False"):
        train(small(), IMAGES, options=TrainOptions(epochs=1, batch_size=2), folder=tmp_path)


def test_what_a_model_raises_says_where(tmp_path: Path) -> None:
    class Net(GatedPixelCNN):
        def forward(self, x: torch.Tensor, *conditions: Any) -> torch.Tensor:
            raise KeyError("mine")

    with pytest.raises(
        UnsupportedModel, match=r"Net trains, in epoch 1, step 1, and raises KeyError: 'mine' \(.*test_written_files\.py, line"
    ):
        train(Net((1, 7, 5), levels=4, features=4, layers=1), IMAGES, options=OPTIONS)


@pytest.mark.parametrize("wrong", [None, [1], np.zeros((4, 1, 7, 5), int), torch.zeros(4, 1, 7, 5, dtype=torch.complex64)])
def test_training_images_of_other_types(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="images must be"):
        train(small(), wrong, options=OPTIONS)
    with pytest.raises(InvalidInput, match="labels must be a tensor"):
        train(small(), IMAGES, wrong if wrong is not None and not isinstance(wrong, torch.Tensor) else [1], options=OPTIONS)
    for model in (None, nn.Linear(1, 1)):
        with pytest.raises(InvalidInput):
            train(model, IMAGES, options=OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [object(), [], {"a": 1}, b"x", 1.5, np.array([1, 2]), torch.zeros(2)], ids=lambda w: type(w).__name__
)
def test_arguments_of_other_types(tmp_path: Path, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=GREY, levels=256)
    drawing = pictures.Drawing(4)
    for row in range(7):
        drawing(row, IMAGES)
    with pytest.raises(OutputError, match="cannot be written"):
        drawing.save("nowhere/a.gif")
    for name in ("levels", "source_levels", "seed", "axes", "background", "palette", "frames", "max_bytes"):
        with pytest.raises(InvalidInput, match=name):
            data.load("a.npz", **{name: wrong})
    for call in (
        lambda: data.load("a.npz", test_fraction=[wrong]),  # type: ignore[arg-type]
        lambda: data.quantise(IMAGES, wrong),
        lambda: data.quantise(IMAGES, 4, wrong),
        lambda: pictures.to_rgb(IMAGES, wrong),
        lambda: pictures.grid(IMAGES, 4, scale=wrong),
        lambda: pictures.grid(IMAGES, 4, columns=wrong),
        lambda: pictures.grid(IMAGES, 4, gap=wrong),
        lambda: pictures.grid(IMAGES, 4, scale=10**30),
        lambda: read_given("a.npz", wrong, 4),
        lambda: pixelfast.save(small(), "out", dtype=wrong),
        lambda: pixelfast.save(small(), "out", [wrong]),  # type: ignore[arg-type]
        lambda: pixelfast.load("digits", strict=wrong),
        lambda: pixelfast.load("digits", prefix=wrong),
        lambda: pixelfast.load("digits", wrong),
        lambda: checkpoint.match("digits", wrong),
        lambda: train(small(), IMAGES, test=wrong),
        lambda: train(small(), IMAGES, resume=wrong),
        lambda: train(small(), IMAGES, on_epoch=[wrong]),  # type: ignore[arg-type]
        lambda: train(small(), IMAGES, extra=[wrong]),  # type: ignore[arg-type]
        lambda: pictures.Drawing(4).save(wrong),
        lambda: drawing.save("a.gif", milliseconds=wrong),
        lambda: bits_per_dim(small(), IMAGES, batch_size=wrong),
    ):
        with pytest.raises((InvalidInput, CheckpointError)):
            call()
