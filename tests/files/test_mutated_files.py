"""Damaged files of every kind give a legal value or one of pixelfast's own errors; `make fuzz-files` tries 100,000 of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutated_files
import pytest

SHORT, WORKER = 500, 25_000
LONG = int(os.environ.get("PIXELFAST_FUZZ_FILES", "0"))


@pytest.fixture(scope="module")
def known() -> dict[str, mutated_files.Kind]:
    return mutated_files.kinds()


def test_files_without_a_mutation_are_read(known: dict[str, mutated_files.Kind], tmp_path: Path) -> None:
    """Else every case would be refused, and prove nothing."""
    for name, kind in known.items():
        for index, seed in enumerate(kind.seeds):
            folder = tmp_path / name / str(index)
            folder.mkdir(parents=True)
            for file, content in seed.items():
                (folder / file).write_bytes(content)
            kind.read(folder)


def test_mutated_files(known: dict[str, mutated_files.Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = mutated_files.run(0, SHORT, known)
    assert not list(tmp_path.iterdir())
    assert {name for name in known if any(line.startswith(f"{name}: ") for line in found)} == set(known)
    assert sum(found.values()) == SHORT


def test_a_foreign_exception_would_be_noticed(known: dict[str, mutated_files.Kind], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        raise KeyError("foreign")

    monkeypatch.setattr(mutated_files.data, "load", fail)
    with pytest.raises(AssertionError, match=r"case \d+ \(.*\) raises KeyError: 'foreign'"):
        mutated_files.run(0, 50, known)


@pytest.mark.skipif(not LONG, reason="make fuzz-files")
def test_many_mutated_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Workers one after the other, each with a limit of memory; a crash, a hang or a foreign exception ends one."""
    found: Counter[str] = Counter()
    seconds = 0.0
    for first in range(0, LONG, WORKER):
        command = [sys.executable, mutated_files.__file__, str(first), str(min(WORKER, LONG - first))]
        worker = subprocess.run(command, capture_output=True, text=True, check=False)
        assert worker.returncode == 0, f"cases from {first}: status {worker.returncode}\n{worker.stderr[-4000:]}"
        result = json.loads(worker.stdout.splitlines()[-1])
        found.update(result["counts"])
        seconds += result["seconds"]
        with capsys.disabled():
            print(f"{sum(found.values()):,} in {seconds:.0f} s", flush=True)
    with capsys.disabled():
        print(f"\n{sum(found.values()):,} mutated files in {seconds:.0f} s")
        for name in dict.fromkeys(line.rpartition(": ")[0] for line in sorted(found)):
            outcomes = {line.rpartition(": ")[2]: count for line, count in found.items() if line.rpartition(": ")[0] == name}
            accepted, total = outcomes.pop("accepted", 0), sum(outcomes.values())
            kinds = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(outcomes.items()))
            print(f"  {name}: {accepted + total:,}, accepted {accepted:,}, refused {total:,} ({kinds})")
