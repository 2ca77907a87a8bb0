"""What a Python value holds, as tokens: two values, or one at two times, are compared without trusting `==` or `repr`.

Numbers, texts, tensors and arrays count by content; containers, modules and objects by what they hold; a function by its code,
defaults, closure, and the global names that its code reads; a class, and a Python module however code gets at it, by what can
be reached from a forward. What cannot be looked into (objects of C extensions that cannot be pickled) leaves the result
uncertain. Not followed are the internals of PyTorch, of the standard library and of installed packages, and what lies outside
of Python: files, clocks, environment variables.
"""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import re
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ..errors import PACKAGES

LIMIT = 200_000
"""The most tokens of a value: one that holds more leads out of itself, into a whole program."""

NOT_FORWARD = frozenset(
    {"training", "_non_persistent_buffers_set", "_is_full_backward_hook", "_compiled_call_impl", "_modules_to_load_memory"}
    | {"_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"}
    | {"_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_forward_hooks_with_kwargs"}
    | {"_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"}
)
"""Attributes of every module that its forward in eval mode does not look at, or that belong to a hook beside them."""

GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
HOOKS = {"_forward_hooks": "_forward_hooks_with_kwargs", "_forward_pre_hooks": "_forward_pre_hooks_with_kwargs"}

OF_CLASSES_ONLY = frozenset(
    {"__init__", "__new__", "__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__repr__", "__str__"}
    | {"__init_subclass__", "__class_getitem__", "__firstlineno__", "__static_attributes__", "__parameters__"}
    | {"__orig_bases__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__del__", "__abstractmethods__"}
    | {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__slotnames__"}
)
"""Names of a class that no forward of an instance runs."""

DYNAMIC = frozenset(
    {"getattr", "__getattribute__", "__getattr__", "attrgetter", "methodcaller", "getmembers"}
    | {"__dict__", "vars", "eval", "exec", "globals"}
)
"""By these, code reaches attributes whose names do not stand in it."""

BY_TEXT = frozenset({"globals", "modules", "import_module", "__import__"})
"""By these, code reaches Python modules by a text: its own, and those whose names stand in it."""

PART = re.compile(r"(\w+_)(?:%[sd]|\{\w*\})?|(?:%[sd]|\{\w*\})?(_\w+)")
"""A text that makes a name of another text: "act_", "act_%s", "{}_act"."""

BY_VALUE = frozenset(
    {str, bytes, int, bool, type(None), type(Ellipsis), type(NotImplemented), types.CodeType, range}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
"""Types of values that cannot change and whose `==` can be trusted."""

DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType)


@dataclass(frozen=True)
class Contents:
    """Tokens of a value: equal tokens mean the same value, if both are certain."""

    tokens: tuple[object, ...]
    certain: bool


def contents(*values: object) -> Contents:
    """What some values hold. They are not changed, and nothing keeps them alive."""
    walk = _Walk()
    walk.follow(values)
    return Contents(tuple(walk.tokens), walk.certain)


def module_contents(module: nn.Module) -> Contents:
    """What a module computes with in eval mode, PyTorch's hooks for all modules included."""
    return contents(module, *(list(vars(torch_module)[name].values()) for name in GLOBAL_HOOKS))


def met(*values: object) -> list[object]:
    """Everything that `contents` follows: the values, what they hold, and what code of theirs reaches by name."""
    walk = _Walk(digests=False)
    walk.follow(values)
    return walk.met


class _Attributes:
    """Attributes of classes and Python modules, which wait until code that was met may use their names.

    Code uses the names that stand in it. Once some code is `DYNAMIC`, names that values hold as texts are used as well, and
    those that begin or end with a part of a name in the code: getattr(self, f"act_{self.kind}").
    """

    def __init__(self) -> None:
        self._names, self._texts, self._parts, self._dynamic = {"forward"}, set[str](), tuple[str, ...](), False
        self._waiting: dict[str, list[object]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names or (
            self._dynamic and (name in self._texts or name.startswith(self._parts) or name.endswith(self._parts))
        )

    def wait(self, name: str, part: object) -> None:
        self._waiting.setdefault(name, []).append(part)

    def code(self, names: tuple[str, ...], parts: tuple[str, ...]) -> list[object]:
        """What code with these names and parts of names may use and nothing that was met before did."""
        new = [name for name in names if name not in self._names]
        fresh = tuple(part for part in parts if part not in self._parts)
        was, self._dynamic = self._dynamic, self._dynamic or not DYNAMIC.isdisjoint(new)
        self._names.update(new)
        self._parts += fresh
        held = [part for name in new for part in self._waiting.pop(name, ())]
        if self._dynamic and (fresh or not was):
            held += [part for name in list(self._waiting) if name in self for part in self._waiting.pop(name)]
        return held

    def text(self, text: str) -> list[object]:
        """What may be used by a text that a value holds."""
        self._texts.add(text)
        return self._waiting.pop(text, []) if self._dynamic else []


class _Walk:
    """A walk through values, depth first. What has been met is named by the number of its first meeting."""

    def __init__(self, digests: bool = True) -> None:
        self.tokens: list[object] = []
        self.certain = True
        self.met: list[object] = []  # and kept alive: an id belongs to one value only as long as that lives
        self._digests = digests
        self._seen: dict[int, int] = {}
        self._attributes = _Attributes()

    def follow(self, values: Iterable[object]) -> None:
        stack = [*reversed(list(values))]
        while stack:
            if len(self.tokens) > LIMIT:
                self.certain = False
                return
            value = stack.pop()
            kind = type(value)
            if kind in BY_VALUE:
                self.tokens += (kind, value)
                if kind is str:
                    stack += reversed(self._attributes.text(value))  # type: ignore[arg-type]
            elif kind is float:
                self.tokens += (kind, value.hex())  # type: ignore[attr-defined]
            elif id(value) in self._seen:
                self.tokens += ("again", self._seen[id(value)])
            else:
                self._seen[id(value)] = len(self._seen)
                self.met.append(value)
                stack += reversed(self._open(value, kind))

    def _open(self, value: Any, kind: type) -> list[object]:
        """Writes what a value is by itself, and returns what it holds."""
        if kind in (dict, types.MappingProxyType):
            self.tokens += (kind, len(value))
            return [part for item in list(value.items()) for part in item]
        if kind in (list, tuple):
            self.tokens += (kind, len(value))
            return list(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.hasobject is False:
            self.tokens += (kind, value.dtype.str, value.shape, _digest(np.ascontiguousarray(value).tobytes()))
            if isinstance(value, np.ma.MaskedArray):  # its other attributes differ between an array and its copy
                return [np.ma.getmaskarray(value), vars(value).get("_fill_value")]
            return [vars(value)] if getattr(value, "__dict__", None) else []
        if kind in (set, frozenset):
            return self._set(value, kind)
        if isinstance(value, type):
            return self._class(value, made=True)
        if kind is types.FunctionType:
            return self._function(value)
        return self._callable(value, kind) or self._object(value, kind)

    def _tensor(self, tensor: Tensor) -> list[object]:
        self.tokens += (type(tensor), tensor.dtype, str(tensor.device))
        try:
            self.tokens.append(tuple(tensor.shape))
            if self._digests:
                self.tokens.append(_digest_of(tensor))
        except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, fake, not initialised yet
            self.certain = False
        return [vars(tensor)] if getattr(tensor, "__dict__", None) else []

    def _module(self, module: nn.Module) -> list[object]:
        kind = type(module)
        held: list[object] = []
        for name, value in list(vars(module).items()):
            if name in NOT_FORWARD or (name[0] == "_" and isinstance(value, dict) and not value):
                continue
            if name in HOOKS:
                taking = vars(module).get(HOOKS[name], {})
                held += (name, [(hook, number in taking) for number, hook in value.items()])
            else:
                held += (name, value)
        self.tokens += ("module", kind, len(held))
        if id(kind) not in self._seen:
            self._seen[id(kind)] = len(self._seen)
            held += self._class(kind, made=False)
        return held

    def _set(self, value: Any, kind: type) -> list[object]:
        plain = frozenset((type(member), member) for member in value if type(member) in BY_VALUE)
        self.certain &= len(plain) == len(value)
        self.tokens += (kind, len(value), plain)
        return []

    def _class(self, cls: type, made: bool) -> list[object]:
        """The code of a class that an instance may run; with its constructors where the class itself was met."""
        self.tokens += ("class", cls, made)
        held: list[object] = [] if installed(type(cls).__module__) else [type(cls)]
        self.met += cls.__mro__[:-1]
        for base in cls.__mro__[:-1]:
            if installed(base.__module__):
                self.tokens.append(tuple(part for part in vars(base).values() if type(part) is types.FunctionType))
                continue
            for name, part in list(vars(base).items()):
                special = name.startswith("__") and name.endswith("__")
                building = made and name in ("__init__", "__new__")
                if building or name in self._attributes or (special and name not in OF_CLASSES_ONLY):
                    held += (name, part)
                elif not special:
                    self._attributes.wait(name, part)
        return held

    def _function(self, function: types.FunctionType) -> list[object]:
        code = function.__code__
        cells = function.__closure__ or ()
        self.tokens += ("function", code, len(cells))
        held = [function.__defaults__, function.__kwdefaults__, *map(content_of, cells)]
        if vars(function):
            held.append(vars(function))
        around = function.__globals__
        if installed(around.get("__name__")):
            return held
        read, names, parts, imported, by_text = _names_of(code)
        self.certain &= not any(name in ("eval", "exec") and name not in around for name in read)
        for name in read:
            if name in around or hasattr(builtins, name):
                held += (name, around.get(name, getattr(builtins, name, None)))
        held += self._attributes.code(names, parts)
        if by_text:
            held += self._waiting(around)
        return held + _loaded(imported, around.get("__package__"))

    def _waiting(self, namespace: dict[str, Any]) -> list[object]:
        """What code that was met names of a class's or a Python module's attributes; the others wait."""
        held: list[object] = []
        for name, part in list(namespace.items()):
            if name in self._attributes:
                held += (name, part)
            else:
                self._attributes.wait(name, part)
        return held

    def _callable(self, value: Any, kind: type) -> list[object] | None:
        """What binds functions, in all of Python's ways; None for anything else."""
        held: list[object]
        if kind is types.MethodType:
            held = [value.__func__, value.__self__]
        elif kind is functools.partial:
            held = [value.func, value.args, value.keywords]
        elif kind in (types.BuiltinFunctionType, types.MethodWrapperType):
            owner = getattr(value, "__self__", None)
            held = [value.__name__, owner.__name__ if isinstance(owner, types.ModuleType) else owner]
        elif kind is weakref.ReferenceType:
            held = [value()]
        elif kind is property:
            held = [value.fget, value.fset, value.fdel]
        elif kind in (staticmethod, classmethod):
            held = [value.__func__]
        elif kind is functools.cached_property:
            held = [value.func]
        elif kind is functools._lru_cache_wrapper:
            held = [value.__wrapped__]
        elif kind in DESCRIPTORS:
            held = [value.__name__]
        elif isinstance(value, types.ModuleType):
            held = [value.__name__, *([] if installed(value.__name__) else self._waiting(vars(value)))]
        else:
            return None
        self.tokens.append(kind)
        return held

    def _object(self, value: Any, kind: type) -> list[object]:
        """Anything else: by how it would be pickled."""
        self.tokens += ("object", kind)
        held: list[object] = []
        try:
            reduced = value.__reduce_ex__(4)
            parts = [reduced] if isinstance(reduced, str) else reduced
            held += (list(part) if isinstance(part, Iterator) else part for part in parts)
        except Exception:  # whatever a foreign class raises
            self.certain = False
        if hasattr(value, "__dict__") and not _state_is_plain(kind):  # a state of one's own may leave something out
            held.append(dict(vars(value)))
        return held


def _state_is_plain(kind: type) -> bool:
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    return all(getattr(kind, name, None) is getattr(object, name, None) for name in own)


def content_of(cell: types.CellType) -> object:
    """What a variable of an enclosing function holds; NotImplemented as long as it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return NotImplemented


def _digest_of(tensor: Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return _digest(plain.view(torch.uint8).numpy().data)


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


@functools.lru_cache(4096)
def _names_of(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """The names that some code uses, functions within it included.

    They are the global names that it reads; all names and texts that may name attributes; texts that may be a part of such a
    name; Python modules that it imports or may find; and those of `BY_TEXT` by which it finds them.
    """
    instructions = list(dis.get_instructions(code))
    texts = [text for text in code.co_consts if isinstance(text, str)]
    read = dict.fromkeys(i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    names = dict.fromkeys((*code.co_names, *filter(str.isidentifier, texts)))
    found = [match for text in texts if (match := PART.fullmatch(text))]
    parts = dict.fromkeys(match[1] or match[2] for match in found)
    by_text = dict.fromkeys(name for name in names if name in BY_TEXT)
    imported = dict.fromkeys(i.argval for i in instructions if i.opname == "IMPORT_NAME")
    imported.update(dict.fromkeys(texts if by_text else ()))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for known, more in zip((read, names, parts, imported, by_text), _names_of(inner), strict=True):
                known.update(dict.fromkeys(more))
    return tuple(read), tuple(names), tuple(parts), tuple(imported), tuple(by_text)


def _loaded(names: Iterable[str], package: str | None) -> list[object]:
    """The Python modules that may be meant by names in code of a package, with the packages that they lie in."""
    places = ["", *(f"{above}." for above in _with_packages(package or ""))]
    meant = [f"{place}{inner}" for name in names for place in places for inner in (*_with_packages(name), "")]
    found = [sys.modules.get(name.rstrip(".")) for name in dict.fromkeys(meant)]
    return [module for module in found if module is not None]


def _with_packages(name: str) -> list[str]:
    """A dotted name, and those of what it lies in: "a.b.c", "a.b", "a"."""
    parts = name.split(".")
    return [".".join(parts[: len(parts) - i]) for i in range(len(parts)) if parts[0]]


@functools.lru_cache(4096)
def installed(module: str | None) -> bool:
    """Whether a Python module is PyTorch's, the standard library's, ours or an installed package's."""
    root = (module or "").partition(".")[0]
    if root == "__main__":
        return False
    if root in sys.stdlib_module_names or root in ("torch", "numpy", "pixelfast"):
        return True
    found = sys.modules.get(root)
    places = [getattr(found, "__file__", None) or "", *map(str, getattr(found, "__path__", ()))]
    return any(folder in place for place in places for folder in PACKAGES)
