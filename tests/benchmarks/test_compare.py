"""Two checkouts in turns: what the rounds allow to say, and one small comparison from end to end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import BENCHMARKS, importable

from pixelfast.engines.native import engine as cpu

ROOT = BENCHMARKS.parent


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


def test_the_interval_of_a_median_by_hand() -> None:
    from speed.contest import interval

    assert interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)  # all on one side: twice 1 / 64
    assert interval([float(i) for i in range(1, 11)]) == (2.0, 9.0)  # twice 11 / 1024; 3 to 8 would be twice 56 / 1024
    assert interval([1.0] * 5) == (-float("inf"), float("inf"))


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    from speed.contest import interval

    rng, held = random.Random(0), 0
    for _ in range(1000):
        low, high = interval([rng.expovariate(1.0) for _ in range(15)])
        held += low <= 0.6931 <= high
    assert held > 940


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [([1.0] * 9, "not slower"), ([1.05] * 9, "SLOWER"), ([0.9, 1.2] * 5, "open"), ([0.5] * 5, "open")],
)
def test_verdicts(ratios: list[float], verdict: str) -> None:
    from speed.contest import Pairs
    from speed.results import Times

    pairs = Pairs(Times((2.0,) * len(ratios)), Times(tuple(2 * ratio for ratio in ratios)))
    assert pairs.verdict(2) == verdict
    assert pairs.ratios.runs == pytest.approx(ratios)


def other_checkout(folder: Path, sampler: str) -> Path:
    """This one, with some code at the end of the package."""
    package = folder / "pixelfast"
    package.mkdir(parents=True)
    for entry in (ROOT / "pixelfast").iterdir():
        if entry.name not in ("__init__.py", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    (package / "__init__.py").write_text((ROOT / "pixelfast" / "__init__.py").read_text(encoding="utf-8") + sampler, "utf-8")
    (folder / "kernels").symlink_to(ROOT / "kernels")
    return folder


SLOW = """
import time
_sample = Sampler.sample
def _slowly(self, *args, **options):
    time.sleep(0.2)
    return _sample(self, *args, **options)
Sampler.sample = _slowly
"""


def test_a_slow_checkout_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import compare

    slow, row = other_checkout(tmp_path / "slow", SLOW), "reference" if cpu.unavailable_reason() else "cpu"
    options = ["--quick", "--models", "lattice", "--n", "2", "--engines", row, "--seconds", "1", "--threads", "1"]
    assert compare.main([str(ROOT), str(slow), *options, "--out", str(tmp_path / "found.json")]) == 1
    compiled, drawn = json.loads((tmp_path / "found.json").read_text())["lines"]
    assert (compiled["what"], compiled["good"]) == ("compile", True)
    assert (drawn["what"], drawn["said"], drawn["good"]) == ("2", "SLOWER", False)
    assert min(drawn["pairs"]["new"]["runs"]) > 0.2
    assert len(drawn["pairs"]["old"]["runs"]) == len(drawn["pairs"]["new"]["runs"]) >= 7
    assert "1 of 2 lines may be slower than" in capfd.readouterr().out
    assert compare.main([str(slow), str(ROOT), *options]) == 0
    told = capfd.readouterr().out
    assert "not slower" in told
    assert "no model is slower than" in told


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "is no checkout of pixelfast"),
        ("raise SystemExit(3)", "its process ended with code 3; what it said stands above"),
        ("def _wrong(self, *a, **o): raise ValueError('no draw')\nSampler.sample = _wrong\n", "verify: ValueError: no draw"),
    ],
)
def test_what_cannot_be_measured_says_why(
    code: str | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import compare

    old = tmp_path if code is None else other_checkout(tmp_path / "old", code)
    assert compare.main([str(old), "--quick", "--models", "lattice", "--n", "2", "--engines", "reference"]) == 1
    told = " ".join(capfd.readouterr().out.split())
    assert "FAILED" in told
    assert said in told


def test_rows_that_are_no_engines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import compare

    with pytest.raises(SystemExit):
        compare.main([str(ROOT), "--engines", "naive-cropped,cpu"])
    assert "naive-cropped: only engines of the package are compared" in " ".join(capsys.readouterr().err.split())


def test_a_checkout_is_imported_with_its_own_kernels(tmp_path: Path) -> None:
    from speed.contest import lay_out

    checkout = other_checkout(tmp_path / "other", "")
    (checkout / "kernels").unlink()
    (checkout / "kernels").mkdir()
    (checkout / "kernels" / "__init__.py").write_text("OTHER = True\n")
    lay_out(checkout, tmp_path / "laid")
    code = "import pixelfast, pixelfast.kernels as k; print(pixelfast.__file__, k.OTHER)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "laid")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.split() == [str(tmp_path / "laid" / "pixelfast" / "__init__.py"), "True"], run.stderr
