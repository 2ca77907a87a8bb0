"""Damaged programs, run by the native engine: each is refused with an error of ours, or runs inside its memory.

    python tests/helpers/fuzz_programs.py --cases 100000      # `make fuzz-programs`
    python tests/helpers/fuzz_programs.py --case 4711         # one of them again, in this process

Cases run in processes of their own, so that one that crashes or hangs is known by its number. Prints how many were refused, and
why, how many ran, and what went wrong; exit status 1 if anything did.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from damaged_programs import Damaged, damaged

from pixelfast.engines.native import engine as cpu
from pixelfast.errors import EngineUnavailable

GUARD = 64
"""Numbers before and behind an array that the engine writes."""
MEMORY = 1 << 30
"""Bytes that a case may take: what needs more is refused, as it is where a machine has no more, and takes no time."""


def guarded(array: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """An array within a larger one."""
    if array is None:
        return None, None
    around = np.full(array.size + 2 * GUARD, 77, array.dtype)
    return around, around[GUARD : GUARD + array.size].reshape(array.shape)


def untouched(around: np.ndarray | None) -> bool:
    return around is None or bool((around[:GUARD] == 77).all() and (around[-GUARD:] == 77).all())


def outcome(case: Damaged) -> str:
    """What becomes of a case: "ran", "ran to a failed draw", "refused: .." or "WRONG: .."."""
    native = cpu.native()
    isas = native.isas()
    plan_for_gpu(case)
    how = {**case.options, "isa": isas[case.options["isa"]] if case.options["isa"] < len(isas) else ""}
    try:
        engine = native.Engine(case.words, case.arrays, **how)
    except (ValueError, MemoryError) as error:
        return f"refused: {reason(error)}"
    around = {}
    call = dict(case.call)
    for name in ("values", "log_prob", "parameters"):
        around[name], call[name] = guarded(call[name])
    try:
        position = cpu.sample(engine, **call)
    except ValueError as error:
        return f"refused: {reason(error)}"
    except EngineUnavailable as error:
        wrong = "bug of the native engine" in str(error)
        return f"{'WRONG' if wrong else 'refused'}: {reason(error)}"
    finally:
        written = [name for name, array in around.items() if not untouched(array)]
    if written:
        return f"WRONG: wrote beyond {written}"
    values = call["values"][: len(call["noise"])]
    if position is not None:
        inside = all(0 <= at < size for at, size in zip(position, values.shape, strict=True))
        return "ran to a failed draw" if inside else "WRONG: failed nowhere"
    return "ran" if ((values >= 0) & (values < case.levels)).all() else "WRONG: values out of range"


def plan_for_gpu(case: Damaged) -> None:
    """Let the CUDA engine plan the same program, if it is built: that needs no GPU. It may refuse what the other runs."""
    try:
        native: Any = importlib.import_module("pixelfast._cuda")
    except ImportError:
        return
    try:
        engine = native.Engine(case.words, case.arrays)
        for ranks, images in ((1, 1), (4, 8)):
            engine.plan(ranks, images, 200_000)
    except (ValueError, MemoryError):
        return


def reason(error: Exception) -> str:
    return re.sub(r"-?\d+", "#", str(error) or type(error).__name__)[:110]


def limit_memory() -> None:
    if os.environ.get("LD_PRELOAD") is None and sys.platform == "linux":  # sanitizers take terabytes of addresses
        import resource

        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def work(first: int, last: int, shared: bool, path: str) -> None:
    """Run cases, and write each one's number before and its outcome after it."""
    with open(path, "ab", buffering=0) as log:
        for number in range(first, last):
            log.write(b"%d " % number)
            try:
                found = outcome(damaged(number, shared))
            except Exception as error:
                found = f"WRONG: {type(error).__name__}: {reason(error)}"
            log.write(found.encode() + b"\n")


class Worker:
    """A process that runs cases [first, last), and another one from the next case on wherever that ends."""

    def __init__(self, first: int, last: int, options: argparse.Namespace, folder: Path) -> None:
        self.next, self.last, self.options, self.log = first, last, options, folder / f"{first}.log"
        self.errors = self.log.with_suffix(".errors")
        self.begin()

    def begin(self) -> None:
        self.log.unlink(missing_ok=True)
        self.since, self.size = time.monotonic(), 0
        cases = ["--first", str(self.next), "--cases", str(self.last - self.next)] + ["--shared"] * self.options.shared
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen([sys.executable, __file__, "--work", str(self.log), *cases], stderr=errors)

    def look(self, counts: Counter[str], wrong: list[str]) -> bool:
        """Whether it has finished; outcomes are counted once its process has ended."""
        size = self.log.stat().st_size if self.log.exists() else 0
        if size != self.size:
            self.size, self.since = size, time.monotonic()
        hangs = time.monotonic() - self.since > self.options.limit
        if hangs:
            self.process.kill()
        if self.process.poll() is None and not hangs:
            return False
        status = self.process.wait()
        *done, rest = (self.log.read_text() if self.log.exists() else "").split("\n")
        for line in done:
            number, found = line.split(" ", 1)
            counts[found] += 1
            if found.startswith("WRONG"):
                wrong.append(f"case {number}: {found}")
        self.next += len(done)
        if status == 0 and self.next == self.last:
            return True
        said = self.errors.read_text(errors="replace")
        summary = next((line for line in said.splitlines() if "SUMMARY" in line or "runtime error" in line), "")
        wrong.append(f"case {self.next}: {'hangs' if hangs else f'ended with status {status}'} {summary}")
        counts["WRONG: crashed or hung"] += 1
        self.next += 1
        if self.next < self.last and rest:
            self.begin()
            return False
        return True


def run(options: argparse.Namespace) -> int:
    begin, counts, wrong = time.monotonic(), Counter[str](), list[str]()
    share = -(-options.cases // options.jobs)
    last = options.first + options.cases
    with tempfile.TemporaryDirectory() as folder:
        starts = range(options.first, last, share)
        workers = [Worker(first, min(last, first + share), options, Path(folder)) for first in starts]
        while workers:
            workers = [worker for worker in workers if not worker.look(counts, wrong)]
            time.sleep(0.05)
    refused = sum(count for found, count in counts.items() if found.startswith("refused"))
    for found, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{count:8} {found}")
    ran = counts["ran"] + counts["ran to a failed draw"]
    seconds = time.monotonic() - begin
    print(f"{sum(counts.values())} programs: {refused} refused, {ran} ran, {len(wrong)} wrong; {seconds:.0f} s")
    for line in wrong:
        print(line)
    if wrong:
        print(f"one of them again: {sys.executable} {__file__} --case NUMBER" + " --shared" * options.shared)
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=cpu.usable_threads())
    parser.add_argument("--limit", type=float, default=60, help="seconds for one case")
    parser.add_argument("--shared", action="store_true", help="several threads share a tile in every case")
    parser.add_argument("--case", type=int, help="run this one alone, in this process")
    parser.add_argument("--work", metavar="LOG", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None or options.work:
        outcome(damaged(0))  # what is loaded for the first case is not of any case
        limit_memory()
    if options.case is not None:
        print(outcome(damaged(options.case, options.shared)))
        return 0
    if options.work:
        work(options.first, options.first + options.cases, options.shared, options.work)
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
