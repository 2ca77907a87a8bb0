"""Two checkouts of pixelfast on one machine, in turns: the clock of a machine drifts, and no earlier run can tell by how much.

Each has a process of its own that stays alive (`contender.py`), with this Python and these libraries. Who begins a round
alternates. What is compared is the ratio within a round, new over old; the interval of the ratios' median is that of its order
statistics, which holds whatever their distribution is.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speed.measure import PAUSE
from speed.results import Times
from speed.texts import duration

PROGRAM = Path(__file__).with_name("contender.py")
CONFIDENCE = 0.95
ROUNDS = 7
"""Rounds that are made even if the seconds are spent; with fewer than six there is no interval."""
TURN = 0.05
"""Seconds that a turn of the slower one takes at least: what is shorter is called several times."""
AGAIN = 3
"""Compilations that are compared."""

Verdict = Literal["not slower", "SLOWER", "open"]


class ContestError(Exception):
    """A checkout cannot be measured; the text says which one, and why."""


@dataclass(frozen=True)
class Pairs:
    """Seconds of the old and of the new checkout, round by round."""

    old: Times
    new: Times

    @property
    def ratios(self) -> Times:
        """New over old within each round: below 1, the new one is faster."""
        return Times(tuple(new / old for old, new in zip(self.old.runs, self.new.runs, strict=True)))

    def verdict(self, percent: float) -> Verdict:
        """Whether the new one takes at most so many percent longer, as far as the rounds can tell."""
        low, high = interval(self.ratios.runs)
        most = 1 + percent / 100
        return "not slower" if high <= most else "SLOWER" if low > most else "open"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of a distribution lies with `CONFIDENCE`, by a sample; infinite if the sample is too small to tell."""
    ordered, count = [-math.inf, *sorted(values), math.inf], len(values)
    below, rank = 0.5**count, 0  # the chance that at most `rank` of them lie below the median
    while below <= (1 - CONFIDENCE) / 2:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return ordered[rank], ordered[count + 1 - rank]


class Contender:
    """The process of one checkout.

    Args:
        checkout: a repository of pixelfast, its native engine built.
        folder: where the package is laid out; it is not there yet.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout = checkout.resolve()
        if not (self.checkout / "pixelfast" / "__init__.py").is_file():
            raise ContestError(f"{checkout} is no checkout of pixelfast: it has no pixelfast/__init__.py")
        lay_out(self.checkout, folder)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, str(PROGRAM)]
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, command: str, **options: Any) -> Any:
        """The result of a command of `contender.Contender`.

        Raises:
            ContestError: it failed there, or the process is gone.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([command, options]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContestError(f"{self.checkout}: its process ended with code {self.process.wait()}; what it said stands above")
        reply = json.loads(line)
        if "error" in reply:
            raise ContestError(f"{self.checkout}: {command}: {reply['error']}")
        return reply["result"]

    def load(self, model: str, quick: bool, threads: int) -> None:
        found = Path(self.ask("load", model=model, quick=quick, threads=threads))
        if self.checkout not in found.parents:
            raise ContestError(f"{self.checkout}: its process imported {found} instead")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def lay_out(checkout: Path, folder: Path) -> None:
    """Links by which a checkout is imported that need not be installed: its kernels lie beside the package."""
    package = folder / "pixelfast"
    package.mkdir(parents=True)
    for entry in (checkout / "pixelfast").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    if not (package / "kernels").exists():
        (package / "kernels").symlink_to(checkout / "kernels")


Both = tuple[Contender, Contender]
"""The old checkout and the new one."""


def in_turns(both: Both, seconds: float, least: int, command: str, **options: Any) -> Pairs:
    """Rounds of a command that gives seconds, until so many are spent."""
    rounds: list[dict[Contender, float]] = []
    begin = time.perf_counter()
    while len(rounds) < least or time.perf_counter() - begin < seconds:
        result = {}
        for contender in both if len(rounds) % 2 == 0 else both[::-1]:
            time.sleep(PAUSE)
            result[contender] = contender.ask(command, **options)
        rounds.append(result)
    return Pairs(*(Times(tuple(result[contender] for result in rounds)) for contender in both))


def compilations(both: Both, engine: str, precision: str) -> tuple[Pairs, str]:
    """Compilations after the first; that one pays for what it imports, and is told in words."""
    options = {"engine": engine, "precision": precision}
    first = " and ".join(duration(contender.ask("compile", **options)) for contender in both)
    return in_turns(both, 0.0, AGAIN, "compile", **options), f"the first: {first}"


def drawings(both: Both, images: int, seconds: float) -> tuple[bool, Pairs]:
    """Whether both draw the same images, and calls of `sample` once each checkout's images are verified."""
    digests = {contender.ask("verify", images=images) for contender in both}
    once = max(contender.ask("draw", images=images, times=1) for contender in both)
    times = max(1, math.ceil(TURN / once))
    return len(digests) == 1, in_turns(both, seconds, ROUNDS, "draw", images=images, times=times)
