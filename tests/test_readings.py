"""The encoding is never assumed in silence, and `check(data=)` finds out how a trained model is fed and read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pixelfast
from pixelfast import Bernoulli, Categorical, CustomHead, EncodingWarning, InvalidInput, MixtureOfLogistics
from pixelfast.cli import main as cli
from pixelfast.inputs.announce import _said
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelRNN, PixelSNAIL

LEVELS = 16
SHAPE = (1, 7, 5)
IMAGES = np.random.default_rng(0).integers(0, LEVELS, (6, 1, 7, 1)).repeat(5, 3)  # every row is of one value

STUDENT = """
import torch
from torch import nn


class Student(nn.Module):
    "Expects the value of its left neighbour, which it finds by undoing what it was fed; before the first column, nothing."

    def __init__(self, scale=1.0, offset=0.0, levels=16):
        super().__init__()
        self.scale, self.offset, self.levels = scale, offset, levels

    def forward(self, x):
        left = nn.functional.pad((x - self.offset) / self.scale, (1, 0))[..., :-1]
        values = torch.arange(float(self.levels)).view(1, -1, 1, 1)
        return -8 * (values - left) ** 2 * (torch.arange(x.shape[3]) > 0)
"""
names: dict = {}
exec(STUDENT, names)
Student: Callable[..., nn.Module] = names["Student"]


@pytest.fixture
def nothing_said() -> None:
    _said.clear()


def best_of(model: nn.Module, head: pixelfast.Head | None = None, shape: tuple[int, int, int] = SHAPE) -> pixelfast.Report:
    return pixelfast.check(model, shape, head or Categorical(LEVELS), data=IMAGES)


def test_a_model_that_reads_raw_integers_is_found_out(nothing_said: None) -> None:
    """The one that was sampled at 3.49 bits/dim instead of 0.42, without a sign of it."""
    report = best_of(Student())
    assert report.best is not None
    assert report.used is not None
    assert report.best.encode == "integer"
    assert report.best.bits == pytest.approx(4 / 5, abs=0.01)  # only the first column is not known
    assert report.used.encode == "symmetric"
    assert report.used.bits > 2
    assert report.misread
    text = str(report)
    assert 'encode="symmetric", layout N(KC)HW <- what was assumed' in text
    assert 'encode="integer", layout N(KC)HW scores clearly better than what was assumed, encode="symmetric"' in text
    told = best_of(Student(), Categorical(LEVELS, encode="unit"))
    assert told.misread
    assert 'scores clearly better than what the head says, encode="unit"' in str(told)
    assert pixelfast.check(Student(), None, Categorical(LEVELS), data=IMAGES).shape == SHAPE  # as the images are
    right = best_of(Student(), Categorical(LEVELS, encode=report.best.encode))
    assert not right.misread
    assert 'none scores clearly better than what the head says, encode="integer"' in str(right)


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        (1 / 15, 0),
        (2 / 15, -1),
        (1 / 16, 0),
        (2 / 16, -1),
        (1 / 255, 0),
        (17, 0),
        (1 / 15, -0.5),
        (1 / 15 / 0.3081, -0.1307 / 0.3081),
    ],
)
def test_every_usual_scale_is_found(scale: float, offset: float) -> None:
    best = best_of(Student(scale, offset)).best
    assert best is not None
    table = Categorical(LEVELS, encode=best.encode).table(SHAPE)[0].float()
    torch.testing.assert_close(table, torch.arange(float(LEVELS)) * scale + offset, atol=0.02 * scale, rtol=0.02)


def test_an_encoding_of_ones_own_is_scored_too() -> None:
    report = best_of(Student(3.0, 5.0), Categorical(LEVELS, encode=lambda k: 3.0 * k + 5.0))
    assert report.best is report.used
    assert not report.misread
    assert "encode=a function" in str(report)


def test_a_lookup_takes_integers_only() -> None:
    model = nn.Sequential(nn.Embedding(LEVELS, 4), nn.Flatten(3), nn.ConstantPad1d((4, -4), 0.0), nn.Unflatten(3, (5, 4)))
    left = Rows(nn.Sequential(*model, nn.Linear(4, LEVELS)))
    report = best_of(left)
    assert report.autoregressive
    assert {reading.encode for reading in report.readings} == {"integer"}
    assert report.misread
    assert 'encode="symmetric", which was assumed, does not run or leaks: pass encode="integer"' in str(report)
    with pytest.raises(pixelfast.PixelfastError):
        pixelfast.check(left, SHAPE, Categorical(LEVELS))


class Rows(nn.Module):
    """(N, 1, H, W, K) of an inner model as (N, K, H, W)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, 0].permute(0, 3, 1, 2)


class Colours(nn.Module):
    """Each colour expects the value of its left neighbour: (N, C * K, H, W), which (K * C) fits as well by its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Student(levels=3)

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([self.student(x[:, c : c + 1]) for c in range(3)], 1)  # (N, C, K, H, W)
        return logits.flatten(1, 2)


def test_layouts_that_causality_leaves_open_are_decided_by_the_images() -> None:
    images = np.random.default_rng(0).integers(0, 3, (8, 3, 3, 1)).repeat(4, 3)
    shape, head = (3, 3, 4), Categorical(3)
    with pytest.raises(InvalidInput, match="can be read in 2 ways"):
        pixelfast.check(Colours(), shape, head)
    report = pixelfast.check(Colours(), shape, head, data=images)
    assert report.best is not None
    assert (report.best.encode, report.best.layout) == ("integer", "N(CK)HW")
    assert {reading.layout for reading in report.readings} == {"N(CK)HW", "N(KC)HW"}
    told = pixelfast.check(Colours(), shape, Categorical(3, "integer", layout="N(KC)HW"), data=images)
    assert told.misread
    assert told.layout == "N(KC)HW"


def test_layouts_that_leak_do_not_count() -> None:
    leaky = nn.Conv2d(1, LEVELS, 1)
    report = best_of(leaky)
    assert not report.autoregressive
    assert report.readings == ()
    assert report.best is None
    assert not report.misread


def test_an_untrained_model_is_said_to_know_nothing() -> None:
    torch.manual_seed(0)
    text = str(best_of(PixelCNN(SHAPE, levels=LEVELS, features=4, blocks=1), PixelCNN(SHAPE, levels=LEVELS).head))
    assert "a model that knows nothing has 4.0000" in text


class Branching(nn.Module):
    """A student that looks at its values in Python, which cannot be traced; with ``peek`` it sees what it predicts."""

    def __init__(self, peek: int = 0) -> None:
        super().__init__()
        self.student, self.peek = Student(), peek

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x.roll(-self.peek, 3)) if float(x.sum()) > -1e9 else x


def test_a_model_that_cannot_be_traced_is_scored_too() -> None:
    report = best_of(Branching())
    assert report.best is not None
    assert report.best.encode == "integer"
    assert report.misread
    assert report.unscheduled is not None
    assert "autoregressive: not proven" in str(report)
    with pytest.raises(pixelfast.UnsupportedModel):
        best_of(Branching(peek=1))
    with pytest.raises(pixelfast.UnsupportedModel):
        pixelfast.check(Branching(), SHAPE, Categorical(LEVELS))


def test_conditions_belong_to_the_images() -> None:
    model = GatedPixelCNN(SHAPE, levels=LEVELS, features=4, layers=1, classes=6)
    report = pixelfast.check(model, cond=torch.arange(6), data=IMAGES)
    assert report.used is not None
    scored = pixelfast.compile(model, engine="naive").log_prob(torch.from_numpy(IMAGES), cond=torch.arange(6))
    assert report.used.bits == pytest.approx(-float(scored.mean()) / np.log(2) / 35, abs=1e-5)
    with pytest.raises(InvalidInput, match="2 entries"):
        pixelfast.check(model, cond=torch.arange(2), data=IMAGES)


@pytest.mark.parametrize("images", [IMAGES / 15, IMAGES + 1, IMAGES[:, :, :6], IMAGES[:0]])
def test_images_that_do_not_fit_are_refused(images: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="data"):
        pixelfast.check(Student(), SHAPE, Categorical(LEVELS), data=images)


def test_an_assumed_encoding_is_announced_once(nothing_said: None) -> None:
    student = Student()
    with pytest.warns(EncodingWarning, match=r'encode="symmetric" is assumed, .* as 2k/15 - 1.*check\(model') as caught:
        pixelfast.sample(student, shape=SHAPE, head=Categorical(LEVELS), engine="naive")
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error", EncodingWarning)
        pixelfast.sample(student, shape=SHAPE, head=Categorical(LEVELS), engine="naive")
        pixelfast.compile(Student(2.0), SHAPE, Categorical(LEVELS), engine="naive")
        pixelfast.sample(student, shape=SHAPE, head=Categorical(LEVELS, encode="symmetric"), engine="naive")
    with pytest.warns(EncodingWarning, match='Bernoulli.*encode="unit"'):
        pixelfast.compile(Student(levels=1), SHAPE, Bernoulli(), engine="naive")


def test_what_was_said_is_not_announced(nothing_said: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", EncodingWarning)
        for encode in ("unit", "symmetric", "integer", (1.0, 0.0), torch.arange(16.0)):
            pixelfast.compile(Student(), SHAPE, Categorical(LEVELS, encode=encode), engine="naive")
        for own in (PixelCNN, GatedPixelCNN, PixelRNN, PixelSNAIL):
            pixelfast.compile(own(SHAPE, levels=4, features=4), engine="naive")
        pixelfast.check(Student(), SHAPE, Categorical(LEVELS))


def test_an_assumed_encoding_is_the_same_value() -> None:
    assert Categorical(4) == Categorical(4, encode="symmetric")
    assert Bernoulli() == Bernoulli(encode="unit")
    assert MixtureOfLogistics(4, 1, 1) == MixtureOfLogistics(4, 1, 1, encode="symmetric")
    assert CustomHead(4, 1, abs) == CustomHead(4, 1, abs, encode="symmetric")
    assert Categorical(4) != Categorical(4, encode="unit")


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "students.py").write_text(STUDENT)
    np.savez(tmp_path / "rows.npz", images=IMAGES[:, 0], levels=LEVELS)
    monkeypatch.chdir(tmp_path)
    model = ["--model", "students.py:Student", "--levels", "16", "--shape", "1,7,5"]
    assert cli.main(["check", *model, "--data", "rows.npz"]) == 1
    out, err = capsys.readouterr()
    assert 'encode="integer", layout N(KC)HW scores clearly better' in out
    assert err == ""
    assert cli.main(["check", *model, "--data", "rows.npz", "--encode", "integer"]) == 0
    assert "which was assumed: data= (--data) scores" not in capsys.readouterr().out
    _said.clear()
    assert cli.main(["eval", *model, "--data", "rows.npz", "--split", "all"]) == 0
    err = capsys.readouterr().err
    assert err.startswith('pixelfast: how values enter Student was not said: encode="symmetric" is assumed')
    assert err.count("\n") == 1
