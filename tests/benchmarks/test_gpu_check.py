"""The GPU check without a GPU: its driver, and a rehearsal of the whole in which every part that needs a GPU says so."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import BENCHMARKS, importable

ROOT = BENCHMARKS.parent
SAYS = "import json, sys, time\ndef say(**record): print(json.dumps(record), flush=True)\n"


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    with importable():
        yield


@pytest.fixture
def check() -> ModuleType:
    return importlib.import_module("gpu_check")


class Made:
    """Parts made of a few lines of Python, and what became of them."""

    def __init__(self, check: ModuleType, folder: Path) -> None:
        self.check, self.folder, self.out = check, folder, folder / "out"
        self.groups: list[list[Any]] = []

    def part(self, name: str, text: str, limit: float = 30.0, needs: str = "", beside: bool = False) -> None:
        script = self.folder / f"{name}.py"
        script.write_text(SAYS + text, encoding="utf-8")
        made = self.check.Part(name, (str(script), "{limit}"), limit, needs)
        if beside:
            self.groups[-1].append(made)
        else:
            self.groups.append([made])

    def run(self, seconds: float = 60.0) -> int:
        return int(self.check.Check(self.groups, self.out, seconds).run(os.environ))

    def found(self) -> dict[str, Any]:
        whole = json.loads((self.out / "gpu_check.json").read_text(encoding="utf-8"))
        return {part["name"]: part for part in whole["parts"]}


@pytest.fixture
def made(check: ModuleType, tmp_path: Path) -> Made:
    return Made(check, tmp_path)


def test_what_a_part_finds_is_there_when_the_next_one_begins(made: Made) -> None:
    made.part("first", "say(kind='fact', name='answer', value=42)\nprint('not a record')\nprint('{\"neither\": 1}')")
    seen = f"open({str(made.out / 'gpu_check.json')!r}).read()"
    made.part("second", f"parts = json.loads({seen})['parts']\nsay(kind='fact', name='seen', value=parts[0])")
    assert made.run() == 0
    first = made.found()["first"]
    assert (first["status"], first["records"]) == ("ok", [{"kind": "fact", "name": "answer", "value": 42}])
    assert made.found()["second"]["records"][0]["value"] == first
    text = (made.out / "gpu_check.md").read_text()
    assert "| first | ok |" in text
    assert "| answer | 42 |" in text
    log = (made.out / "gpu_check.log").read_text()
    assert "first: not a record" in log
    assert 'first: {"neither": 1}' in log


def test_a_part_that_fails_keeps_what_it_found(made: Made) -> None:
    made.part("broken", "say(kind='fact', name='before', value=1)\nraise ValueError('that cannot be')")
    made.part("after", "say(kind='fact', name='after', value=2)")
    assert made.run() == 1
    broken = made.found()["broken"]
    assert broken["status"] == "failed"
    assert "it ended with code 1" in broken["reason"]
    assert "ValueError: that cannot be" in broken["reason"]
    assert broken["records"][0]["name"] == "before"
    assert made.found()["after"]["status"] == "ok"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_a_part_that_hangs_is_killed_with_all_that_it_started(made: Made) -> None:
    text = """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
say(kind="fact", name="child", value=child.pid)
time.sleep(600)
"""
    made.part("hanging", text, limit=5.0)
    made.part("after", "say(kind='fact', name='after', value=2)")
    begin = time.monotonic()
    assert made.run() == 1
    assert time.monotonic() - begin < 60
    hanging = made.found()["hanging"]
    assert (hanging["status"], hanging["reason"][:16]) == ("failed", "killed after 5 s")
    child = hanging["records"][0]["value"]
    for _ in range(50):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)
    assert made.found()["after"]["status"] == "ok"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_a_check_that_is_stopped_leaves_nobody_behind(made: Made, tmp_path: Path) -> None:
    hanging = "import os, time\nsay(kind='fact', name='child', value=os.getpid())\ntime.sleep(600)"
    made.part("hanging", hanging)
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, signal, sys\nfrom pathlib import Path\nsys.path.insert(0, {str(BENCHMARKS)!r})\nimport gpu_check\n"
        f"part = gpu_check.Part('hanging', ({made.groups[0][0].command[0]!r},), 300.0, '')\n"
        f"signal.signal(signal.SIGTERM, gpu_check._stop)\n"
        f"gpu_check.Check([[part]], Path({str(made.out)!r}), 300.0).run(os.environ)\n",
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(200):
            if (made.out / "gpu_check.json").exists() and made.found()["hanging"]["records"]:
                break
            time.sleep(0.1)
        process.terminate()
        process.communicate(timeout=30)
    found = made.found()["hanging"]
    assert found["status"] in ("running", "failed")
    for _ in range(50):
        if not alive(found["records"][0]["value"]):
            break
        time.sleep(0.1)
    assert not alive(found["records"][0]["value"])


def test_a_part_that_says_nothing_has_failed(made: Made) -> None:
    made.part("silent", "print('{ this is no JSON')")
    assert made.run() == 1
    assert made.found()["silent"]["reason"].startswith("it printed no result; it said last: { this is no JSON")


def test_a_failed_record_and_skipped_ones(made: Made) -> None:
    made.part("failed", "say(kind='fact', name='a', value=1); say(kind='failed', reason='wrong')")
    made.part("skipped", "say(kind='skipped', reason='no need')")
    made.run()
    assert {name: part["status"] for name, part in made.found().items()} == {"failed": "failed", "skipped": "skipped"}
    assert "| no need |" in (made.out / "gpu_check.md").read_text()


def test_a_record_takes_the_place_of_the_one_with_its_id(made: Made) -> None:
    made.part("growing", "for i, t in ('x', 1), ('y', 2), ('x', 3): say(kind='speed', id=i, time=t)")
    made.run()
    assert [record["time"] for record in made.found()["growing"]["records"]] == [3, 2]


def test_when_time_is_over_nothing_more_begins(made: Made) -> None:
    made.part("late", "say(kind='fact', name='a', value=1)")
    assert made.run(seconds=1.0) == 1
    assert made.found()["late"]["reason"] == "no time was left for it"


def test_a_part_learns_when_to_end_by_itself(made: Made) -> None:
    made.part("told", "say(kind='fact', name='limit', value=int(sys.argv[1]))", limit=40.0)
    made.run(seconds=1000.0)
    assert made.found()["told"]["records"][0]["value"] == 30


def test_parts_of_a_group_run_at_the_same_time(made: Made) -> None:
    meet = """
from pathlib import Path
here = Path(sys.argv[0])
here.with_suffix(".here").touch()
begin = time.monotonic()
while len(list(here.parent.glob("*.here"))) < 2 and time.monotonic() - begin < 20:
    time.sleep(0.05)
say(kind="fact", name="met", value=len(list(here.parent.glob("*.here"))))
"""
    made.part("one", meet)
    made.part("other", meet, beside=True)
    assert made.run() == 0
    assert [part["records"][0]["value"] for part in made.found().values()] == [2, 2]


def test_what_the_machine_lacks_is_skipped(made: Made) -> None:
    made.part("environment", "say(kind='fact', name='torch', value='2.11'); say(kind='fact', name='device', value=None)")
    made.part("on a processor", "say(kind='fact', name='a', value=1)", needs="torch")
    made.part("on a GPU", "raise ValueError", needs="gpu")
    assert made.run() == 0
    found = made.found()
    assert (found["on a GPU"]["status"], found["on a GPU"]["reason"]) == ("skipped", "no CUDA device")
    assert found["on a processor"]["status"] == "ok"


def test_an_environment_that_says_nothing_holds_nobody_up(made: Made) -> None:
    made.part("environment", "sys.exit(3)")
    made.part("on a GPU", "say(kind='fact', name='a', value=1)", needs="gpu")
    assert made.run() == 1
    assert made.found()["on a GPU"]["status"] == "ok"


def test_unknown_parts_are_refused(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        check.main([str(tmp_path), "--only", "latencys"])
    assert stopped.value.code == 2
    assert "there is no part latencys: there are environment, build, kernels, latencies, tests, speed a" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_the_plan(check: ModuleType, tmp_path: Path) -> None:
    parts = [part for group in check.plan(tmp_path, built=False) for part in group]
    assert check.SECONDS < 9 * 60
    assert all(Path(part.command[0]).is_file() for part in parts)
    assert all(part.limit < check.SECONDS / 3 for part in parts)


# ---------------------------------------------------------------- the parts


WITHOUT = ["warm", "latencies", "triton_latencies", "checks", "speed", "training", "tuning"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_gpu_a_part_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "triton" in name:
        pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(sys, "argv", [name, *(["a", str(tmp_path)] if name == "speed" else [])])
    assert importlib.import_module(f"gpu.{name}").main() == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "skipped", "reason": "no CUDA device"}


def test_the_tests_for_a_gpu_are_found() -> None:
    names = {Path(file).name for file in importlib.import_module("gpu.checks").files()}
    assert {"test_triton_gpu.py", "test_gated_gpu.py", "test_cuda.py"} <= names


def test_each_test_is_a_record(tmp_path: Path) -> None:
    from gpu.process import parsed

    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from gpu import checks\nchecks.without_gpu = lambda: False\nchecks.files = lambda: ['test_some.py']\n"
        "sys.exit(checks.main())\n",
        encoding="utf-8",
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: here\n", encoding="utf-8")
    (tmp_path / "test_some.py").write_text(
        "import pytest\npytestmark = pytest.mark.gpu\ndef test_good(): print('{}')\ndef test_bad(): assert 1 == 2, 'so it is'\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_without(broken): pass\n",
        encoding="utf-8",
    )
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    records = [parsed(line) for line in run.stdout.splitlines()]
    assert None not in records
    found = {record["name"].split("::")[1]: (record["outcome"], record["message"]) for record in records}
    assert found.pop("test_good") == ("passed", "")
    assert "so it is" in found["test_bad"][1]
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "test_bad": "failed", "test_left_out": "skipped", "test_without": "failed",
    }  # fmt: skip


def test_a_bare_checkout_can_be_imported(tmp_path: Path) -> None:
    package = importlib.import_module("gpu.package")
    package.lay_out(tmp_path)
    code = "import pixelfast, pixelfast.kernels as k, pixelfast.models; print(pixelfast.__file__, k.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(str(tmp_path)) == 2
    assert (tmp_path / "setup.py").is_file()
    assert not (tmp_path / "pyproject.toml").exists()


def test_rows_of_the_speed_report() -> None:
    from speed.results import Cell, Gate, Row, Times

    speed = importlib.import_module("gpu.speed")
    rows = (
        Row("naive", "ok", times=Times((20.0,)), steps=2, gate=Gate(True)),
        Row("triton", "ok", times=Times((0.1, 0.2, 0.3)), compile_s=2.0, gate=Gate(True, 100, 1, 1, 1e-6)),
        Row("cuda", "skipped", "no Hopper"),
    )
    naive, triton, cuda = speed.rows_of([Cell("b", (3, 7, 5), 64, rows)])
    assert (triton["time"], triton["speed-up"], triton["draws that differ"]) == ("200 ms", "~100", "1 of 100 (1 ties)")
    assert "85 ms persistent" in triton["aim on an H200"]
    assert (naive["time"], cuda["reason"]) == ("~20 s", "no Hopper")
    assert len({row["id"] for row in (naive, triton, cuda)}) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_rehearsal_of_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [str(BENCHMARKS / "gpu_check.sh"), str(out), "--quick", "--work", str(tmp_path / "work")]
    command += ["--only", "kernels,latencies,tests,speed a,speed b,speed c,speed d,training,tuning"]  # building takes minutes
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(file.name for file in out.iterdir()) == ["gpu_check.json", "gpu_check.log", "gpu_check.md"]
    parts = {part["name"]: part for part in json.loads((out / "gpu_check.json").read_text())["parts"]}
    assert parts.pop("environment")["status"] == "ok"
    assert len(parts) == 9
    assert {(part["status"], part["reason"]) for part in parts.values()} == {("skipped", "no CUDA device")}
    assert "| speed b | skipped |" in (out / "gpu_check.md").read_text()
