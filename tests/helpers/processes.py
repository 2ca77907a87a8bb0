"""Scripts in processes of their own: what they print, and that they end."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run_script(script: str, *args: str, status: int = 0) -> dict[str, str]:
    """What a script printed: each line's first word -> the rest."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
