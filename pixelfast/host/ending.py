"""The end of the interpreter while threads are inside the package.

Python waits for its threads before it ends, but not for daemon threads. Those it ends, or puts to sleep, where they next ask
for the GIL. Inside PyTorch's operators that aborts the process: they ask in destructors, and Python before 3.14 ends a thread
by unwinding its stack. So when the interpreter ends, threads that are inside the package are told to leave it by SystemExit,
which `threading` ignores, and Python waits until they have left. None can come in again.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from . import forking

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 30.0
"""Seconds until the interpreter ends all the same: a thread may wait for something within a user's forward."""
REMINDER = 1.0
"""Seconds until a thread is told again: a user's forward may have caught what it was told."""

_inside: set[int] = set()
"""Threads that are in a call."""
_ends_in: int | None = None
"""The thread that ends the interpreter, once one does."""


def _refuse_late(me: int) -> None:
    """SystemExit if the interpreter is ending. Asked once this thread is in `_inside`: a later end finds it there."""
    if _ends_in not in (None, me):
        raise SystemExit("the interpreter is ending, so that this thread cannot go on")


@contextmanager
def inside() -> Iterator[None]:
    """What runs within is left before the interpreter ends, and a fork waits for it (`forking`)."""
    me = threading.get_ident()
    already = me in _inside
    _inside.add(me)
    try:
        _refuse_late(me)
        with forking.computing():
            yield
    finally:
        if not already:
            _inside.discard(me)


@contextmanager
def outside() -> Iterator[None]:
    """A user's callback runs within: it may take long, wait for other threads, and neither an end nor a fork waits for it."""
    me = threading.get_ident()
    already = me in _inside
    _inside.discard(me)
    try:
        with forking.resting():
            yield
    finally:
        if already:
            _inside.add(me)
            _refuse_late(me)


def leaves_at_exit(function: Callable[P, T]) -> Callable[P, T]:
    """For what users call: the call is left, by SystemExit, when the interpreter ends while a daemon thread is in it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with inside():
            return function(*args, **kwargs)

    return call


def _others() -> list[int]:
    alive = sys._current_frames()
    return [thread for thread in list(_inside) if thread in alive and thread != _ends_in]


def _end() -> None:
    global _ends_in
    _ends_in = threading.get_ident()
    begin, told = time.monotonic(), -REMINDER
    while (others := _others()) and (now := time.monotonic() - begin) < PATIENCE:
        if now - told >= REMINDER:
            told = now
            for thread in others:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))
        time.sleep(0.002)


def _in_child() -> None:
    """After a fork, this thread is the only one."""
    _inside.intersection_update({threading.get_ident()})


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
