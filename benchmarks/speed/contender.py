"""One checkout of pixelfast, in a process that stays alive and does what it is told: see `contest.py`.

A command is a line of JSON on the standard input, a reply one on the standard output. Nothing is asked of the package but its
public interface, so that earlier checkouts can be measured, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

import pixelfast
from speed.models import MODELS
from speed.texts import short

SEED = 0


class Contender:
    """One model, one engine."""

    def load(self, model: str, quick: bool, threads: int) -> str:
        """Build the module; where the package lies."""
        torch.set_num_threads(threads)
        self.entry, self.threads = MODELS[model], threads
        self.shape = self.entry.quick_shape() if quick else self.entry.shape
        self.module, self.head = self.entry.make(self.shape)
        return str(Path(pixelfast.__file__).resolve())

    def compile(self, engine: str, precision: str) -> float:
        """Seconds that compiling takes."""
        begin = time.perf_counter()
        options = {"cond": self.entry.cond(1), "engine": engine, "precision": precision, "self_check": False}
        self.sampler = pixelfast.compile(self.module, self.shape, self.head, **options)
        return time.perf_counter() - begin

    def verify(self, images: int) -> str:
        """Draw, and compare the images with the module's own draws; a digest of them.

        Raises:
            pixelfast.VerificationError: they are not what they should be.
        """
        self.cond = self.entry.cond(images)
        self.drawn = self.sample(images)
        self.sampler.verify(self.drawn, seed=SEED, cond=self.cond)
        return hashlib.sha256(self.drawn.numpy().tobytes()).hexdigest()

    def draw(self, images: int, times: int) -> float:
        """Seconds that a call takes, by so many of them.

        Raises:
            ValueError: the images are not those that were verified.
        """
        begin = time.perf_counter()
        for _ in range(times):
            drawn = self.sample(images)
        took = time.perf_counter() - begin
        if not torch.equal(drawn, self.drawn):
            raise ValueError("a timed call drew other images than the verified one")
        return took / times

    def sample(self, images: int) -> Tensor:
        return self.sampler.sample(images, seed=SEED, cond=self.cond, threads=self.threads)


def main() -> int:
    """Do what is told, until nothing more is."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does not stand among the replies
    contender = Contender()
    for line in sys.stdin:
        name, options = json.loads(line)
        try:
            reply: dict[str, Any] = {"result": getattr(contender, name)(**options)}
        except Exception as error:
            reply = {"error": short(error)}
        print(json.dumps(reply), file=replies, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
