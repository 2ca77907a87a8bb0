"""Small helpers around `Value`: trees of arguments, shapes, constant parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
    if not numbers.numel() or not (numbers.is_meta or numbers.any()):
        return Value(None, torch.zeros(numbers.shape) if const is None else const, dynamic)
    if const is None or all_elements(numbers) or (dynamic is None and not const[numbers == 0].any()):
        return Value(numbers)
    return Value(numbers, const, dynamic)


def constant_elements(x: Value) -> Tensor:
    """The constant part of a value, with zeros where its elements come from the image."""
    const = torch.zeros(shape_of(x)) if x.const is None else x.const
    return torch.where(x.ids > 0, torch.zeros((), dtype=const.dtype), const)


def shape_of(value: Value) -> tuple[int, ...]:
    tensor = value.numbers if value.numbers is not None else value.const
    assert tensor is not None
    return tuple(tensor.shape)


def array_of(value: Value) -> np.ndarray:
    assert value.const is not None
    return value.const.detach().float().reshape(-1).numpy()
