"""Values: what a traced tensor is while its graph is converted, elements of nodes beside constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from .index import all_elements, written_out


@dataclass(frozen=True)
class Value:
    """A traced tensor.

    Attributes:
        numbers: element numbers, written out or stepped, 0 where the element is constant; None if all of it is.
        const: the constant elements (anything where numbers > 0); None for zeros.
        dynamic: the node of the condition graph that gives `const`, if it depends on the conditions of a call.
        kind: the tensor's type in the module, which zeros have if `const` is None.
    """

    numbers: Tensor | None
    const: Tensor | None = None
    dynamic: fx.Node | None = None
    kind: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        tensor = self.numbers if self.numbers is not None else self.const
        assert tensor is not None
        return tuple(tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.kind if self.const is None else self.const.dtype

    @cached_property
    def ids(self) -> Tensor:
        """The element numbers written out, of a value that has some."""
        assert self.numbers is not None
        return written_out(self.numbers)


def values_in(tree: Any) -> list[Value]:
    """All values in nested tuples, lists and dicts of arguments."""
    if isinstance(tree, Value):
        return [tree]
    if isinstance(tree, dict):
        return [value for child in tree.values() for value in values_in(child)]
    if isinstance(tree, (tuple, list)):
        return [value for child in tree for value in values_in(child)]
    return []


def replace_values(tree: Any, change: Callable[[Value], Any]) -> Any:
    """Nested arguments with every value changed."""
    if isinstance(tree, Value):
        return change(tree)
    if isinstance(tree, dict):
        return {key: replace_values(child, change) for key, child in tree.items()}
    if isinstance(tree, (tuple, list)):
        children = [replace_values(child, change) for child in tree]
        return children if isinstance(tree, list) else tuple(children)
    return tree


def mixed(numbers: Tensor, const: Tensor | None, dynamic: fx.Node | None) -> Value:
    """A value of elements and constants; forgets constants that no element needs."""
    kind = torch.float32 if const is None else const.dtype
    if not numbers.numel() or not (numbers.is_meta or numbers.any()):
        return Value(None, torch.zeros(numbers.shape) if const is None else const, dynamic)
    if const is None or all_elements(numbers) or (dynamic is None and not const[numbers == 0].any()):
        return Value(numbers, kind=kind)
    return Value(numbers, const, dynamic)


def shape_of(value: Value) -> tuple[int, ...]:
    return value.shape


def constants(value: Value) -> Tensor:
    """The constant elements of a value; anything where its elements come from the image."""
    return torch.zeros(value.shape, dtype=value.kind) if value.const is None else value.const


def constant_part(value: Value) -> Value:
    """The same, as a value of its own: an operand of an operation over constants."""
    return Value(None, constants(value), value.dynamic)
