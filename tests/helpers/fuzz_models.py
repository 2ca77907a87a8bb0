"""Thousands of random models and calls against the naive loop, in several processes (make fuzz).

Cases have numbers: `check(random_case(number))` runs one again. Those that fail are counted by what they fail with; of each
such kind one is shrunk and printed.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from random_cases import Case, kinds, random_case, reason_of, shrunk
from random_trials import check

CHUNK = 5
FRESH = 40
"""Chunks after which a process is replaced: what PyTorch keeps of its traces grows."""
SHRINKING = 60
"""Seconds that a failing case is made simpler for."""


class Outcome(NamedTuple):
    """What became of a case: the seconds it took a processor, its ties, why it was refused or how it failed."""

    number: int
    seconds: float
    ties: int
    refused: str | None
    failed: str | None


def outcome_of(number: int) -> Outcome:
    begin = time.process_time()
    ties, refused, failed = tried(random_case(number))
    return Outcome(number, time.process_time() - begin, ties, refused, failed)


def tried(case: Case) -> tuple[int, str | None, str | None]:
    """Ties, why it was refused, and what it failed with."""
    try:
        return *check(case), None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if f"{os.sep}pixelfast{os.sep}" in frame.filename] or frames
        return 0, None, f"{reason_of(error)} ({Path(own[-1].filename).name}:{own[-1].lineno})"


def simplest(failure: tuple[int, str]) -> str:
    """A case that fails, made simpler while it goes on failing in the same way, and its whole error."""
    number, failed = failure
    end = time.monotonic() + SHRINKING
    case = shrunk(random_case(number), lambda simpler: time.monotonic() < end and tried(simpler)[2] == failed)
    try:
        check(case)
        error = "it did not fail again"
    except Exception as found:
        error = f"{type(found).__name__}: {found}".strip()
    return f"{error[:1000]}\n    check(random_case({number}))\n    shrunk: check({case!r})"


def prepare() -> None:
    """Let a process compute with one thread, and in silence, as tests/conftest.py does."""
    torch.set_num_threads(1)
    gc.set_threshold(100_000, 20, 20)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, help="number of the first case; by default new ones")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that many")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(1 << 40) if options.first is None else options.first
    print(f"{options.cases} cases from number {first}, in {options.jobs} processes", flush=True)
    begin, done = time.monotonic(), list[Outcome]()
    with multiprocessing.get_context("spawn").Pool(options.jobs, prepare, maxtasksperchild=FRESH) as pool:
        for outcome in pool.imap_unordered(outcome_of, range(first, first + options.cases), CHUNK):
            done.append(outcome)
            if outcome.failed:
                print(f"FAILED {outcome.number}: {outcome.failed}", flush=True)
            if len(done) % 200 == 0:
                print(f"{len(done)} cases, {time.monotonic() - begin:.0f} s", flush=True)
            if time.monotonic() - begin > options.seconds:
                break
        elapsed = time.monotonic() - begin
        failed = {outcome.failed: outcome.number for outcome in reversed(done) if outcome.failed}
        counts = Counter(outcome.failed for outcome in done if outcome.failed)
        for reason, text in zip(failed, pool.imap(simplest, [(number, why) for why, number in failed.items()]), strict=True):
            print(f"{counts[reason]} of {len(done)} failed with {text}", flush=True)
    report(done, elapsed)
    return 1 if failed else 0


def report(done: list[Outcome], elapsed: float) -> None:
    """How many cases of what kind, how many were refused and why, how many failed, and how long all took."""
    groups: dict[str, Counter[Any]] = {}
    for outcome in done:
        for kind in set(kinds(random_case(outcome.number))):
            group, _, name = kind.partition(": ")
            groups.setdefault(group, Counter())[name] += 1
    for group, counts in groups.items():
        print(f"  {group}: {', '.join(f'{name} {count}' for name, count in counts.most_common())}")
    refused = Counter(outcome.refused for outcome in done if outcome.refused)
    for reason, count in refused.most_common():
        print(f"  refused {count}: {reason}")
    seconds, failed = [outcome.seconds for outcome in done], sum(outcome.failed is not None for outcome in done)
    mean, most = sum(seconds) / len(done), max(seconds)
    print(f"{len(done)} cases in {elapsed:.0f} s: {mean:.2f} s of a processor each, {most:.1f} s at most")
    print(
        f"{failed} failed, {sum(refused.values())} were refused ({sum(refused.values()) / len(done):.1%}), "
        f"{sum(outcome.ties for outcome in done)} draws lay at a CDF edge"
    )


if __name__ == "__main__":
    sys.exit(main())
