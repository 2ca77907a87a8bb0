"""One part of a check: a program in a process group of its own, stopped when its time is over.

What it finds it prints, one JSON object with a "kind" on a line of its own, as soon as it knows; whatever else it prints goes
to the log. So nothing that was found is lost when a later line never comes. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]
GRACE = 5.0
"""Seconds that a killed program's pipes may stay open, held by somebody who left its group."""
ENOUGH = 0.75
"""The share of its limit after which a part that knows its time begins nothing more."""
TOLD = 5
"""Last lines of a program that failed, which are given as the reason; the letters of each are `WIDE`."""
WIDE = 160


@dataclass(frozen=True)
class Part:
    """A program that finds something.

    Attributes:
        name: as the report has it.
        command: script and arguments, run by this Python; "{limit}" stands for the seconds after which it should begin nothing
            more, by itself.
        limit: seconds after which it is killed.
        needs: "gpu", "torch" or "": what it cannot do without.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: str = "gpu"


@dataclass(frozen=True)
class Outcome:
    """How a part ended: "ok", "failed" or "skipped"."""

    status: str
    reason: str
    seconds: float


class Log:
    """A text file that several threads write lines to."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock, self._began = path.open("w", encoding="utf-8"), threading.Lock(), time.monotonic()

    def write(self, who: str, line: str) -> None:
        with self._lock:
            if self._file.closed:  # somebody still had something to say
                return
            self._file.write(f"[{time.monotonic() - self._began:6.1f} s] {who}: {line.rstrip()}\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class Running:
    """The process groups that live at the moment, so that none outlives who started it."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._over = False

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        with self._lock:
            if self._over:
                raise InterruptedError("the check was stopped")
            process = subprocess.Popen(command, start_new_session=True, text=True, errors="replace", **options)
            self._groups.add(process.pid)
            return process

    def end(self, group: int) -> None:
        """Kill what is left of a group."""
        with self._lock:
            if group in self._groups:
                self._groups.discard(group)
                kill_group(group)

    def end_all(self) -> None:
        with self._lock:
            self._over = True
            for group in self._groups:
                kill_group(group)
            self._groups.clear()


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run(
    part: Part,
    python: str,
    environment: Mapping[str, str],
    limit: float,
    log: Log,
    found: Callable[[Record], None],
    running: Running,
) -> Outcome:
    """Run a part; `found` is called with each of its records, at once."""
    begin = time.monotonic()
    command = [word.format(limit=max(1, int(ENOUGH * limit))) for word in part.command]
    log.write(part.name, f"begins, at most {limit:.0f} s: {' '.join(command)}")
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = running.start([python, "-u", *command], env=dict(environment), **pipes)
    last: deque[str] = deque(maxlen=TOLD)
    kinds: list[str] = []

    def take(line: str) -> None:
        record = parsed(line)
        if record is None:
            listen(line)
            return
        kinds.append(str(record["kind"]))
        found(record)

    def listen(line: str) -> None:
        if line.strip():
            last.append(line.strip()[:WIDE])
        log.write(part.name, line)

    assert process.stdout is not None
    assert process.stderr is not None
    readers = [_reader(process.stdout, take), _reader(process.stderr, listen)]
    try:
        process.wait(timeout=max(limit, 0.0))
        late = False
    except subprocess.TimeoutExpired:
        late = True
    running.end(process.pid)
    process.wait()
    for reader in readers:
        reader.join(GRACE)
    took = time.monotonic() - begin
    outcome = _judged(process.returncode, late, limit, kinds, list(last), took)
    log.write(part.name, f"{outcome.status} after {took:.1f} s {outcome.reason}")
    return outcome


def _judged(code: int, late: bool, limit: float, kinds: list[str], last: list[str], took: float) -> Outcome:
    told = f"; it said last: {' | '.join(last)}" if last else ""
    if late:
        return Outcome("failed", f"killed after {limit:.0f} s{told}", took)
    if code != 0:
        return Outcome("failed", f"it ended with code {code}{told}", took)
    if not kinds:
        return Outcome("failed", f"it printed no result{told}", took)
    if set(kinds) == {"skipped"}:
        return Outcome("skipped", "", took)
    return Outcome("failed" if "failed" in kinds else "ok", "", took)


def parsed(line: str) -> Record | None:
    """A line that is a record."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _reader(pipe: IO[str], take: Callable[[str], None]) -> threading.Thread:
    def read() -> None:
        for line in pipe:
            take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
