"""Mutations of a file's bytes: bits, numbers, cuts, and what lies inside zip files."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

NUMBERS = (0, 1, -1, 2, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 10**30)
VALUES = (
    *NUMBERS,
    0.5,
    -0.0,
    1e308,
    1e-308,
    True,
    None,
    "",
    "x",
    "F32",
    "integer",
    [],
    [0],
    {},
    [[]],
    {"a": 1},
    "\0",
    [10**9] * 3,
)


def bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A few changes of any kind."""
    for _ in range(int(rng.choice((1, 1, 1, 2, 3)))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        content = change(content, other, rng)
    return content


def place(content: bytes, rng: np.random.Generator) -> int:
    """Somewhere in a file, often near its beginning or its end, where headers lie."""
    near = min(len(content), 64)
    kind = rng.integers(3)
    at = (
        rng.integers(near + 1)
        if kind == 0
        else len(content) - rng.integers(near + 1)
        if kind == 1
        else rng.integers(len(content) + 1)
    )
    return int(min(at, max(len(content) - 1, 0)))


def bits(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    result = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if result else 0):
        result[place(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(result)


def set_bytes(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, size = place(content, rng), int(rng.choice((1, 2, 4, 8)))
    value = rng.choice((0, 1, 127, 128, 255, int(rng.integers(256))))
    return content[:at] + bytes([value]) * len(content[at : at + size]) + content[at + size :]


def number(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An extreme integer of 2, 4 or 8 bytes in either order."""
    at, size = place(content, rng), int(rng.choice((2, 4, 8)))
    value = NUMBERS[int(rng.integers(len(NUMBERS)))] % 256**size
    return content[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + content[at + size :]


def digits(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An extreme number in place of one that is written as text."""
    found = [match.span() for match in re.finditer(rb"\d+", content[:4096])]
    if not found:
        return content
    start, end = found[int(rng.integers(len(found)))]
    return content[:start] + str(NUMBERS[int(rng.integers(len(NUMBERS)))]).encode() + content[end:]


def cut(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: place(content, rng)]


def removed(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = place(content, rng)
    return content[:at] + content[at + int(rng.integers(1, 65)) :]


def doubled(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, size = place(content, rng), int(rng.integers(1, 257))
    return content[: at + size] + content[at:]


def spliced(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: place(content, rng)] + other[place(other, rng) :]


def inside(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change what an archive, a compressed file or a header holds, and pack it again rightly."""
    if content[:2] == b"PK":
        return _in_zip(content, other, rng)
    if content[:2] == b"\x1f\x8b":
        try:
            return gzip.compress(mutated(gzip.decompress(content), other, rng))
        except (OSError, EOFError, ValueError, zlib.error):
            return content
    start = 0 if content[:1] == b"{" else 8
    end = len(content) if not start else 8 + int.from_bytes(content[:8], "little")
    try:
        text = json.dumps(changed(json.loads(content[start:end]), rng)).encode()
    except (ValueError, RecursionError):
        return number(content, other, rng)
    return text if not start else struct.pack("<Q", len(text)) + text + content[end:]


def _in_zip(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = [(info.filename, file.read(info), info.compress_type) for info in file.infolist()]
    except Exception:  # it is damaged already
        return content
    if not members:
        return content
    at = int(rng.integers(len(members)))
    name, inner, packing = members[at]
    change = int(rng.integers(6))
    if change == 0:
        del members[at]
    elif change == 1:
        members.append((name, members[int(rng.integers(len(members)))][1], packing))
    elif change == 2:
        members[at] = (members[int(rng.integers(len(members)))][0], inner, packing)
    else:
        members[at] = (name, mutated(inner, other, rng), packing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice

        def write(target: io.BytesIO) -> None:
            with zipfile.ZipFile(target, "w") as file:
                for name, inner, packing in members:
                    file.writestr(name, inner, packing)

        return bytes_of(write)


def changed(value: object, rng: np.random.Generator) -> object:
    """JSON with one part exchanged, removed or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if rng.random() < 0.1:
            return {**value, key + "s": value[key]}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(len(value)))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]


CHANGES = (bits, set_bytes, number, digits, cut, removed, doubled, spliced, inside, inside, inside)
