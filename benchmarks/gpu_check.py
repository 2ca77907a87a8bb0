"""Everything that a session with a GPU should find out, in one command: `benchmarks/gpu_check.sh OUT`.

It needs no network and nothing installed but Python, PyTorch and what belongs to it; what else it could use is named where it
is missing. Each part is a program of its own with a limit of its own, killed with all that it started when that is over, and
what it finds is in OUT/gpu_check.json and OUT/gpu_check.md as soon as it finds it; OUT/gpu_check.log has what everything said.
Without a GPU, what needs one is left out, and says so. Standard library only; the parts are in gpu/.

Exit code: 0 if no part failed, 1 if one did, 2 if the arguments make no sense.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu import package
from gpu.process import Log, Outcome, Part, Running, run
from gpu.summary import Summary

HERE = Path(__file__).resolve().parent

SECONDS = 525.0
"""The time for everything: a little less than the nine minutes that a session gives."""
LEAST = 5.0
"""Seconds without which a part need not begin."""
ENVIRONMENT = "environment"


def plan(work: Path, built: bool, quick: bool = False) -> list[list[Part]]:
    """All parts; those of one group run at the same time, and the next group waits for them.

    Args:
        work: a folder for what is built and written on the way.
        built: this checkout is installed: nothing is built.
        quick: small sizes.
    """

    def part(name: str, script: str, *arguments: str, limit: float, needs: str = "gpu") -> Part:
        return Part(name, (str(HERE / "gpu" / f"{script}.py"), *arguments), limit, needs)

    few, ending = ["--quick"] if quick else [], ["--limit", "{limit}"]
    speed = {"a": 75, "b": 95, "c": 70, "d": 70}
    return [
        [part(ENVIRONMENT, "environment", limit=60, needs="")],
        [
            part("build", "package", *([] if built else [str(work)]), limit=150, needs="torch"),
            part("kernels", "warm", *ending, limit=140),
        ],
        [part("latencies", "latencies", limit=60)],
        [part("tests", "checks", limit=110)],
        *[[part(f"speed {m}", "speed", m, str(work / f"speed-{m}"), *ending, *few, limit=s)] for m, s in speed.items()],
        [part("training", "training", *ending, limit=50)],
        [part("tuning", "tuning", *ending, limit=40)],
    ]


class Check:
    """Runs the parts of a plan, and keeps the time."""

    def __init__(self, groups: Sequence[Sequence[Part]], out: Path, seconds: float, python: str = sys.executable) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.groups, self.seconds, self.python, self.began = groups, seconds, python, time.monotonic()
        options = {"seconds": seconds, "python": python}
        self.summary = Summary(out, [part for group in groups for part in group], options)
        self.log, self.running = Log(out / "gpu_check.log"), Running()

    def run(self, environment: Mapping[str, str]) -> int:
        try:
            for group in self.groups:
                threads = [threading.Thread(target=self.one, args=(part, environment), daemon=True) for part in group]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            self.running.end_all()
            self.summary.write()
            self.log.close()
        return int(bool(self.summary.failed))

    def one(self, part: Part, environment: Mapping[str, str]) -> None:
        reason = self.missing(part)
        left = self.seconds - (time.monotonic() - self.began)
        if reason is not None:
            outcome = Outcome("skipped", reason, 0.0)
        elif left < LEAST:
            outcome = Outcome("failed", "no time was left for it", 0.0)
        else:
            self.summary.begin(part)
            print(f"[{time.monotonic() - self.began:4.0f} s] {part.name} ...", flush=True)
            found = lambda record: self.summary.add(part, record)  # noqa: E731
            outcome = run(part, self.python, environment, min(part.limit, left), self.log, found, self.running)
        self.summary.end(part, outcome)
        said = f": {outcome.reason}" if outcome.reason else ""
        print(f"[{time.monotonic() - self.began:4.0f} s] {part.name}: {outcome.status}{said}", flush=True)

    def missing(self, part: Part) -> str | None:
        """What this machine lacks that a part needs, by what the environment said."""
        if part.needs and self.summary.lacks(ENVIRONMENT, "torch"):
            return "PyTorch is not installed"
        if part.needs == "gpu" and self.summary.lacks(ENVIRONMENT, "device"):
            return "no CUDA device"
        return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder for gpu_check.json, gpu_check.md and gpu_check.log")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of everything; default: {SECONDS:.0f}")
    parser.add_argument("--only", help="names of parts, with commas between; the environment is always looked at")
    parser.add_argument("--quick", action="store_true", help="small images: is everything in order?")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "gpu_check", help="where things are built")
    args = parser.parse_args(argv)
    built, work = package.installed(), args.work.resolve()
    groups = plan(work, built, args.quick)
    if args.only is not None:
        names = {ENVIRONMENT, *args.only.split(",")}
        if unknown := names - {part.name for group in groups for part in group}:
            there = ", ".join(part.name for group in groups for part in group)
            parser.error(f"there is no part {', '.join(sorted(unknown))}: there are {there}")
        groups = [kept for group in groups if (kept := [part for part in group if part.name in names])]
    work.mkdir(parents=True, exist_ok=True)
    if not built:
        package.lay_out(work)
    check = Check(groups, args.out, args.seconds)
    signal.signal(signal.SIGTERM, _stop)
    code = check.run(environment(work, built))
    print(f"gpu_check.json, gpu_check.md and gpu_check.log are in {args.out}/")
    for name in check.summary.failed:
        print(f"FAILED: {name}: {check.summary.parts[name]['reason']}", file=sys.stderr)
    return code


def environment(work: Path, built: bool) -> dict[str, str]:
    """The environment of all parts: the package that was laid out, and kernels kept where a later part finds them."""
    paths = [*([] if built else [str(work)]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(work / "triton"), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ours}


def _stop(*_: Any) -> None:
    raise SystemExit("stopped from outside")


if __name__ == "__main__":
    sys.exit(main())
