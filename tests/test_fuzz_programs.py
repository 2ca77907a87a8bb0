"""The short form of fuzz_programs.py: programs with some words changed are refused, or run inside their memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from native import needs_engine

pytestmark = needs_engine

SCRIPT = Path(__file__).with_name("fuzz_programs.py")


@pytest.mark.parametrize(("cases", "options"), [(1200, ()), (300, ("--shared",))])
def test_damaged_programs_are_refused_or_run(cases: int, options: tuple[str, ...]) -> None:
    command = [sys.executable, str(SCRIPT), "--cases", str(cases), "--jobs", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    total, refused, ran, wrong = map(int, re.findall(r"(\d+) (?:programs|refused|ran|wrong)", done.stdout.splitlines()[-1]))
    assert total == cases == refused + ran
    assert ran > cases // 20
    assert wrong == 0
