"""Running the native engine: rows as they are finished, interruptions, threads, and requests that are refused."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from native import needs_engine
from programs import Builder, request

from pixelfast.engines.base import Request
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.errors import EngineUnavailable, InvalidInput

pytestmark = needs_engine


def slow_call(**options) -> tuple[CpuEngine, Request]:
    builder = Builder(np.random.default_rng(0), shape=(1, 300, 300), features=64)
    program = builder.build()
    return CpuEngine(program), request(
        program, np.random.default_rng(0), 32, fields=builder.field_values(32), want_parameters=False, **options
    )


def native_threads() -> int:
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_reported_once_in_order(threads: int) -> None:
    builder = Builder(np.random.default_rng(14))
    program, fields = builder.build(), builder.field_values(9)
    rows: list[tuple[int, np.ndarray]] = []
    call = request(program, np.random.default_rng(5), 9, fields=fields, threads=threads)
    call = dataclasses.replace(call, on_row=lambda row, values: rows.append((row, values[:, : row + 1].copy())))
    result = CpuEngine(program).run(call)
    assert [row for row, _ in rows] == list(range(7))
    for row, values in rows:
        np.testing.assert_array_equal(values, result.values[:, : row + 1])


def stops(start: Callable[[], None], error: type[BaseException]) -> None:
    before = native_threads()
    with pytest.raises(error):
        start()
    end = time.monotonic() + 10
    while native_threads() > before and time.monotonic() < end:  # Linux lists a thread that has ended for a moment longer
        time.sleep(0.01)
    assert native_threads() == before


def test_error_in_callback_stops_the_run() -> None:
    raised = [0.0]

    def fail(row: int, values: np.ndarray) -> None:
        raised[0] = time.process_time()  # other processes may be busy
        raise RuntimeError("enough")

    engine, call = slow_call(on_row=fail, threads=2)
    stops(lambda: engine.run(call) and None, RuntimeError)
    assert time.process_time() - raised[0] < 0.5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signal_stops_the_run_quickly() -> None:
    raised = [0.0]

    def interrupt(*_: object) -> None:
        raised[0] = time.process_time()  # other processes may be busy
        raise KeyboardInterrupt

    engine, call = slow_call(threads=2)

    def start() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.1)  # of the time that this process computes
        engine.run(call)

    previous = signal.signal(signal.SIGPROF, interrupt)
    try:
        stops(start, KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGPROF, previous)
    assert time.process_time() - raised[0] < 0.5


def test_two_threads_share_an_engine() -> None:
    builder = Builder(np.random.default_rng(15))
    program, fields = builder.build(), builder.field_values(20)
    engine = CpuEngine(program)
    calls = [request(program, np.random.default_rng(i), 20, fields=fields, threads=2) for i in range(2)]
    expected = [engine.run(call).values for call in calls]
    found: list[list[np.ndarray]] = [[], []]

    def repeat(i: int) -> None:
        found[i] = [engine.run(calls[i]).values for _ in range(10)]

    workers = [threading.Thread(target=repeat, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(2):
        assert len(found[i]) == 10
        assert all(np.array_equal(values, expected[i]) for values in found[i])


# Refusals.


def test_unknown_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Builder(np.random.default_rng(0)).build()
    with pytest.raises(EngineUnavailable, match=r"'sse9'.*there are .*scalar"):
        CpuEngine(program, isa="sse9")
    monkeypatch.setenv("PIXELFAST_ISA", "mmx")
    with pytest.raises(EngineUnavailable, match="PIXELFAST_ISA"):
        CpuEngine(program)
    monkeypatch.setenv("PIXELFAST_ISA", "scalar")
    assert CpuEngine(program).isa == "scalar"


def test_requests_that_do_not_fit_are_refused() -> None:
    builder = Builder(np.random.default_rng(0))
    program = builder.build()
    good = request(program, np.random.default_rng(0), 2, fields=builder.field_values(2))
    wrong = [
        {"noise": good.noise.astype(np.float64)},
        {"noise": good.noise[:, :-1]},
        {"given": np.full(good.noise.shape, 6, np.int32)},
        {"given": np.full(good.noise.shape, -2, np.int32)},
        {"fields": good.fields[:-1]},
        {"fields": (good.fields[1], *good.fields[1:])},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"threads": 0},
    ]
    engine = CpuEngine(program)
    for change in wrong:
        for run in (engine.run, lambda call: reference(program, call)):
            with pytest.raises(InvalidInput):
                run(dataclasses.replace(good, **change))
