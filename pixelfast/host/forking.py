"""Forks while other threads compute: a fork waits until the threads that are in the package stand still.

A forked child has one thread, the one that forked. What another thread was in the middle of stays half-way in the child for
good: nobody frees the lock of oneDNN's cache that a convolution held, nor that of a `cached_property` (Python before 3.12), nor
the user's own within a forward. So threads in the package say where a fork may find them: where they call `pause`, and
within `resting`, where they wait or run a user's callback. They hold nothing there but locks of the package, which the child
finds free (`locks`). While one is elsewhere, a fork waits; where it waits in vain, the child is told so.

Threads of OpenMP are missing in the child, too. GNU's library waits for them for ever, in the thread that had used them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import EngineUnavailable

POLL = 0.001
"""Seconds between two looks. No lock is waited for: a fork could find it held."""

_computing: set[int] = set()
"""Threads that a fork has to wait for."""
_forker: int | None = None
"""The thread that forks: no other one begins to compute."""
_settled = True
"""Whether all others stood still when `settle` ended."""
_half_way = False
"""Whether this process was forked although a thread did not stand still."""
_came_with: int | None = None
"""The thread with which this process was forked."""


def _begin(me: int) -> None:
    """Asked once the thread is in `_computing`: a later fork finds it there."""
    _computing.add(me)
    while _forker not in (None, me):
        _computing.discard(me)
        time.sleep(POLL)
        _computing.add(me)


@contextmanager
def computing() -> Iterator[None]:
    """A fork waits for what runs within, but for its pauses."""
    me = threading.get_ident()
    already = me in _computing
    try:
        if not already:
            _begin(me)
        with _own_threads():
            yield
    finally:
        if not already:
            _computing.discard(me)


@contextmanager
def resting() -> Iterator[None]:
    """A fork does not wait for what runs within."""
    me = threading.get_ident()
    already = me in _computing
    _computing.discard(me)
    try:
        yield
    finally:
        if already:
            _begin(me)


def pause() -> None:
    """Stand still while another thread forks. The caller holds no lock but those of the package."""
    if _forker is not None:
        with resting():
            pass


@contextmanager
def _own_threads() -> Iterator[None]:
    """PyTorch computes in this thread alone, if it may miss those that it computed with before the fork."""
    count = torch.get_num_threads() if threading.get_ident() == _came_with else 1
    if count == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def refuse_half_way() -> None:
    """For what runs operators of PyTorch that take locks of the process.

    Raises:
        EngineUnavailable: another thread may have held one when this process was forked.
    """
    if _half_way:
        raise EngineUnavailable(
            "this process was forked while another thread was in the middle of a forward, which may have left locks of PyTorch "
            "taken for good: fork while no forward runs that takes long or waits, or start processes with "
            "multiprocessing.get_context('spawn')"
        )


def settle(patience: float) -> None:
    """Wait until no other thread computes, and let none begin."""
    global _forker, _settled
    _forker, _settled = threading.get_ident(), False
    end = time.monotonic() + patience
    while not (_settled := not _others()) and time.monotonic() < end:
        time.sleep(POLL)


def _others() -> set[int]:
    """Threads that compute. One that is about to begin may be among them for a moment."""
    others = _computing - {_forker}
    return others & sys._current_frames().keys() if others else others


def go_on() -> None:
    """After a fork, in the parent."""
    global _forker
    _forker = None


def begin_child() -> None:
    """After a fork, in the child, where this thread is the only one."""
    global _forker, _half_way, _came_with
    _forker, _half_way, _came_with = None, _half_way or not _settled, threading.get_ident()
    _computing.intersection_update({_came_with})
