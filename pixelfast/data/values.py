"""How many values a pixel can take: what a file says, what an option says, and nothing that would have to be guessed.

Letters: K levels of the model, S levels of the source. A value k of S becomes floor(k * K / S).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import DataWarning, InvalidInput, described
from ..inputs.announce import announce
from ..inputs.arguments import count_of

MOST_LEVELS = 256
"""Levels of a model unless one asks for more."""


def quantise(images: Tensor | np.ndarray, levels: int, source_levels: int = 256) -> Tensor:
    """Integers 0 .. S-1 as 0 .. K-1: floor(k * K / S), so that each new value stands for S / K old ones. int64.

    Raises:
        InvalidInput: ``images`` are no integers of 0 .. S-1, or K is not in 2 .. S.
    """
    levels, source_levels = count_of("levels", levels), count_of("source_levels", source_levels)
    if source_levels > 2**31:
        raise InvalidInput(f"source_levels must lie in 2 .. {2**31}, got {source_levels}")
    try:
        values = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    except (TypeError, ValueError, RuntimeError) as error:
        found = f"{type(images).__name__}: {described(error)}"
        raise InvalidInput(f"images must be a tensor or an array of integers, got {found}") from error
    if values.is_floating_point() or values.is_complex():
        raise InvalidInput(f"images must be integers, got {values.dtype}: scale them to 0 .. {source_levels - 1} first")
    if not 2 <= levels <= source_levels:
        raise InvalidInput(
            f"levels must lie in 2 .. {source_levels}, got {levels}: the data's pixels take {source_levels} values "
            "(source_levels= says so where they take more)"
        )
    values = values.long()
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= source_levels):
        raise InvalidInput(
            f"images must hold 0 .. {source_levels - 1}, got {int(values.min())} .. {int(values.max())}: "
            "give source_levels= where the data has another range"
        )
    return values * levels // source_levels


def widened(array: np.ndarray, bits: int) -> np.ndarray:
    """Pixels of 1, 2 or 4 bits as bytes of 0 .. 255, as viewers show them; others as they are."""
    return array.astype(np.uint8) * np.uint8(255 // (2**bits - 1)) if bits in (1, 2, 4) else array


def deep_enough(
    arrays: Sequence[np.ndarray], bits: int | None, levels: int | None, asked: int | None
) -> tuple[list[np.ndarray], int | None]:
    """Arrays of one source and their bits: pictures of fewer bits than K needs as bytes, unless an option says S.

    Args:
        bits, levels, asked: see `source_levels_of`.
    """
    if bits in (1, 2, 4) and asked is None and levels is not None and levels > 2**bits:
        return [widened(array, bits) for array in arrays], 8
    return list(arrays), bits


def source_levels_of(
    place: str,
    arrays: Sequence[np.ndarray],
    levels: int | None,
    *,
    said: int | None = None,
    asked: int | None = None,
    bits: int | None = None,
) -> tuple[int, int]:
    """(K, S) for integer arrays of one source.

    In this order: what the file says (a key ``levels``), the option ``source_levels``, and the type. Booleans take two values.
    Bytes, and the pixels of pictures, take as many as their bits allow only if a value needs all of these bits and is none of
    0 .. K-1: otherwise label maps, codes and dark pictures look alike. What lies within 0 .. K-1 is then taken as it is, with a
    warning, and anything else is asked for. Other integers of 0 .. K-1 are levels as they are, for K of at most 256, as bytes
    are.

    Args:
        place: the file, for messages.
        levels: K; None: S where the file or the option says it, else as many as the bits allow, `MOST_LEVELS` at most.
        said: S by the file's own words.
        asked: S by the option.
        bits: of a picture's pixels by its format, 0 where that fits anything; None: 1 of booleans, 8 of bytes, 0 of others.

    Raises:
        InvalidInput: words and values contradict each other, or nothing says how many values there are.
    """
    low, high = _range(arrays)
    kinds = {array.dtype for array in arrays}
    kind = next(iter(kinds)) if len(kinds) == 1 else np.dtype(np.int64)
    if bits is None:
        bits = {np.dtype(np.bool_): 1, np.dtype(np.uint8): 8}.get(kind, 0)
    most = 2**bits if bits else 0
    if said is not None and asked not in (None, said):
        raise InvalidInput(f"{place} says that its pixels take {said} values, but source_levels is {asked}: leave it out")
    if said is None and asked is not None and most and asked > most:
        raise InvalidInput(f"source_levels is {asked}, but the pixels of {place} have {bits} bits, which take {most} values")
    source = said or asked or (2 if most == 2 else None)
    if low < 0 or (source is not None and high >= source):
        fitting = "0 or more" if source is None else f"0 .. {source - 1}"
        if low < 0:
            hint = "add what is missing to 0 before they are stored"
        elif said is not None:
            hint = f"by its own words they take {said} values: store `levels`={high + 1} or more, or values that are smaller"
        else:
            hint = f"say source_levels={high + 1} (--source-levels {high + 1}) or more"
        raise InvalidInput(f"{place}: pixels must be {fitting}, got {low} .. {high}: {hint}")
    if source is not None:
        _enough(place, source, levels)
        return source if levels is None else levels, source
    _enough(place, most, levels)
    wanted = min(most or MOST_LEVELS, MOST_LEVELS) if levels is None else levels
    return wanted, _by_type(place, f"{bits} bits" if most else str(kind), high, wanted, most)


def _enough(place: str, source: int, levels: int | None) -> None:
    """Refuse more levels than there are values; 0: there is no bound."""
    if source and levels is not None and levels > source:
        raise InvalidInput(
            f"{place}: its pixels take {source} values, and cannot become {levels} levels: say levels={source} "
            f"(--levels {source})"
        )


def _range(arrays: Sequence[np.ndarray]) -> tuple[int, int]:
    full = [array for array in arrays if array.size]
    return min((int(array.min()) for array in full), default=0), max((int(array.max()) for array in full), default=0)


def _by_type(place: str, kind: str, high: int, wanted: int, most: int) -> int:
    """S where neither the file nor an option says it: values of 0 .. high of a type made for `most` values, 0: for any."""
    if most and (high >= max(most // 2, wanted) or high == 0 or wanted == most):
        return most
    if high < wanted <= MOST_LEVELS:
        if most:
            announce(
                f"{place}: its pixels are of {kind} and hold 0 .. {high}: taken for values of {wanted} levels as they are. "
                f"source_levels={wanted} (--source-levels {wanted}) says so, and source_levels={most} that these are dark "
                f"pictures of {most} values",
                DataWarning,
            )
        return wanted
    found = f"{place}: how many values can a pixel take? Its pixels are of {kind} and hold 0 .. {high}, for {wanted} levels"
    if high < wanted:
        raise InvalidInput(
            f"{found}: say source_levels={wanted} (--source-levels {wanted}) where they are levels as they are, "
            f"{f'source_levels={most} where all of these count, ' if most else ''}or store a number `levels` in the .npz"
        )
    full = most or next((size for size in (256, 65536) if high < size), high + 1)
    raise InvalidInput(
        f"{found}: say source_levels={full} (--source-levels {full}) to quantise {full} values to {wanted}, "
        f"source_levels={high + 1} if none is above {high}, or store a number `levels` in the .npz"
    )
