"""What the command line shows whatever happens: a closed pipe ends the output and not the work, options have near names."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from ..errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest option or choice."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        result, left = super().parse_known_args(args, namespace)
        if left:
            near = [_near(word.partition("=")[0], self._option_string_actions) for word in left if word.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(left)}{''.join(near[:1])}")
        return result, left

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        super().error(message + (_near(found[1], re.findall(r"[\w-]+", found[2])) if found else ""))


def _near(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f": did you mean {near}?" if near else ""


class Output:
    """Standard output that can end early: what is written afterwards is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.failure = stream, None

    failure: OSError | None

    def write(self, text: str) -> int:
        try:
            if self.failure is None:
                self.stream.write(text)
        except UnicodeEncodeError:  # class names on a terminal that knows ASCII only
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as failure:
            self._end(failure)
        return len(text)

    def flush(self) -> None:
        try:
            if self.failure is None:
                self.stream.flush()
        except OSError as failure:
            self._end(failure)

    def _end(self, failure: OSError) -> None:
        self.failure = failure
        with contextlib.suppress(OSError, ValueError):  # what is still in the buffer goes nowhere when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def kept_quiet() -> Iterator[Output | None]:
    """Standard output as `Output` in the meantime."""
    if sys.stdout is None:  # closed before the program began
        yield None
        return
    output = Output(sys.stdout)
    with contextlib.redirect_stdout(output):  # type: ignore[type-var]
        try:
            yield output
        finally:
            output.flush()


def complain(text: str) -> None:
    """A line on standard error, if there is one."""
    with contextlib.suppress(OSError, AttributeError):
        print(text, file=sys.stderr, flush=True)
