"""Ctrl-C, threads and callbacks: sampling stops at once, leaves nothing behind, and shares nothing between threads."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import pixelfast
from pixelfast.engines.native import engine as cpu
from pixelfast.models import GatedPixelCNN, PixelCNN

ENGINES = ("cpu", "reference") if cpu.unavailable_reason() is None else ("reference",)

LONG = """
    import os, signal, sys, threading, time
    import pixelfast
    from pixelfast.host import ending
    from pixelfast.models import PixelCNN

    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts this in the background may have it ignored
    sampler = pixelfast.compile(PixelCNN((1, 64, 64), levels=16, features=32, blocks=3), engine=sys.argv[1])
    threads = len(os.listdir("/proc/self/task"))
    sent = []

    def interrupt():
        while threading.main_thread().ident not in ending._inside:
            time.sleep(0.01)
        begun = time.process_time()
        while time.process_time() < begun + 0.5:  # of the time that this process computes: others may be busy
            time.sleep(0.01)
        sent.append(time.process_time())
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    try:
        interrupting.start()
        sampler.sample(4000, seed=0)
    except KeyboardInterrupt:
        waited = time.process_time() - sent[0]
        interrupting.join()
        end = time.monotonic() + 10
        while (more := len(os.listdir("/proc/self/task")) - threads) > 0 and time.monotonic() < end:
            time.sleep(0.01)  # Linux lists a thread that has ended for a moment longer
        print("stopped", waited, more)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_stops_sampling_at_once(engine: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LONG), engine], capture_output=True, text=True, timeout=120, check=False
    )
    words = done.stdout.split()
    assert words[:1] == ["stopped"], done.stdout + done.stderr
    assert float(words[1]) < 0.5
    assert int(words[2]) <= 0, "a thread was left behind"


@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_draw_what_one_draws(engine: str) -> None:
    model = GatedPixelCNN((3, 7, 5), levels=8, features=9, layers=2, classes=4)
    sampler = pixelfast.compile(model, cond=torch.tensor([0, 1]), engine=engine)
    labels = torch.arange(12) % 4
    alone = [sampler.sample(12, seed=seed, cond=labels) for seed in range(4)]
    together: dict[int, torch.Tensor] = {}

    def draw(seed: int) -> None:
        together[seed] = sampler.sample(12, seed=seed, cond=labels)

    workers = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(together[seed], alone[seed]) for seed in range(4))


def test_two_threads_may_compile_at_once() -> None:
    """torch.export alone could not: it keeps what it traces in globals."""
    models = [PixelCNN((1, 5, 4), levels=4, features=8, blocks=1 + i) for i in range(3)]
    found: dict[int, torch.Tensor] = {}

    def draw(index: int) -> None:
        found[index] = pixelfast.sample(models[index], 3, seed=index)

    workers = [threading.Thread(target=draw, args=(index,)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, model in enumerate(models):
        assert torch.equal(found[index], pixelfast.sample(model, 3, seed=index, engine="naive"))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_in_a_callback_stops_sampling(engine: str) -> None:
    sampler = pixelfast.compile(PixelCNN((1, 7, 5), levels=4, features=8, blocks=1), engine=engine)
    rows = []

    def stop(row: int, images: torch.Tensor) -> None:
        rows.append(row)
        if row == 2:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        sampler.sample(3, seed=0, on_row=stop)
    assert rows == [0, 1, 2]
    assert sampler.sample(3, seed=0).shape == (3, 1, 7, 5)


def test_signals_keep_their_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    pixelfast.compile(PixelCNN((1, 5, 5), levels=4, features=8, blocks=1)).sample(2, seed=0)
    assert signal.getsignal(signal.SIGINT) is before
