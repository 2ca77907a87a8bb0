"""Arrays from .npy and .npz files, each checked before its numbers are read: its type, its shape, and how large that is."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import described
from .access import MAX_BYTES, Source, opened

READABLE = "biufcSU"
"""Booleans, numbers and text: what is neither an object nor a structure of several."""


def read_npy(path: str | Path, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        InvalidInput: there is no such file, it is damaged, holds objects, or is larger than the limit.
    """
    with opened(path, ".npy file", max_bytes) as file:
        return _array(file, file.handle, file.size, "its array")


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open .npz file by name; each is read when it is asked for, and no other."""

    def __init__(self, file: Source) -> None:
        self._file, self._zip = file, zipfile.ZipFile(file.handle)
        self._members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        info, where = self._members[name], f"{name!r}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._file.error(f"{self._file.path}: {where} is compressed in a way that NumPy does not write")
        self._file.allow(info.file_size, where)
        with _inside(self._file, where), self._zip.open(info) as member:
            return _array(self._file, cast(BinaryIO, member), info.file_size, where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextlib.contextmanager
def _inside(file: Source, where: str) -> Iterator[None]:
    """What goes wrong in one array is raised with its name."""
    try:
        yield
    except (file.error, MemoryError):
        raise
    except Exception as failure:
        raise file.error(f"{file.path}: {where} is damaged: {described(failure)}") from failure


@contextlib.contextmanager
def open_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> Iterator[Arrays]:
    """Open an .npz file.

    Raises:
        InvalidInput: there is no such file, or it or an array that is asked for is damaged, or larger than the limit.
    """
    with opened(path, ".npz file", max_bytes) as file:
        yield Arrays(file)


def is_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> bool:
    """Whether a file begins as an .npz does, whatever its name."""
    with opened(path, ".npy or .npz file", max_bytes) as file:
        return file.handle.read(2) == b"PK"


def _array(file: Source, handle: BinaryIO, size: int, where: str) -> np.ndarray:
    """The array of an .npy file of `size` bytes."""
    version = np.lib.format.read_magic(handle)
    if version not in ((1, 0), (2, 0)):
        raise file.error(f"{file.path}: {where} is of version {version} of NumPy's format, which holds structures only")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(handle)
    if dtype.kind not in READABLE or not dtype.itemsize:
        raise file.error(f"{file.path}: {where} holds {dtype}, and numbers are needed: objects are not loaded")
    if any(length < 0 for length in shape):
        raise file.error(f"{file.path}: {where} has the shape {shape}")
    wanted, there = math.prod(shape) * dtype.itemsize, size - handle.tell()
    if wanted > there:
        raise file.error(
            f"{file.path}: {where} should hold {dtype} of shape {shape}, {wanted:,} bytes, but has {there:,}: it is truncated"
        )
    file.allow(wanted, where)
    data = bytearray(wanted)
    if handle.readinto(data) != wanted:  # type: ignore[attr-defined]
        raise EOFError(f"{where} ends early")
    return np.ndarray(shape, dtype, data, order="F" if by_columns else "C")
