"""Arrays as images, labels and maps: which axis is which follows from the shape, or is asked for.

Letters: N images, C channels, H rows, W columns, M channels of a map.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput

READINGS = {2: ("HW",), 3: ("NHW", "CHW", "HWC"), 4: ("NCHW", "NHWC")}
"""What the axes of an array may be, by how many there are."""
MOST_LABELS = 2**31
ALL_AXES = tuple(text for texts in READINGS.values() for text in texts)


def as_images(
    place: str,
    array: np.ndarray,
    axes: str | None = None,
    count: int | None = None,
    shape: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, str]:
    """An array of integers or booleans as images (N, C, H, W), a view, and its axes.

    Args:
        axes: one of `ALL_AXES`; None: the one in which there are 1 or 3 channels, and `count` images.
        count: how many labels or maps there are.
        shape: (C, H, W) that images must have; None: any with 1 or 3 channels.

    Raises:
        InvalidInput: no axes fit, or several do; no integers; no images.
    """
    if axes is not None and axes not in ALL_AXES:
        raise InvalidInput(f"axes must be one of {', '.join(ALL_AXES)}, got {axes!r}")
    found: dict[tuple[object, ...], tuple[np.ndarray, str]] = {}
    for text in READINGS.get(array.ndim, ()):
        if axes not in (None, text):
            continue
        images = array.transpose([text.index(letter) for letter in "NCHW" if letter in text])
        images = images[None] if "N" not in text else images
        images = images[:, None] if "C" not in text else images
        fits = images.shape[1] in (1, 3) or axes is not None if shape is None else images.shape[1:] == shape
        if not fits:
            continue
        strides = tuple(stride for stride, size in zip(images.strides, images.shape, strict=True) if size > 1)
        found.setdefault((images.shape, strides), (images, text))
    flat = array.ndim == 2 and (_may_be_flat(array.shape[1]) or count not in (None, 1))
    if axes is None and shape is None and flat:
        raise InvalidInput(
            f'{place}: images have shape {array.shape}: if this is one image, say axes="HW" (--axes HW); if a row is an image'
            ", store images.reshape(N, H, W) or (N, C, H, W)"
        )
    if len(found) > 1 and any(len(images) == count for images, _ in found.values()):
        found = {key: (images, text) for key, (images, text) in found.items() if len(images) == count}
    if not array.size:
        raise InvalidInput(f"{place} holds no images: found shape {array.shape}")
    if len(found) > 1:
        texts = " or ".join(f'axes="{text}"' for _, text in found.values())
        raise InvalidInput(
            f"{place}: images have shape {array.shape}, which can be read in {len(found)} ways: say {texts} "
            "(--axes; N images, C channels, H rows, W columns)"
        )
    if not found:
        wanted = f"axes {axes}" if axes else "(N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3, or one such image,"
        other = "" if axes or array.ndim != 4 else ": other numbers of channels are read by axes= (--axes NCHW or NHWC)"
        if shape is not None:
            wanted, other = f"(N, C, H, W) or (C, H, W) with C, H, W = {', '.join(map(str, shape))}", ""
        raise InvalidInput(f"{place}: images have shape {array.shape}, but {wanted} is needed{other}")
    ((images, text),) = found.values()
    if array.dtype.kind not in "iub":
        raise InvalidInput(f"{place}: images are {array.dtype}, but integers are needed{_float_hint(array)}")
    return images.astype(array.dtype.newbyteorder("="), copy=False), text


def _may_be_flat(size: int) -> bool:
    """Whether so many numbers are a square, in one colour or three."""
    return any(count % 1 == 0 and math.isqrt(int(count)) ** 2 == count for count in (size, size / 3)) and size >= 16


def _float_hint(array: np.ndarray) -> str:
    """Which line makes integers of floats, by their range; the range is no proof, so it is not done silently."""
    if not np.issubdtype(array.dtype, np.floating):
        return ""
    low, high = float(array.min()), float(array.max())
    result = f": they lie in {low:g} .. {high:g}, so store for instance "
    if not np.isfinite(low + high):
        return ": some are NaN or infinite"
    if low >= 0 and high <= 1:
        return result + "np.rint(255 * images).astype(np.uint8)"
    if low >= -1 and high <= 1:
        return result + "np.rint(127.5 * (images + 1)).astype(np.uint8)"
    if low >= 0 and bool((array == np.rint(array)).all()):
        return result + f"images.astype(np.{'uint8' if high < 256 else 'int64'})"
    return result + "them before they were normalised"


def as_labels(place: str, labels: np.ndarray, count: int, classes: int = 0) -> Tensor:
    """Labels (N,) or (N, 1) as int64 (N,).

    Args:
        count: how many images there are.
        classes: how many names of classes there are, 0 if there are none.
    """
    flat = labels.reshape(len(labels)) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    flat = flat[None] if flat.ndim == 0 and count == 1 else flat
    if flat.shape != (count,) or flat.dtype.kind not in "iub":
        one_hot = "; one-hot rows become numbers by .argmax(1)" if flat.ndim == 2 and len(flat) == count else ""
        cast = "; where they are whole numbers, store labels.astype(np.int64)" if flat.dtype.kind == "f" else ""
        named = "; store numbers, and the names in their order as `classes`" if flat.dtype.kind in "US" else ""
        hint = f"({count},) integers are needed{one_hot}{cast}{named}"
        raise InvalidInput(f"{place}: labels are {labels.dtype} of shape {labels.shape}, but {hint}")
    low, high = int(flat.min(initial=0)), int(flat.max(initial=0))
    if low < 0 or high >= (classes or MOST_LABELS):
        wanted = f"0 .. {classes - 1}, as there are {classes} names of classes" if classes else f"0 .. {MOST_LABELS - 1}"
        raise InvalidInput(f"{place}: labels hold {low} .. {high}, but must be {wanted}")
    return torch.from_numpy(flat.astype(np.int64))


def as_maps(place: str, images: np.ndarray, maps: np.ndarray | None) -> Tensor | None:
    """Maps (N, rows, columns) or (N, M, rows, columns) as (N, M, rows, columns), integers as int64."""
    if maps is None:
        return None
    if maps.ndim not in (3, 4) or len(maps) != len(images):
        raise InvalidInput(
            f"{place}: maps have shape {maps.shape}, but (N, rows, columns) or (N, M, rows, columns) is needed, "
            f"N = {len(images)}"
        )
    if maps.dtype.kind not in "iubf" or (maps.dtype == np.uint64 and maps.max(initial=0) >= 2**63):
        raise InvalidInput(f"{place}: maps are {maps.dtype}, but numbers are needed, integers below 2^63")
    with np.errstate(over="ignore"):
        numbers = maps.astype(np.int64 if maps.dtype.kind in "iu" else np.float32)
    if not np.isfinite(numbers).all():
        raise InvalidInput(f"{place}: maps hold NaN, infinity or numbers beyond float32")
    result = torch.from_numpy(numbers)
    return result.unsqueeze(1) if maps.ndim == 3 else result
