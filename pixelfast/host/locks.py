"""Locks that a forked child can use, and what a fork has to wait for.

A forked child has one thread, the one that forked. A lock that another thread held in the parent would stay locked in it
forever, so every lock of the package is one of these: the child finds them free. What another thread was changing is another
matter. PyTorch's tracer keeps what it does in globals of the whole process, and a child that inherits them half-way traces
nonsense: a fork waits for such a lock, and where it waits in vain, the child is told so. It waits for threads that compute,
too (`forking`); one that waits for a lock stands still.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

from . import forking

PATIENCE = 20.0
"""Seconds that a fork waits for each lock that asks for it, and for threads that compute: some never release or end."""


class Lock:
    """A lock that its holder may take again.

    Args:
        forks_wait: whether a fork waits until it is free.

    Attributes:
        interrupted: whether this process was forked while another thread held it, although a fork waits for it.
    """

    def __init__(self, forks_wait: bool = False) -> None:
        self._lock = threading.RLock()
        self.forks_wait, self.interrupted = forks_wait, False
        _locks.append(weakref.ref(self, _locks.remove))

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        with forking.resting():
            return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """In the child: free, unless the thread that forked has it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self.interrupted = self.interrupted or self.forks_wait


_locks: list[weakref.ref[Lock]] = []
"""All that there are. A list is copied in one step, so that another thread may make a lock while this one forks."""
_turn = Lock()
"""One thread at a time forks."""
_forking = threading.local()
"""`held`: what the thread that forks has taken."""


def _alive() -> list[Lock]:
    return [lock for known in _locks.copy() if (lock := known()) is not None]


def _before() -> None:
    _forking.held = held = []
    with forking.resting():
        for lock in [_turn, *(lock for lock in _alive() if lock.forks_wait)]:
            if lock.acquire(timeout=PATIENCE):
                held.append(lock)
    forking.settle(PATIENCE)


def _release() -> None:
    forking.go_on()
    for lock in _forking.held:
        lock.release()


def _in_child() -> None:
    forking.begin_child()
    _release()
    for lock in _alive():
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_in_child)
