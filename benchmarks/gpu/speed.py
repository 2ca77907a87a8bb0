"""The speed report of one model on the GPU: `run.py --device cuda`, and its rows as records; the whole run goes along."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu.records import emit, without_gpu
from speed.results import Cell, run_from
from speed.texts import duration

AIMS = {
    "a": "13 ms by graphs, 4 ms by clusters", "b": "210 ms by graphs, 85 ms persistent, 50 ms by clusters", "c": "75 ms",
    "d": "90 ms",
}  # fmt: skip
"""For 64 images on an H200: wishes, not measurements."""
AIMING = ("triton", "triton-fp16", "cuda")


def rows_of(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Each row of the cells, and the forward, on one line."""
    from speed.report import COLUMNS, row_texts

    for cell in cells:
        for row in cell.rows:
            result: dict[str, Any] = {"model": cell.model, "n": cell.images, "row": row.name, "status": row.status}
            result["id"] = f"{cell.model}, {cell.images}, {row.name}"
            if row.times is None:
                yield {**result, "reason": row.reason}
                continue
            result |= dict(zip(COLUMNS, row_texts(cell, row), strict=True)) | {"seconds": row.times.median}
            if row.name in AIMING and cell.images == 64:
                result["aim on an H200"] = AIMS.get(cell.model, "")
            yield result
        if cell.forward is not None:
            forward = cell.forward.times
            yield {
                "model": cell.model, "n": cell.images, "row": "one eager forward", "status": "ok",
                "id": f"{cell.model}, {cell.images}, forward", "time": duration(forward.median),
                "spread": f"±{forward.spread:.0%}", "seconds": forward.median,
            }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="for results.json and report.md")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if without_gpu():
        return 0
    import run

    def tell(cells: Sequence[Cell]) -> None:
        for row in rows_of(cells):
            emit("speed", **row)

    options = ["--quick"] if args.quick else []
    limits = ["--device", "cuda", "--models", args.model, "--limit", str(args.limit)]
    command = [*limits, "--no-plots", "--out", str(args.folder), *options]
    code = run.main(command, start=lambda job: run.in_process(job, tell))
    found = json.loads((args.folder / "results.json").read_text(encoding="utf-8"))
    tell(run_from(found).cells)
    emit("run", model=args.model, run=found)
    return code


if __name__ == "__main__":
    sys.exit(main())
