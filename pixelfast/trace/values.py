"""Small helpers around `Value`: trees of arguments, shapes, constant parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .elements import Value, all_elements


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
