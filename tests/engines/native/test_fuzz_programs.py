"""The short form of fuzz_programs.py: programs with some words changed are refused, or run inside their memory."""

from __future__ import annotations

import re
import subprocess
import sys

import fuzz_programs
from native import needs_engine

pytestmark = needs_engine

CASES = 1200


def test_damaged_programs_are_refused_or_run() -> None:
    command = [sys.executable, fuzz_programs.__file__, "--cases", str(CASES), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    total, refused, ran, wrong = map(int, re.findall(r"(\d+) (?:programs|refused|ran|wrong)", done.stdout.splitlines()[-1]))
    assert total == CASES == refused + ran
    assert ran > CASES // 20
    assert wrong == 0
