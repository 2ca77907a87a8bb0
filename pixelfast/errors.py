"""The errors that pixelfast raises: each says what was found, where, why it cannot be, and what to do next."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

PACKAGE = str(Path(__file__).parent) + os.sep
PACKAGES = ("site-packages", "dist-packages")
"""Folders of installed packages."""


class PixelfastError(Exception):
    """Base of every error that pixelfast raises on purpose."""


class NotAutoregressive(PixelfastError):
    """The model's prediction of a sub-pixel depends on that sub-pixel itself or on a later one.

    Attributes:
        layer: the submodule in which the leak enters, as in ``model.named_modules()``.
        node: the operation of the traced graph in which it enters.
        offset: (rows, columns) from the predicted pixel to the pixel that it must not see.
    """

    def __init__(self, message: str, *, layer: str = "", node: str = "", offset: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message)
        self.layer, self.node, self.offset = layer, node, offset


class UnsupportedModel(PixelfastError):
    """The model does something that cannot be sampled step by step, or that pixelfast does not understand yet."""


class EngineUnavailable(PixelfastError):
    """The engine that was asked for does not exist, is not installed, or cannot run this program."""


class InvalidInput(PixelfastError, ValueError):
    """An argument has the wrong type, shape or range."""


class InvalidCall(InvalidInput, TypeError):
    """A function got an option that it does not have, or lacks an argument."""


class AmbiguousLayout(InvalidInput):
    """The model's output can be read in several ways, all of them autoregressive.

    Attributes:
        layouts: as `layout=` of a head takes them.
    """

    def __init__(self, message: str, layouts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.layouts = layouts


class CheckpointError(PixelfastError):
    """A checkpoint is truncated, foreign, or does not fit the model."""


class CheckpointWarning(UserWarning):
    """A checkpoint was loaded in part: some of the model's weights are not from it, or some of its own were left out."""


class DataWarning(UserWarning):
    """A data set leaves something open, and what was taken for it."""


class EncodingWarning(UserWarning):
    """How values enter a model was not said, and was assumed."""


class OutputError(PixelfastError, OSError):
    """A file or a folder cannot be written: there is no space or no right to, or another run writes it."""


class NumericalError(PixelfastError, ArithmeticError):
    """NaN or infinity in the weights, or in the parameters of a predicted distribution."""


class InternalError(PixelfastError):
    """Something that pixelfast neither takes nor refuses in words of its own: a bug of it, or an input that nobody foresaw."""


class VerificationError(PixelfastError):
    """Images do not agree with what the model itself draws from the same noise."""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The name that was meant, if one is near."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None) if isinstance(name, str) else None


def like(name: object, known: Iterable[str]) -> str:
    """A question after the name that was meant, if one is near: `` (did you mean 'unit'?)``, or ""."""
    near = nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def shown(value: object) -> str:
    """A value and its type, in a line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of anyone's
        text = "something"
    return f"{text if len(text) <= 80 else text[:77] + '...'} of type {type(value).__name__}"


def described(failure: BaseException) -> str:
    """What another library raised: its kind, and the first line of its message."""
    try:
        text = str(failure).strip()
    except Exception:  # a text of anyone's
        text = ""
    return f"{type(failure).__name__}: {text.splitlines()[0][:300]}" if text else type(failure).__name__


def place_of(failure: BaseException) -> str:
    """Where a user's code raised something: the last file and line that is neither ours nor of Python and what is installed."""
    if isinstance(failure, SyntaxError) and failure.filename:
        return f"{failure.filename}, line {failure.lineno}"
    frames = traceback.extract_tb(failure.__traceback__)
    others = (PACKAGE, str(Path(traceback.__file__).parent) + os.sep, "<")
    installed = [frame.filename.startswith(others) or any(folder in frame.filename for folder in PACKAGES) for frame in frames]
    theirs = [frame for frame, other in zip(frames, installed, strict=True) if not other]
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else "no file of yours"
