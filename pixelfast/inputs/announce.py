"""Warnings that point at the user's line, and how the command line shows them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from torch import nn

from ..distributions.base import Head
from ..distributions.encoding import Assumed
from ..errors import PACKAGE, CheckpointWarning, DataWarning, EncodingWarning

OURS = (CheckpointWarning, DataWarning, EncodingWarning)


def announce(text: str, category: type[Warning]) -> None:
    """Warn, as seen from the nearest caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


_said: set[tuple[type, type, str]] = set()
"""Models, heads and encodings of which a warning said that the encoding is assumed."""


def announce_encoding(model: nn.Module, head: Head) -> None:
    """Warn, once for each kind of model and head, where nobody said how values enter the model."""
    encode = head.encode
    kind = type(model), type(head), str(encode)
    if not isinstance(encode, Assumed) or kind in _said:
        return
    _said.add(kind)
    fed = {"symmetric": f"2k/{head.levels - 1} - 1", "unit": f"k/{head.levels - 1}"}[encode]
    announce(
        f'how values enter {type(model).__name__} was not said: encode="{encode}" is assumed, by which a value k of 0 .. '
        f"{head.levels - 1} enters as {fed}. If it was trained on other inputs, images are wrong, and nothing else shows it. "
        "pixelfast.check(model, ..., data=images), or `pixelfast check --data FILE`, finds out which encoding fits; "
        f'{type(head).__name__}(..., encode="{encode}"), or `--encode {encode}`, says that it is this one',
        EncodingWarning,
    )


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of this package as single lines on standard error, without a place in the code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, OURS):
                print(f"pixelfast: {message}", file=sys.stderr)
            else:
                shown(message, category, filename, lineno, file, line)

        for category in OURS:
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield
