"""What a user passes as `cond=`, and which of it belongs to which image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput
from ..host.contents import contents
from .arguments import holds_masked, unreadable


@dataclass(frozen=True)
class Whole:
    """An argument that all images share, passed on as it is, whatever it holds."""

    value: Any


@dataclass(frozen=True)
class Conditions:
    """Arguments of the model after the image: positional and by keyword.

    A tensor whose first axis has the length n belongs to the images one by one; one whose first axis is 1 is repeated for
    all of them. So do tensors within lists, tuples and dictionaries. A tensor without axes, and everything that is no tensor,
    is passed on as it is.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, cond: Any) -> Conditions:
        """From `cond=`: None, one argument, a tuple or list of positional arguments, or a dict of keyword arguments.

        A list of nothing but numbers is one argument. NumPy's numbers are Python's.

        Raises:
            InvalidInput: an array has masked entries.
        """
        if cond is None:
            return cls()
        if isinstance(cond, Conditions):
            return cond
        if holds_masked(cond):
            name = next(name for name, part in _items(cond) or [(0, cond)] if holds_masked(part))
            raise InvalidInput(
                f"cond[{name!r}] holds masked entries, which have no value: pass numbers in their place, by .filled(...), or "
                "the mask as a condition of its own if the model takes one"
            )
        if isinstance(cond, dict):
            return cls(kwargs={name: _plain(value) for name, value in cond.items()})
        if isinstance(cond, (tuple, list)) and not _is_list_of_numbers(cond):
            return cls(args=tuple(map(_plain, cond)))
        return cls(args=(_plain(cond),))

    def readings(self, n: int | None = None) -> list[Conditions]:
        """What these arguments may mean for n images, or for any number: the first that a module accepts is meant.

        Arrays and lists of numbers become tensors with an entry for each image, if their first axis allows that, or stay what
        they are. Numbers stay numbers, or become tensors that all images share.
        """
        for name, tensor in self.tensors():
            if (reason := unreadable(tensor)) is not None:
                raise InvalidInput(f"{name} {reason}")
        arguments = [*self.args, *self.kwargs.values()]
        if all(isinstance(value, (Tensor, str, type(None))) for value in arguments):
            return [self]
        lengths = [len(value) for value in arguments if isinstance(value, Tensor) and value.dim()]
        fitting = {1, *([n] if n is not None else lengths[:1])}
        split = self._each(lambda value: _read(value, fitting, n is None and not lengths))
        found = [split, split._each(lambda value: _tensor_of(value) if _is_number(value) else value), self._each(_as_it_is)]
        if len(self.args) == 1 and not self.kwargs and _is_list_of_numbers(self.args[0]):
            found.append(Conditions(tuple(self.args[0])))
        distinct: list[Conditions] = []
        for reading in found:
            if all(reading.signature() != other.signature() for other in distinct):
                distinct.append(reading)
        return distinct

    def passed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for the module, positional and by keyword."""
        bare = self._each(lambda value: _changed(value, lambda part: part.value if isinstance(part, Whole) else part))
        return bare.args, bare.kwargs

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors among the arguments, with a name for messages."""
        return [(name, part) for name, part in self._parts() if isinstance(part, Tensor)]

    def map(self, change: Callable[[Tensor], Any]) -> Conditions:
        """The same arguments with every tensor changed."""
        return self._each(lambda value: _changed(value, lambda part: change(part) if isinstance(part, Tensor) else part))

    def check(self, n: int) -> None:
        """Raise InvalidInput unless every tensor has one entry, or one for each of n images."""
        for name, tensor in self.tensors():
            if tensor.dim() and tensor.shape[0] not in (1, n):
                raise InvalidInput(
                    f"{name} has {tensor.shape[0]} entries (shape {tuple(tensor.shape)}), but {n} images are asked for: "
                    f"its first axis must be {n}, or 1 for a condition that all images share"
                )

    def rows(self, index: Tensor | slice, n: int) -> Conditions:
        """The arguments for the images at `index` out of n."""

        def pick(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0:
                return tensor
            return tensor.expand(n, *tensor.shape[1:])[index.to(tensor.device) if isinstance(index, Tensor) else index]

        return self.map(pick)

    def to(self, device: torch.device) -> Conditions:
        return self.map(lambda tensor: tensor.to(device))

    def signature(self) -> tuple[object, ...]:
        """What a compiled sampler is specialised to: types, trailing shapes, and the contents of everything that is no tensor.

        Raises:
            InvalidInput: something cannot be looked into, so that a change of it would not be noticed.
        """

        positional = tuple(map(_signature, self.args))
        return (*positional, *((name, _signature(value)) for name, value in self.kwargs.items()))

    def __str__(self) -> str:
        """What was passed, for messages: each argument with its type, shape or value."""
        return ", ".join(f"{name} {_described(part)}" for name, part in self._parts()) or "no conditions"

    def _each(self, change: Callable[[Any], Any]) -> Conditions:
        return Conditions(tuple(map(change, self.args)), {name: change(value) for name, value in self.kwargs.items()})

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Tensors, what is passed whole, and everything else that is no container of tensors, by name."""
        for i, value in enumerate(self.args):
            yield from _parts_of(f"cond[{i}]", value)
        for name, value in self.kwargs.items():
            yield from _parts_of(f"cond[{name!r}]", value)


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and members of a plain list, tuple or dictionary; None for anything else."""
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else None


def _holds_parts(value: Any) -> bool:
    """Whether a container has tensors, or what is passed whole, in it."""
    items = _items(value)
    return isinstance(value, (Tensor, Whole)) if items is None else any(_holds_parts(held) for _, held in items)


def _parts_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    items = _items(value)
    if items is None or not _holds_parts(value):
        yield name, value
        return
    for key, held in items:
        yield from _parts_of(f"{name}[{key!r}]", held)


def _signature(value: Any) -> object:
    if isinstance(value, Tensor):
        return ("tensor", value.dtype, tuple(value.shape[1:]), value.dim())
    items = _items(value)
    if items is not None and _holds_parts(value):
        return (type(value), tuple((key, _signature(held)) for key, held in items))
    bare = value.value if isinstance(value, Whole) else value
    result = contents(bare)
    if not result.certain:
        kind = type(bare)
        raise InvalidInput(
            f"cond= holds a {kind.__module__}.{kind.__qualname__} whose contents cannot be compared from call to call: pass "
            "tensors, arrays, numbers, texts, or lists, dictionaries and objects of these"
        )
    return (isinstance(value, Whole), result)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with its tensors and whole parts changed; containers that hold none are left alone."""
    items = _items(value)
    if items is None or not _holds_parts(value):
        return change(value)
    return _rebuilt(value, [_changed(held, change) for _, held in items])


def _rebuilt(value: Any, members: list[Any]) -> Any:
    """A container like another one, with other members."""
    if isinstance(value, tuple):
        return tuple(members) if type(value) is tuple else type(value)(*members)  # a named tuple
    twin = copy.copy(value)
    for (key, _), member in zip(_items(value) or (), members, strict=True):
        twin[key] = member
    return twin


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _is_list_of_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists."""
    return isinstance(value, list) and bool(value) and all(_is_number(_plain(v)) or _is_list_of_numbers(v) for v in value)


def _tensor_of(value: Any) -> Tensor | None:
    """Numbers as a tensor: int64, bool, complex, or floating point in PyTorch's default precision; None where they are none."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    unsigned = array.dtype.kind == "u"
    if array.dtype.kind not in "biufc" or (unsigned and int(array.max(initial=0)) > np.iinfo(np.int64).max):
        return None
    array = array.reshape(1) if _is_number(value) else array
    kind = {"b": torch.bool, "i": torch.int64, "u": torch.int64, "f": torch.get_default_dtype(), "c": torch.complex64}
    if unsigned:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))).to(kind[array.dtype.kind])


def _read(value: Any, fitting: set[int], any_length: bool, nested: bool = False) -> Any:
    """Arrays, lists of numbers and nested tensors as tensors by image where their length fits, else whole."""
    if isinstance(value, Tensor):
        return value if not nested or not value.dim() or any_length or len(value) in fitting else Whole(value)
    if isinstance(value, np.ndarray) or _is_list_of_numbers(value):
        tensor = _tensor_of(value)
        return tensor if tensor is not None and tensor.dim() and (any_length or len(tensor) in fitting) else Whole(value)
    items = _items(value)
    if items is None or not any(isinstance(held, (Tensor, np.ndarray)) or _items(held) for _, held in items):
        return value
    return _rebuilt(value, [_read(held, fitting, any_length, nested=True) for _, held in items])


def _as_it_is(value: Any) -> Any:
    return value if isinstance(value, Tensor) or (_items(value) is None and not isinstance(value, np.ndarray)) else Whole(value)


def _described(part: Any) -> str:
    value = part.value if isinstance(part, Whole) else part
    if isinstance(value, (Tensor, np.ndarray)):
        text = f"{tuple(value.shape)} {value.dtype}"
        return text if isinstance(part, Tensor) else f"{text} (an array passed as it is: its first axis is not that of images)"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
