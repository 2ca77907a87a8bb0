"""Warnings that point at the user's line, and how the command line shows them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .errors import CheckpointWarning, DataWarning, EncodingWarning

PACKAGE = str(Path(__file__).parent)
OURS = (CheckpointWarning, DataWarning, EncodingWarning)


def announce(text: str, category: type[Warning]) -> None:
    """Warn, as seen from the nearest caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


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
