"""Processes that fork while other threads compile and sample, and workers of every start method: they work, or refuse."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
from pathlib import Path

import pytest
import torch
from processes import run_script

import pixelfast
from pixelfast.engines.native import engine as cpu
from pixelfast.host import locks
from pixelfast.models import PixelCNN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

SHAPE = (1, 5, 4)

FORKS = """
    import faulthandler, os, sys, threading, time
    import torch, pixelfast
    from pixelfast.host import locks
    from pixelfast.errors import PixelfastError
    from pixelfast.models import PixelCNN
    from pixelfast.trace import capture

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ENGINE = sys.argv[1]
    OWN = threading.Lock()
    seconds = 0.3
    entered, enters = os.pipe()
    worst = 0

    class Slow(PixelCNN):
        '''Its forward holds a lock of its own; in other threads than the main one, for long.'''

        def forward(self, images):
            with OWN:
                if threading.current_thread() is not threading.main_thread():
                    os.write(enters, b"!")
                    time.sleep(seconds)
                return super().forward(images)

    def child(case, function):
        '''What a forked child prints, and how it ended; one that hangs shows where, and ends with status 1.'''
        global worst
        if not (pid := os.fork()):
            faulthandler.dump_traceback_later(60, exit=True)
            try:
                print(case, function(), flush=True)
            except PixelfastError as error:
                print(case, "refused:", error, flush=True)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        worst = worst or ended
        print(case + "-ended", ended, flush=True)

    def compiles():
        return torch.equal(pixelfast.compile(model, engine=ENGINE).sample(9, seed=3, threads=3), expected)

    def samples():
        return torch.equal(sampler.sample(9, seed=3, threads=3), expected)

    def compiles_slow():
        return pixelfast.compile(slow, engine=ENGINE).sample(2, seed=3).shape == (2, 1, 5, 4)

    def scores_slow():
        pixelfast.compile(slow, engine="naive").log_prob(torch.zeros(1, 1, 5, 4, dtype=torch.int64))

    def compiles_wide():
        pixelfast.compile(wide, engine=ENGINE).sample(2, seed=3)
        return torch.get_num_threads()

    def begins(function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        return thread

    def loops(function):
        while not stop.is_set():
            function()

    def holds(lock):
        held = threading.Event()
        def run():
            with lock:
                held.set()
                stop.wait()
        begins(run)
        held.wait()

    def within_a_callback(row, images):
        global continued
        if row == 1 and continued is None:
            continued = os.fork()

    model = PixelCNN((1, 5, 4), levels=4, features=8, blocks=1)
    slow = Slow((1, 5, 4), levels=4, features=8, blocks=1)
    sampler = pixelfast.compile(model, engine=ENGINE)
    expected = sampler.sample(9, seed=3)
    stop = threading.Event()
    continued = None
    if ENGINE == "cpu":
        try:
            sampler.sample(9, seed=3, threads=2, on_row=within_a_callback)
        except PixelfastError as error:
            print("callback refused:", error, flush=True)
        if not continued:
            os._exit(0)
        os.waitpid(continued, 0)

    busy = [begins(loops, compiles), begins(loops, samples)]
    child("compiling", compiles)
    child("sampling", samples)
    with capture._TRACING:
        child("own", compiles)
    stop.set()
    scores = begins(scores_slow)
    os.read(entered, 1)
    child("forward", compiles_slow)
    for thread in (*busy, scores):
        thread.join()
    os.read(entered, 99)

    torch.set_num_threads(2)
    wide = PixelCNN((1, 5, 4), levels=4, features=256, blocks=1)
    compiles_wide()
    child("threads", compiles_wide)
    torch.set_num_threads(1)

    locks.PATIENCE = 0.01
    stop.clear()
    holds(sampler._lock), holds(capture._TRACING)
    child("left", samples)
    child("trace", compiles)
    stop.set()
    seconds = 1000
    begins(scores_slow)
    os.read(entered, 1)
    child("half", compiles)
    child("compiled", samples)
    os._exit(worst)  # whatever that thread is at
"""


def test_children_of_a_busy_process_work_or_refuse() -> None:
    engine = "reference" if cpu.unavailable_reason() else "cpu"
    found = run_script(FORKS, engine)
    if engine == "cpu":
        assert "forked while it sampled" in found.pop("callback")
        assert found.pop("compiled") == "True"
    else:
        assert "middle of a forward" in found.pop("compiled")
    assert found.pop("trace").startswith("refused: this process was forked while another thread was compiling")
    assert found.pop("half").startswith("refused: this process was forked while another thread was in the middle of a forward")
    cases = ("compiling", "sampling", "own", "forward", "left")
    assert {case: found.pop(case, "nothing") for case in cases} == dict.fromkeys(cases, "True")
    assert found.pop("threads") == "2", "PyTorch's number of threads stays as it was"
    assert set(found.values()) == {"0"}, found


class Drawn(torch.utils.data.Dataset[torch.Tensor]):
    """Images that are drawn where they are asked for."""

    def __init__(self, sampler: pixelfast.Sampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sampler.sample(1, seed=3, first=index, threads=2)[0]


def small_model() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(SHAPE, levels=4, features=8, blocks=1)


def test_workers_of_a_loader_draw() -> None:
    sampler = pixelfast.compile(small_model())
    loader = torch.utils.data.DataLoader(Drawn(sampler), 2, num_workers=2, multiprocessing_context="fork", timeout=120)
    assert torch.equal(torch.cat(list(loader)), sampler.sample(6, seed=3))


def draw_in_child(results: multiprocessing.queues.Queue[list[int]]) -> None:
    results.put(pixelfast.sample(small_model(), 2, seed=3, engine="naive").flatten().tolist())  # the quickest to begin


def test_children_that_start_anew_draw() -> None:
    expected = pixelfast.sample(small_model(), 2, seed=3).flatten().tolist()
    started = []
    for method in ("spawn", "forkserver"):  # beside each other: each imports PyTorch
        context = multiprocessing.get_context(method)
        results = context.Queue()
        child = context.Process(target=draw_in_child, args=(results,))
        child.start()
        started.append((child, results))
    for child, results in started:
        assert results.get(timeout=240) == expected
        child.join()
        assert child.exitcode == 0


def test_every_lock_of_the_package_is_free_in_a_child() -> None:
    files = [file for file in Path(pixelfast.__file__).parent.rglob("*.py") if file.name != "locks.py"]
    assert [file.name for file in files if re.search(r"\bR?Lock\(\)", file.read_text().replace(" Lock()", ""))] == []


def test_a_lock_may_be_made_while_another_thread_forks() -> None:
    stop, interval = threading.Event(), sys.getswitchinterval()
    failed: list[Exception] = []
    kept = [locks.Lock() for _ in range(50)]

    def forks() -> None:
        try:
            for _ in range(5000):
                locks._before()
                locks._release()
        except RuntimeError as error:
            failed.append(error)
        stop.set()

    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=forks)
        thread.start()
        while not stop.is_set():
            made = [locks.Lock() for _ in range(10)]
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
    del kept, made
