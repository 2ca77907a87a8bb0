"""What users pass in, checked: each function returns a clean value or raises InvalidInput, saying what is needed."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..distributions.base import Head
from ..errors import InvalidInput, described, like, shown
from ..ir.contract import limit
from ..ir.scan_order import ORDERS, RASTER, Order

SUB_PIXELS = 2**31
"""The most sub-pixels of an image: no machine draws more one after the other."""
THREADS = limit("MostThreads")
"""PyTorch makes as many threads as one asks for, and ends the process where the system does not."""
INDICES = 2**63
"""How many images a seed has."""
TEMPERATURES = (1e-30, 1e30)
"""The lowest and the highest; float32 ends at 1e-38 and 3e38, and logits are multiplied with the inverse."""


def module_of(model: Any) -> nn.Module:
    """The model itself, if it is a module."""
    if not isinstance(model, nn.Module):
        made = f": {model.__name__} is a class, pass one of its objects" if isinstance(model, type) else ""
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}{made}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if reason := unreadable(tensor):
            raise InvalidInput(f"the weight or buffer {name!r} of {type(model).__name__} {reason}")
    return model


def unreadable(tensor: Tensor) -> str | None:
    """Why a tensor has no plain numbers to compute with, and what to do; None if it has."""
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: run the model once, or load its weights"
    if tensor.is_meta:
        return "lies on the device meta, without numbers: load the weights, or make the model elsewhere"
    if tensor.is_sparse or tensor.layout != torch.strided:
        return f"is {tensor.layout}: make it dense, by .to_dense()"
    if tensor.is_quantized:
        return f"is {tensor.dtype}: make it a floating-point tensor, by .dequantize()"
    return None


def shape_of(model: nn.Module, shape: Any = None) -> tuple[int, int, int]:
    """(C, H, W) of the images: as given, or `model.shape`."""
    result = shape if shape is not None else getattr(model, "shape", None)
    if result is None:
        raise InvalidInput(
            f"{type(model).__name__} does not say which images it draws: pass shape=(channels, rows, columns) (--shape C,H,W)"
        )
    return sizes_of(result)


def sizes_of(found: Any) -> tuple[int, int, int]:
    """Three positive integers (C, H, W)."""
    try:
        channels, height, width = (int(size) if int(size) == size else 0 for size in found)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        channels = height = width = 0
    if min(channels, height, width) < 1 or channels * height * width > SUB_PIXELS:
        raise InvalidInput(f"shape must be (channels, rows, columns), three positive integers, got {shown(found)}")
    return channels, height, width


def head_of(model: nn.Module, head: Any = None) -> Head:
    """The head: as given, or `model.head`."""
    result = head if head is not None else getattr(model, "head", None)
    if not isinstance(result, Head):
        raise InvalidInput(
            f"{type(model).__name__} does not say what its outputs mean: pass head=pixelfast.Categorical(levels, encode=...) "
            f"or head=pixelfast.Bernoulli(...){'' if head is None else f', not {type(head).__name__}'}"
        )
    return result


def order_of(model: nn.Module, order: Any = None) -> Order:
    """The order of generation: as given, or `model.order` if that names one, or raster."""
    own = getattr(model, "order", None)
    # Other models call other things so; where that hides a misspelt name, the proof of causality fails.
    result = order if order is not None else own if isinstance(own, str) and own in ORDERS else RASTER.name
    if not isinstance(result, str) or result not in ORDERS:
        names = ", ".join(f'"{name}"' for name in ORDERS)
        raise InvalidInput(
            f"{result!r} is no order of generation{like(result, ORDERS)}: pass order= as one of {names} (row after row or "
            "column after column, from the top unless bottom-up, from the left unless right-to-left)"
        )
    return ORDERS[result]


def integer_of(name: str, value: Any, wanted: str) -> int:
    """An integer of Python or NumPy, or an array or a tensor of one; `wanted` says which are possible."""
    kind = getattr(value, "dtype", None)
    try:
        if isinstance(value, bool) or kind in (np.bool_, torch.bool):
            raise TypeError
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"{name} must be {wanted}, got {shown(value)}") from None


def count_of(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    wanted = f"an integer of at least {least}"
    result = integer_of(name, value, wanted)
    if not least <= result < INDICES:
        raise InvalidInput(f"{name} must be {wanted}{'' if result < least else ' and below 2**63'}, got {shown(value)}")
    return result


def threads_of(value: Any) -> int | None:
    """How many threads may run, or None."""
    if value is None:
        return None
    result = count_of("threads", value)
    if result > THREADS:
        raise InvalidInput(f"threads must lie in 1 .. {THREADS}, got {result}")
    return result


def seed_of(value: Any) -> int:
    """A key of the noise."""
    result = integer_of("seed", value, "an integer")
    if not 0 <= result < 2**64:
        raise InvalidInput(f"seed must lie in 0 .. 2**64 - 1, got {result}")
    return result


def first_of(value: Any, n: int) -> int:
    """The index of the first of n images of a seed."""
    result = count_of("first", value, least=0)
    if result + n > INDICES:
        raise InvalidInput(f"images {result} .. {result + n - 1} were asked for: a seed has images 0 .. 2**63 - 1")
    return result


def check_type(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """InvalidInput unless a value is None or of a type."""
    if value is not None and not isinstance(value, kind):
        raise InvalidInput(f"{name} must be {what}, got {shown(value)}")


def check_flags(**flags: Any) -> None:
    """InvalidInput unless all are True or False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise InvalidInput(f"{name} must be True or False, got {shown(value)}")


def temperature_of(value: Any) -> float:
    """A number within `TEMPERATURES`."""
    least, most = TEMPERATURES
    try:
        if isinstance(value, (bool, str, bytes)) or getattr(value, "dtype", None) in (np.bool_, torch.bool):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInput(f"temperature must be a number above 0, got {shown(value)}") from None
    if not 0 < result < math.inf:
        raise InvalidInput(f"temperature must be a number above 0, got {shown(value)}")
    if not least <= result <= most:
        same = "the most probable value is always drawn" if result < least else "all values are equally probable"
        raise InvalidInput(
            f"temperature must lie within {least:g} .. {most:g}, got {shown(value)}: beyond, {same}, and neither it nor its "
            "inverse is a float32 that every engine can compute with"
        )
    return result


def callback_of(name: str, value: Any) -> Any:
    """A function, or None."""
    if value is not None and not callable(value):
        raise InvalidInput(f"{name} must be a function, got {shown(value)}")
    return value


def generator_of(value: Any) -> torch.Generator | None:
    """A generator of PyTorch, or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise InvalidInput(f"generator must be a torch.Generator, got {shown(value)}; a number is passed as seed=")
    return value


def resolve_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The 64-bit key of a call: ``seed`` itself, or one draw from ``generator``, or one from PyTorch's global generator."""
    generator = generator_of(generator)
    if seed is not None and generator is not None:
        raise InvalidInput("both seed= and generator= were given: pass one of them")
    if seed is not None:
        return seed_of(seed)
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


def holds_masked(value: Any) -> bool:
    """Whether NumPy arrays, alone or within lists, tuples and dictionaries, have masked entries: conversions drop masks."""
    if isinstance(value, np.ma.MaskedArray):
        return b"\1" in np.ma.getmask(value).tobytes()
    held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(holds_masked, held))


def values_of(name: str, images: Any, shape: tuple[int, int, int], levels: int, least: int = 0) -> np.ndarray:
    """Integer images (N, C, H, W) or (C, H, W), values least .. levels-1, as int32 (N, H, W, C) in the order of drawing."""
    unknown = ", or -1 where unknown" if least < 0 else ""
    wanted = f"{name} must hold integers 0 .. {levels - 1}{unknown}"
    if holds_masked(images):
        one = ": pass one masked array, not several" if least < 0 else ""
        raise InvalidInput(f"{wanted}, got masked entries, which have no value{one}")
    try:
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{wanted}, got {shown(images)}: {described(error)}") from error
    if array.dtype.kind not in "iub":
        found = images.dtype if isinstance(images, Tensor) else array.dtype
        raise InvalidInput(f"{wanted}, got {found}")
    array = array[None] if array.ndim == 3 else array
    if array.shape[1:] != shape:
        sizes = ", ".join(map(str, shape))
        raise InvalidInput(f"{name} has shape {array.shape}, but the model's images are (N, {sizes})")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < least or high >= levels:
        raise InvalidInput(f"{name} holds values {low} .. {high}, but the head has levels 0 .. {levels - 1}{unknown}")
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1).astype(np.int32))


def given_of(given: Any, n: int, shape: tuple[int, int, int], levels: int) -> np.ndarray | None:
    """Known values as int32 (n, H, W, C), -1 where unknown; None if nothing is known. Masked entries are unknown."""
    if given is None:
        return None
    if isinstance(given, np.ma.MaskedArray) and given.ndim in (3, 4) and given.dtype.kind in "iub":
        values = values_of("given", given.filled(0), shape, levels, least=-1)  # unsigned integers have no -1 yet
        values[np.ma.getmaskarray(given).reshape(-1, *shape).transpose(0, 2, 3, 1)] = -1
    else:
        values = values_of("given", given, shape, levels, least=-1)
    if len(values) not in (1, n):
        raise InvalidInput(f"given holds {len(values)} images, but n is {n}")
    return np.array(np.broadcast_to(values, (n, *values.shape[1:])))


def images_of(values: np.ndarray, levels: int) -> Tensor:
    """Values (N, H, W, C) as images (N, C, H, W): uint8, or int32 if there are more than 256 levels."""
    # NumPy, not PyTorch, whose threads would wake up for that and then spin beside those of the next call.
    dtype = np.uint8 if levels <= 256 else np.int32
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(dtype, order="C"))
