"""How times and memory are measured: tasks in turns, medians over rounds, and the high-water mark of memory.

Numerator and denominator of a ratio, and the machine's peak, take turns within one process, since the clock of a machine
drifts from minute to minute. What takes long is run fewer times; each result says how often.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from speed.results import Times

LEAST = 3
"""Runs that are made even if the budget is spent."""
BRIEF = 1.0
"""Seconds after which a brief task stops."""
PAUSE = 0.01
"""Seconds between tasks, in which the threads of the task before fall asleep."""

Task = Callable[[], float | None]
"""Does something that is timed. One that does a part of it only returns the seconds that the whole would take."""


def turns(
    tasks: Mapping[str, Task],
    runs: int,
    beside: Callable[[], float | None] = lambda: None,
    brief: Collection[str] = (),
    budget: float = float("inf"),
) -> tuple[dict[str, Times], dict[str, tuple[float, ...]]]:
    """Run the tasks in turns, `runs` times each; the caller has warmed them up.

    Args:
        beside: measured right before each run of each task.
        brief: tasks that nobody is measured against: they stop after `BRIEF` seconds, but not before the first run.
        budget: seconds of all tasks; once they are spent, tasks stop that have had `LEAST` runs.

    Returns:
        The times of each task, and what `beside` gave next to them.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    noted: dict[str, list[float]] = {name: [] for name in tasks}
    spent = dict.fromkeys(tasks, 0.0)
    for made in range(runs):
        if made >= LEAST and sum(spent.values()) > budget:
            break
        for name, task in tasks.items():
            if name in brief and spent[name] > BRIEF:
                continue
            time.sleep(PAUSE)
            if (result := beside()) is not None:
                noted[name].append(result)
            seconds, took = timed(task)
            times[name].append(seconds)
            spent[name] += took
    return {name: Times(tuple(result)) for name, result in times.items()}, {k: tuple(v) for k, v in noted.items()}


def timed(task: Task) -> tuple[float, float]:
    """Seconds of the whole that a task stands for, and those that it took."""
    begin = time.perf_counter()
    whole = task()
    took = time.perf_counter() - begin
    return (took if whole is None else whole), took


def wait(device: torch.device) -> None:
    """Until a device has done what it was given: a GPU works on while the program that gave it work goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether cuDNN's convolutions may round float32 inputs to TF32; by default they may.

    Not by `torch.backends.cudnn.flags`, which turns cuDNN off unless it is told not to.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Memory:
    """Bytes by which a task raises the memory of this process: at its highest, and what it keeps afterwards."""

    peak: int
    kept: int


def peak_memory(task: Task) -> Memory | None:
    """Run a task and see what memory it takes; None where Linux's /proc does not tell.

    Memory that earlier tasks freed is handed back to the kernel first, or the task would get it for nothing.
    """
    gc.collect()
    trim()
    before, held = status("VmRSS"), status("RssAnon")
    possible = reset_high_water()
    task()
    highest = status("VmHWM")
    trim()
    holds = status("RssAnon")
    if not possible or before is None or held is None or highest is None or holds is None:
        return None
    return Memory(max(0, highest - before), max(0, holds - held))


def trim() -> None:
    """Hand freed memory back to the kernel, where the C library can."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


def reset_high_water() -> bool:
    """Let VmHWM start again at what the process holds now; False: this system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status(name: str) -> int | None:
    """Bytes of a line of /proc/self/status; None: there is no such line."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)
