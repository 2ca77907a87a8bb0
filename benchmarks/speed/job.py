"""What a measuring process is told to do, as plain values that JSON can hold, and how it tells how far it is."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Literal

from speed import machine
from speed.models import Shape

BEGAN = time.perf_counter()


@dataclass(frozen=True)
class Job:
    """One model at one size.

    Attributes:
        model: a name of `models.MODELS`.
        shape: (C, H, W) of the images.
        images: numbers of images.
        rows: names of `rows.ROWS`.
        runs: of each measurement, at most.
        budget: seconds of measuring in turns, after which no more than `measure.LEAST` runs are made.
        steps: rows of the image in which steps of the usual loop on cropped images are measured.
        yardstick: the forward that sampling is compared with: as it comes and tuned, as it comes, or none.
        lower: images up to which rows of lower precision are measured: they serve single images.
        verified: how many of the images are verified; the rest are drawn by the same call.
        sweep: the cells belong to a sweep.
        peak_seconds: for each measurement of the machine's peak.
        device: where engines and the module run, "cpu" or "cuda".
        limit: seconds of the whole job, on a GPU: what has not begun by then is left out. None: as long as it takes.
    """

    model: str
    shape: Shape
    images: tuple[int, ...]
    rows: tuple[str, ...]
    runs: int
    threads: int
    budget: float = 120.0
    steps: int = 3
    yardstick: Literal["tuned", "default", "none"] = "tuned"
    lower: int = 1 << 30
    verified: int = 1 << 30
    sweep: bool = False
    peak_seconds: float = machine.PEAK_SECONDS
    device: str = "cpu"
    limit: float | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        data = json.loads(text)
        return Job(**{**data, **{name: tuple(data[name]) for name in ("shape", "images", "rows")}})


def say(line: str) -> None:
    """Progress, for who waits, and for who wants to know what takes so long."""
    print(f"  [{time.perf_counter() - BEGAN:4.0f} s] {line}", file=sys.stderr, flush=True)
