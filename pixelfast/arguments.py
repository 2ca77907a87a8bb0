"""What users pass in, checked: each function returns a clean value or raises InvalidInput, saying what is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InvalidInput
from .heads import Head
from .order import ORDERS, RASTER, Order


def module_of(model: Any) -> nn.Module:
    """The model itself, if it is a module."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return model


def shape_of(model: nn.Module, shape: Any = None) -> tuple[int, int, int]:
    """(C, H, W) of the images: as given, or `model.shape`."""
    found = shape if shape is not None else getattr(model, "shape", None)
    if found is None:
        raise InvalidInput(f"{type(model).__name__} does not say which images it draws: pass shape=(channels, rows, columns)")
    return sizes_of(found)


def sizes_of(found: Any) -> tuple[int, int, int]:
    """Three positive integers (C, H, W)."""
    try:
        channels, height, width = (int(size) for size in found)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise InvalidInput(f"shape must be (channels, rows, columns), three positive integers, got {found!r}")
    return channels, height, width


def head_of(model: nn.Module, head: Any = None) -> Head:
    """The head: as given, or `model.head`."""
    found = head if head is not None else getattr(model, "head", None)
    if not isinstance(found, Head):
        raise InvalidInput(
            f"{type(model).__name__} does not say what its outputs mean: pass head=pixelfast.Categorical(levels, encode=...) "
            f"or head=pixelfast.Bernoulli(...){'' if head is None else f', not {type(head).__name__}'}"
        )
    return found


def order_of(model: nn.Module, order: Any = None) -> Order:
    """The order of generation: as given, or `model.order` if that names one, or raster."""
    own = getattr(model, "order", None)
    # Other models call other things so; where that hides a misspelt name, the proof of causality fails.
    found = order if order is not None else own if isinstance(own, str) and own in ORDERS else RASTER.name
    if not isinstance(found, str) or found not in ORDERS:
        names = ", ".join(f'"{name}"' for name in ORDERS)
        raise InvalidInput(
            f"{found!r} is no order of generation: pass order= as one of {names} (row after row or column after "
            "column, from the top unless bottom-up, from the left unless right-to-left)"
        )
    return ORDERS[found]


def count_of(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InvalidInput(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def check_type(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """InvalidInput unless a value is None or of a type."""
    if value is not None and not isinstance(value, kind):
        raise InvalidInput(f"{name} must be {what}, got {type(value).__name__} {value!r:.80}")


def check_flags(**flags: Any) -> None:
    """InvalidInput unless all are True or False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise InvalidInput(f"{name} must be True or False, got {type(value).__name__} {value!r:.80}")


def temperature_of(value: Any) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise InvalidInput(f"temperature must be a number above 0, got {value!r}")
    return float(value)


def values_of(name: str, images: Any, shape: tuple[int, int, int], levels: int, least: int = 0) -> np.ndarray:
    """Integer images (N, C, H, W) or (C, H, W), values least .. levels-1, as int32 (N, H, W, C) in the order of drawing."""
    tensor = torch.as_tensor(images)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        raise InvalidInput(f"{name} must hold integers 0 .. {levels - 1}, got {tensor.dtype}")
    tensor = tensor.unsqueeze(0) if tensor.dim() == 3 else tensor
    if tuple(tensor.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise InvalidInput(f"{name} has shape {tuple(tensor.shape)}, but the model's images are (N, {wanted})")
    low, high = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
    if low < least or high >= levels:
        unknown = ", or -1 where unknown" if least < 0 else ""
        raise InvalidInput(f"{name} holds values {low} .. {high}, but the head has levels 0 .. {levels - 1}{unknown}")
    return np.ascontiguousarray(tensor.cpu().permute(0, 2, 3, 1).to(torch.int32).numpy())


def given_of(given: Any, n: int, shape: tuple[int, int, int], levels: int) -> np.ndarray | None:
    """Known values as int32 (n, H, W, C), -1 where unknown; None if nothing is known."""
    if given is None:
        return None
    values = values_of("given", given, shape, levels, least=-1)
    if len(values) not in (1, n):
        raise InvalidInput(f"given holds {len(values)} images, but n is {n}")
    return np.array(np.broadcast_to(values, (n, *values.shape[1:])))


def images_of(values: np.ndarray, levels: int) -> Tensor:
    """Values (N, H, W, C) as images (N, C, H, W): uint8, or int32 if there are more than 256 levels."""
    # NumPy, not PyTorch, whose threads would wake up for that and then spin beside those of the next call.
    dtype = np.uint8 if levels <= 256 else np.int32
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(dtype, order="C"))
