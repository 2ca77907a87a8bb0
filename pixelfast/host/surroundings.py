"""What a forward uses without holding it, put back after it ran: random states, globals, class attributes, modules in them."""

from __future__ import annotations

import dis
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .contents import installed, met
from .copying import reachable

GLOBALS, ATTRIBUTES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"}), frozenset({"STORE_ATTR", "DELETE_ATTR"})
"""By these, code assigns names of its own Python module, and of whatever else it holds."""


class Surroundings:
    """The mutable state that a module's code reaches by name, beside what the module holds."""

    def __init__(self, module: nn.Module) -> None:
        own = reachable([module])
        # The module's own functions count, too: they may assign globals.
        self._outside = [value for value in met(module) if id(value) not in own or type(value) is types.FunctionType]
        functions = [value for value in self._outside if type(value) is types.FunctionType]
        self._stored = frozenset[str]().union(*(_assigned(function.__code__, ATTRIBUTES) for function in functions))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever runs here leaves them, and the states of the random generators, as they were."""
        back = [_randomness(), *filter(None, (_snapshot(value, self._stored) for value in self._outside))]
        try:
            yield
        finally:
            for restore in back:
                restore()


@contextmanager
def same_randomness() -> Iterator[None]:
    """Whatever runs here leaves the states of the random generators as they were."""
    restore = _randomness()
    try:
        yield
    finally:
        restore()


def _randomness() -> Callable[[], None]:
    torch_state, own, array = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        torch.set_rng_state(torch_state)
        random.setstate(own)
        np.random.set_state(array)  # noqa: NPY002
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)

    return restore


def _snapshot(value: Any, stored: frozenset[str]) -> Callable[[], object] | None:
    """How to put back what a value holds now, of a Python module the names that are stored; None if it cannot change."""
    kind = type(value)
    if isinstance(value, Tensor):
        return _of_tensor(value) if kind in (Tensor, nn.Parameter) else None
    if isinstance(value, np.ndarray):
        numbers = value.copy()
        return lambda: np.copyto(value, numbers) if value.flags.writeable else None
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if kind is types.FunctionType:
        names = _assigned(value.__code__, GLOBALS)
        return _of_dict(value.__globals__, names) if names else None
    if isinstance(value, types.ModuleType):
        return None if installed(value.__name__) else _of_dict(vars(value), stored)
    if isinstance(value, type):
        return None if installed(value.__module__) else _of_class(value)
    if isinstance(value, dict):
        return _of_dict(value)
    if isinstance(value, (list, deque)):
        items = list(value)
        return lambda: _refill(value, items)
    if isinstance(value, set):
        return functools.partial(_refill_set, value, set(value))
    own = getattr(value, "__dict__", None)
    return _of_dict(own) if isinstance(own, dict) else None


def _refill(value: Any, items: list[Any]) -> None:
    if len(value) != len(items) or any(new is not old for new, old in zip(value, items, strict=True)):
        value.clear()
        value.extend(items)


def _refill_set(value: set[Any], members: set[Any]) -> None:
    value &= members
    value |= members


def _of_tensor(tensor: Tensor) -> Callable[[], None] | None:
    data = tensor.detach()
    try:
        numbers = data.clone()
    except (RuntimeError, NotImplementedError):
        return None

    def restore() -> None:
        with torch.no_grad():
            if tensor.shape != numbers.shape or tensor.dtype != numbers.dtype:
                tensor.data = data
            if not torch.equal(tensor, numbers):
                tensor.data.copy_(numbers)

    return restore


def _of_dict(value: dict[Any, Any], names: frozenset[str] | None = None) -> Callable[[], None]:
    """All of a dictionary, or some names of it."""
    held = {key: value[key] for key in (list(value) if names is None else names) if key in value}

    def restore() -> None:
        now = value.keys() if names is None else names & value.keys()
        if now != held.keys() or any(value[key] is not old for key, old in held.items()):
            for key in list(now - held.keys()):
                del value[key]
            value.update(held)

    return restore


def _of_class(cls: type) -> Callable[[], None]:
    held = dict(vars(cls))

    def restore() -> None:
        for name in [name for name in vars(cls) if name not in held]:
            delattr(cls, name)
        for name, old in held.items():
            if vars(cls).get(name) is not old:
                setattr(cls, name, old)

    return restore


@functools.lru_cache(1024)
def _assigned(code: types.CodeType, operations: frozenset[str]) -> frozenset[str]:
    """The names that some code, or a function within it, assigns by some operations."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in operations}
    inner = [_assigned(const, operations) for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(names.union(*inner))
