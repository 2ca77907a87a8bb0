"""The interpreter ends while daemon threads compile and sample: with the status that the main thread asked for."""

from __future__ import annotations

import os

import pytest
from processes import run_script

from pixelfast.engines.native import engine as cpu
from pixelfast.host import ending

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ends forked children, since PyTorch is imported slowly")

ENDS = """
    import atexit, os, signal, sys, threading, time
    import torch, pixelfast
    from pixelfast.host import ending
    from pixelfast.models import PixelCNN

    ENGINES = sys.argv[1].split(",")
    torch.set_num_threads(1)
    model = PixelCNN((1, 16, 16), levels=4, features=16, blocks=1)
    samplers = {name: pixelfast.compile(model, engine=name, self_check=False) for name in ENGINES}
    parent = os.getpid()
    sleeping = threading.Event()

    def told(args):
        if args.exc_type is not SystemExit:
            print("thread-error", args.exc_type.__name__, args.exc_value, flush=True)

    threading.excepthook = told

    def forever(function, *args, **options):
        while True:
            function(*args, **options)

    def daemon(function, *args, **options):
        threading.Thread(target=forever, args=(function, *args), kwargs=options, daemon=True).start()

    def asleep(row, images):
        sleeping.set()
        time.sleep(1000)

    def draws(engine, **options):
        daemon(samplers[engine].sample, 200, seed=0, **options)

    def late():
        assert samplers[ENGINES[0]].sample(2, seed=0).shape == (2, 1, 16, 16)
        print("drew-late yes", flush=True)

    def cleans_up():
        try:
            samplers[ENGINES[0]].sample(1000000, seed=0)
        finally:
            print("cleaned yes", flush=True)

    def native():
        atexit.register(late)
        draws(ENGINES[0])
        draws(ENGINES[0], on_row=lambda row, images: None)
        draws(ENGINES[0], on_row=asleep)
        sleeping.wait()
        cleaning = threading.Thread(target=cleans_up, daemon=True)
        cleaning.start()
        while cleaning.ident not in ending._inside:
            time.sleep(0.01)

    def others():
        for engine in ENGINES[1:]:
            draws(engine)
            draws(engine, on_row=lambda row, images: None)
        daemon(samplers[ENGINES[0]].log_prob, torch.zeros(64, 1, 16, 16, dtype=torch.int64))

    def compiles():
        daemon(pixelfast.compile, model)
        draws(ENGINES[0])

    def ends(how):
        if how == "exit": sys.exit(3)
        if how == "_exit": os._exit(5)
        if how == "error": raise ValueError("of the main thread")
        if how == "interrupt": raise KeyboardInterrupt
        if how == "terminate": os.kill(os.getpid(), signal.SIGTERM)

    CASES = {"exit": native, "_exit": native, "terminate": native, "error": others, "interrupt": native, "end": compiles}
    children = {}
    for case, start in CASES.items():
        if not (child := os.fork()):
            sys.stderr = open(os.devnull, "w") if case in ("error", "interrupt") else sys.stderr
            start()
            time.sleep(0.2)
            ends(case)
            break  # to the end of the script
        children[child] = case
    if os.getpid() == parent:
        for _ in CASES:
            child, status = os.wait()
            print(children[child], os.waitstatus_to_exitcode(status), flush=True)
"""


def test_daemon_threads_do_not_abort_the_interpreter() -> None:
    engines = ["naive", "reference"] if cpu.unavailable_reason() else ["cpu", "naive", "reference"]
    statuses = run_script(ENDS, ",".join(engines))
    assert [statuses.pop("drew-late", ""), statuses.pop("cleaned", "")] == ["yes", "yes"]
    assert statuses == {"exit": "3", "_exit": "5", "terminate": "-15", "error": "1", "interrupt": "-2", "end": "0"}


@pytest.mark.parametrize("back", [False, True], ids=["comes in", "comes back from a callback"])
def test_a_thread_that_comes_in_at_the_moment_of_the_end_is_refused(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    class Threads(set[int]):
        """The interpreter begins to end, and looks who is inside, just before a thread is noted."""

        def add(self, thread: int) -> None:
            if not back or entered:
                monkeypatch.setattr(ending, "_ends_in", -1)
            super().add(thread)

    entered: list[bool] = []
    inside = Threads()
    monkeypatch.setattr(ending, "_inside", inside)

    def call() -> None:
        with ending.inside():
            assert back, "it came in"
            with ending.outside():
                entered.append(True)
            raise AssertionError("it came back")

    with pytest.raises(SystemExit):
        call()
    assert not inside
