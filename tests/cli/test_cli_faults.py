"""The command line in adverse conditions: one message and a documented status, never a traceback, and nothing lost."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from pixelfast.cli import main as cli
from pixelfast.cli import sample as cli_sample
from pixelfast.cli.output import Output
from pixelfast.errors import OutputError
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN

STRANGERS = """
import sys
from torch import nn


class Odd(BaseException):
    pass


class Net(nn.Module):
    @property
    def head(self):
        raise ValueError("no head")


def fails():
    raise RuntimeError("two\\nlines")


def leaves():
    sys.exit(7)


def odd():
    raise Odd


def deep():
    return deep()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint `small` and strangers' code in the working directory."""
    torch.manual_seed(3)
    checkpoint.save(GatedPixelCNN((1, 7, 5), levels=3, features=4, layers=1), tmp_path / "small")
    checkpoint.save(GatedPixelCNN((2, 7, 5), levels=3, features=4, layers=1), tmp_path / "two")
    (tmp_path / "theirs.py").write_text(STRANGERS)
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("PIXELFAST_DEBUG", raising=False)
    return tmp_path


def ended(*command: str) -> int:
    try:
        return cli.main(list(command))
    except SystemExit as leaving:
        return cast(int, leaving.code)


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert ended(*command) == 2
    out, message = capsys.readouterr()
    assert "Traceback" not in message
    assert "drawn" not in out
    return message


SAMPLE = ("sample", "--checkpoint", "small", "--engine", "naive", "-n", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "nowhere/a.png"), "there is no folder nowhere"),
        (("-o", "folder.png"), "folder.png is no regular file"),
        (("-o", "a.bmp"), "a.bmp must end in .png or .npz or .npy"),
        (("-o", "nul\0.png"), "cannot be looked up"),
        (("-o", "a.png", "--scale", "100000"), "a.png would have"),
        (("--gif", "a.gif", "--scale", "9999"), "no GIF has a longer side than 65,535"),
        (("-o", "a.png", "--max-bytes", "10000"), "raise --max-bytes 10,000"),
        (("--shape", "1,1000000,1000"), "the model is too large"),
        (("--given", "/dev/zero"), "it is a device"),
        (("--cond", "folder.png"), "Is a directory"),
        (("-n", "2000000000"), "-n 2000000000: labels would take 16,000,000,000 bytes or more"),
        (("-n", "40000000"), "draw in parts, by --first, or raise --max-bytes"),
        (("--checkpoint", ""), "a path is empty"),
        (("--given", ""), "a path is empty"),
        (("-n", "9" * 30), "argument -n: must be a whole number of at most 2147483647"),
        (("--label", "9" * 5000), "takes no label"),
        (("--max-bytes", "9" * 5000), "argument --max-bytes: must be a whole number"),
        (("--threads", "100000000"), "--threads must lie in 1 .. 4096"),
        (("--temprature", "1"), "unrecognized arguments: --temprature 1: did you mean --temperature?"),
        (("--precision", "fp23"), "did you mean fp32?"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    Path("folder.png").mkdir()
    assert message in refused(capsys, *SAMPLE, *options)
    assert sorted(entry.name for entry in Path().iterdir()) == ["broken.py", "folder.png", "small", "theirs.py", "two"]


def test_a_picture_of_two_channels_is_refused_before_it_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "sample", "--checkpoint", "two", "--engine", "naive", "-n", "1", "-o", "a.png")
    assert "a.png: a picture has 1 or 3 channels, and the images 2: write an .npz instead" in message


def test_a_folder_without_the_right_to_write(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may do everything
    assert "there is no right to write into ." in refused(capsys, *SAMPLE, "-o", "a.png")
    data("a.npz")
    small = ("--data", "a.npz", "--features", "4", "--layers", "1")
    assert "a path is empty" in refused(capsys, "train", *small, "--out", "")
    message = refused(capsys, "train", *small, "--out", "run")
    assert "run cannot be written: Permission denied" in message


def data(name: str) -> None:
    np.savez(name, images=np.random.default_rng(0).integers(0, 3, (6, 7, 5)).astype(np.uint8), levels=3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("theirs.py:fails", r"theirs.py:fails failed with RuntimeError: two (theirs.py, line 17)"),
        ("theirs.py:leaves", "failed with SystemExit: 7 (theirs.py, line 21)"),
        ("theirs.py:odd", "failed with Odd (theirs.py, line 25)"),
        ("theirs.py:deep", "failed with RecursionError"),
        ("theirs.py:Net", "failed with ValueError: no head (theirs.py, line 13)"),
        ("theirs.py:fials", "theirs.py has no 'fials'; did you mean 'fails'?"),
        ("broken.py:f", "broken.py cannot be imported, SyntaxError"),
        ("nul\0.py:f", "cannot be looked up"),
        ("small:f", "has no 'f'"),
    ],
)
def test_whatever_a_strangers_module_raises(capsys: pytest.CaptureFixture[str], model: str, message: str) -> None:
    found = refused(capsys, "check", "--model", model, "--levels", "3", "--shape", "1,7,5")
    assert message in found.replace(f"{Path.cwd()}/", "")


def test_near_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean sample?" in refused(capsys, "smaple")
    assert "did you mean 'small'?" in refused(capsys, "sample", "--checkpoint", "smal")
    assert "did you mean gated?" in refused(capsys, "train", "--data", "x", "--out", "y", "--model", "gatd")


def test_a_fault_of_ours_asks_for_a_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(cli_sample, "compile", fail)
    assert ended(*SAMPLE) == 3
    message = capsys.readouterr().err
    assert message.startswith("pixelfast sample: a fault of pixelfast itself, ZeroDivisionError: deep inside. Please report it")
    assert message.count("\n") == 1
    assert "PIXELFAST_DEBUG=1" in message
    monkeypatch.setenv("PIXELFAST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        ended(*SAMPLE)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you")]
)
def test_too_little_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli_sample, "compile", fail)
    assert "the memory of this machine is too small for that" in refused(capsys, *SAMPLE)


def test_interrupted_quietly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_sample, "compile", interrupt)
    assert ended(*SAMPLE) == 130
    assert capsys.readouterr() == ("", "")


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_closed_pipe_ends_the_output_and_not_the_work(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    assert ended(*SAMPLE, "-o", "a.npz") == 0
    assert Path("a.npz").exists()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    assert ended(*SAMPLE, "-o", "b.npz") == 2
    assert Path("b.npz").exists()
    assert capsys.readouterr().err == "pixelfast: standard output cannot be written: No space left on device\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert ended(*SAMPLE, "-o", "c.npz") == 0


def test_names_that_a_terminal_cannot_show() -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, "ascii"))
    print("Kätzchen", file=output)
    output.flush()
    assert raw.getvalue() == b"K\\xe4tzchen\n"


def test_a_file_that_cannot_be_written_does_not_lose_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("a.png cannot be written: no space is left on the disk. What was there before is kept")

    monkeypatch.setitem(cli_sample.WRITERS, ".png", full)
    assert ended(*SAMPLE, "-o", "a.png", "-o", "a.npz", "--gif", "a.gif") == 2
    out, message = capsys.readouterr()
    assert Path("a.npz").exists()
    assert Path("a.gif").exists()
    assert "wrote a.npz\nwrote a.gif\n" in out
    assert message == "pixelfast sample: a.png cannot be written: no space is left on the disk. What was there before is kept\n"


@pytest.mark.parametrize("classes", [3, "a", {"a": 1}, ["a"]])
def test_class_names_of_a_configuration(capsys: pytest.CaptureFixture[str], classes: Any) -> None:
    checkpoint.save(GatedPixelCNN((1, 7, 5), levels=3, features=4, layers=1, classes=2), "small", {"classes": classes})
    if isinstance(classes, list):
        assert ended(*SAMPLE, "-o", "a.png", "--captions") == 0
    else:
        assert "`classes` of its config.json must be a list of names" in refused(capsys, *SAMPLE)


def test_train_into_a_file_and_on_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    data("a.npz")
    options = ("train", "--data", "a.npz", "--features", "4", "--layers", "1", "--epochs", "1", "--out")
    assert "theirs.py is no folder" in refused(capsys, *options, "theirs.py")
    for device in ("meta", "gpu", "cuda:99"):
        assert f"--device {device}" in refused(capsys, *options, "run", "--device", device)
    assert "the model is too large" in refused(capsys, *options, "run", "--features", "1000000000")
    assert "seed must be below 2^63" in refused(capsys, *options, "run", "--seed", "9" * 30)
