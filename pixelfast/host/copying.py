"""A copy of a module that shares nothing with it that either could change, whatever its attributes close over.

`copy.deepcopy` leaves functions as they are, and weak references, caches of functions and methods of containers: a lambda that
uses `self` goes on using the original. So what deepcopy gave is walked once more, and these are made anew around the copied
objects. Then it is proven that no module, tensor, container or object can be reached from both; where one can, the module is
refused.
"""

from __future__ import annotations

import copy
import copyreg
import dis
import enum
import functools
import gc
import logging
import types
import weakref
from collections import deque
from collections.abc import Container, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UnsupportedModel, described
from .contents import content_of, installed

M = TypeVar("M", bound=nn.Module)

SHARED_BY_DESIGN = (type, types.ModuleType, types.CodeType, enum.Enum, logging.Logger, logging.Handler, torch.fx.Graph, str)
"""What all copies may share, with all that it holds."""
PROXIES = (weakref.ProxyType, weakref.CallableProxyType)
CONTAINERS = (list, dict, set, bytearray, deque, nn.Module, Tensor, np.ndarray)


def independent_copy(module: M) -> M:
    """A deep copy that shares no state with the module, which stays as it is.

    Raises:
        UnsupportedModel: the module cannot be copied, or would share state with its copy; with the attribute's name.
    """
    originals = reachable([module])
    memo: dict[int, Any] = {}
    for value in originals.values():
        # Hook-style weight_norm keeps the last weight, some forwards their activations, as non-leaf tensors, which
        # deepcopy refuses. What a weak proxy stands for would be copied a second time.
        if isinstance(value, Tensor) and type(value) not in PROXIES and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        elif type(value) in PROXIES:
            memo[id(value)] = value
    try:
        clone = copy.deepcopy(module, memo)
        _Mender(memo, originals).mend(clone)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied with copy.deepcopy ({described(error)}): pixelfast works on a copy, so "
            "that your module stays as it is; remove the attribute that cannot be copied (an open file, a lock, a generator)"
        ) from error
    shared = [value for number, value in reachable([clone], originals).items() if number in originals and _can_change(value)]
    if shared:
        place, what = _place_of(shared, clone)
        raise UnsupportedModel(
            f"{place} of {type(module).__name__} leads to {what} that a copy of the module would share with it: pixelfast "
            "works on a copy, so that your module stays as it is. Hold it as a plain attribute (a submodule, a tensor, a list "
            "or dictionary of these), or let the attribute be a method of the module's class"
        )
    return clone


def reachable(roots: Iterable[object], originals: Container[int] = ()) -> dict[int, object]:
    """Everything that roots hold, by id: what the garbage collector sees, and what weak references stand for.

    Without objects of installed packages, and what these hold, that are among some originals: a copy has them because their
    class says that copies may share them.
    """
    result: dict[int, object] = {}
    stack = list(roots)
    while stack:
        value = stack.pop()
        if id(value) not in result and (type(value) in PROXIES or not isinstance(value, SHARED_BY_DESIGN)):
            if id(value) in originals and _can_change(value) and not isinstance(value, CONTAINERS) and _is_installed(value):
                continue
            result[id(value)] = value
            stack += _held(value)
    return result


def _held(value: Any) -> list[object]:
    kind = type(value)
    if kind is types.FunctionType:
        written = _written(value.__code__)
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held = [cell if name in written else content_of(cell) for name, cell in cells]
        return [*held, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values()]
    if kind in PROXIES:
        return _behind(value)
    if isinstance(value, weakref.ref):
        return [value()]
    return gc.get_referents(value)


def _behind(proxy: Any) -> list[object]:
    """What a weak proxy stands for, if it is still there."""
    try:
        return [proxy.__repr__.__self__]
    except ReferenceError:
        return []


@functools.lru_cache(1024)
def _written(code: types.CodeType) -> frozenset[str]:
    """The variables of enclosing functions that some code, or a function within it, assigns."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "DELETE_DEREF")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _written(inner)
    return frozenset(names & set(code.co_freevars))


def _can_change(value: object) -> bool:
    if type(value) in PROXIES:
        return False
    if isinstance(value, (*CONTAINERS, types.CellType)):
        return True
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, weakref.ref, functools.partial)):
        return False  # what they hold counts by itself
    return bool(getattr(value, "__dict__", None)) or bool(copyreg._slotnames(type(value)))  # type: ignore[attr-defined]


def _is_installed(value: object) -> bool:
    return not isinstance(value, types.CellType) and installed(type(value).__module__)


class _Mender:
    """Makes anew, in what deepcopy gave, everything that still leads to the original's objects.

    Args:
        memo: of deepcopy: the copy of each original object, by id.
        originals: what can be reached from the original; nothing of it is written to.
    """

    def __init__(self, memo: dict[int, Any], originals: dict[int, object]) -> None:
        self._memo, self._originals = memo, originals
        self._done: dict[int, Any] = {}
        self._cells: dict[int, types.CellType] = {}
        self._alive: list[object] = []

    def copied(self, original: Any) -> Any:
        return self.mend(copy.deepcopy(original, self._memo))

    def mend(self, value: Any) -> Any:
        """The value itself, changed in place, or what has to take its place."""
        if id(value) in self._done:
            return self._done[id(value)]
        self._alive.append(value)
        self._done[id(value)] = value
        kind = type(value)
        if kind in PROXIES or kind is weakref.ReferenceType:
            self._done[id(value)] = self._weak(value, kind)
        elif kind is types.FunctionType:
            self._done[id(value)] = self._function(value)
        elif kind is types.MethodType:
            self._done[id(value)] = types.MethodType(self.mend(value.__func__), self.mend(value.__self__))
        elif kind in (types.BuiltinMethodType, types.MethodWrapperType):
            owner = value.__self__
            if not isinstance(owner, (types.ModuleType, type, type(None))):
                self._done[id(value)] = getattr(self.copied(owner), value.__name__)
        elif kind is functools._lru_cache_wrapper:
            self._done[id(value)] = made = functools.lru_cache(**value.cache_parameters())(self.copied(value.__wrapped__))
            vars(made).update({name: self.copied(held) for name, held in vars(value).items() if name != "__wrapped__"})
        elif isinstance(value, (tuple, frozenset)):
            items = [*map(self.mend, value)]
            if any(new is not old for new, old in zip(items, value, strict=True)):
                self._done[id(value)] = kind.__new__(kind, items) if kind in (tuple, frozenset) else tuple.__new__(kind, items)
        elif id(value) not in self._originals and not isinstance(value, SHARED_BY_DESIGN):
            self._hold(value)
        return self._done[id(value)]

    def _hold(self, value: Any) -> None:
        """Mends what a copied object holds."""
        if isinstance(value, functools.partial):
            state = self.mend(value.func), self.mend(value.args), self.mend(value.keywords), vars(value)
            value.__setstate__(state)  # type: ignore[attr-defined]
        if isinstance(value, dict):
            items = [(self.mend(key), self.mend(held)) for key, held in value.items()]
            if any(a is not c or b is not d for (a, b), (c, d) in zip(items, value.items(), strict=True)):
                value.clear()
                value.update(items)
        elif isinstance(value, (list, deque)):
            for i, held in enumerate(value):
                if (new := self.mend(held)) is not held:
                    value[i] = new
        elif isinstance(value, set):
            members = [*map(self.mend, value)]
            value.clear()
            value.update(members)
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self.mend(own)
        for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
            if (held := getattr(value, name, None)) is not None and (new := self.mend(held)) is not held:
                object.__setattr__(value, name, new)

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """A function around copies of what it closes over and of its defaults; itself where none of these can change."""
        cells = function.__closure__ or ()
        kept = installed(function.__globals__.get("__name__")) or all(isinstance(content_of(cell), type) for cell in cells)
        if kept and not any(map(_can_change, reachable(_held(function)).values())):
            return function
        own = tuple(self._cells.setdefault(id(cell), types.CellType()) for cell in cells)
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, own)
        self._done[id(function)] = made
        self._done[id(made)] = made
        functools.update_wrapper(made, function, updated=())
        made.__kwdefaults__ = self.copied(function.__kwdefaults__)
        made.__defaults__ = self.copied(function.__defaults__)
        del made.__wrapped__  # type: ignore[attr-defined]
        vars(made).update({name: self.copied(held) for name, held in vars(function).items()})
        for cell, old in zip(own, cells, strict=True):
            if id(cell) not in self._done:
                self._done[id(cell)] = cell
                if old != types.CellType():  # it is not empty
                    cell.cell_contents = self.copied(old.cell_contents)
        return made

    def _weak(self, value: Any, kind: type) -> Any:
        """A weak reference to the copy of what it stood for."""
        held = _behind(value) if kind in PROXIES else [value()]
        twin = self._memo.get(id(held[0])) if held and held[0] is not None else None
        if twin is None:
            return value
        return weakref.proxy(twin) if kind in PROXIES else weakref.ref(twin)


def _place_of(shared: list[object], clone: nn.Module) -> tuple[str, str]:
    """The attribute of a copy that leads to something shared with the shortest way, and what that is, for a message."""
    numbers = {id(value) for value in shared}
    modules = [value for value in shared if isinstance(value, nn.Module)]
    what = f"an object ({type((modules or shared)[0]).__name__})"
    places: list[tuple[int, str]] = []
    for path, child in clone.named_modules():
        where = f" of layer {path!r}" if path else ""
        for name, held in vars(child).items():
            hooks = name.endswith("_hooks") and isinstance(held, dict)
            for value in held.values() if hooks else [] if name in ("_modules", "_parameters", "_buffers") else [held]:
                found = reachable([value])
                if numbers & found.keys():
                    places.append((len(found), f"a hook{where}" if hooks else f"the attribute {name!r}{where}"))
    return min(places, default=(0, "an attribute"))[1], what
