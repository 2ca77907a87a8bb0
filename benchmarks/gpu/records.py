"""How a part of the check tells what it found: see `process.py`."""

from __future__ import annotations

import json
import sys
from typing import Any


def emit(kind: str, **found: Any) -> None:
    """One record: "fact", "latency", "test", "speed", "training"; "failed" or "skipped", with a reason."""
    print(json.dumps({"kind": kind, **found}, default=str), file=sys.stdout, flush=True)


def without_gpu() -> bool:
    """Whether there is no CUDA device; tells so."""
    import torch

    if torch.cuda.is_available():
        return False
    emit("skipped", reason="no CUDA device")
    return True
