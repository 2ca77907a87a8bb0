"""What belongs beside every number: the machine, the versions, the commit, and how busy the machine is with other things.

Whatever is not installed is missed only when its version is asked for.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

BUSY = 0.2
"""Processors in use by other programs that spoil the times."""


def conditions(threads: int) -> dict[str, str]:
    """Machine, versions, commit and date."""
    import numpy as np
    import torch

    import pixelfast

    return {
        "machine": f"{processor()}, {threads} of {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": f"pixelfast {pixelfast.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}",
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processors_in_use() -> float:
    """How many processors work at the moment, while this program waits; nan where there is no /proc/stat."""

    def worked() -> float:
        user, nice, system, _, _, *others = Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
        return sum(map(int, (user, nice, system, *others))) / os.sysconf("SC_CLK_TCK")

    if not Path("/proc/stat").exists():
        return math.nan
    before, begin = worked(), time.perf_counter()
    time.sleep(0.5)
    return (worked() - before) / (time.perf_counter() - begin)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def commit(checkout: Path = Path(__file__).parent) -> str:
    """The commit of the source, if it is a repository and git is there."""
    return output("git", "-C", str(checkout), "describe", "--always", "--dirty") or "unknown"


def output(*command: str) -> str | None:
    """What a command prints; None: there is none such, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
