"""Any part of a program as a stream, by the field lists of `pixelfast.ir.contract`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .bodies import unknown_body
from .contract import (
    DIGEST,
    MAGIC,
    NAMES,
    PROGRAM,
    Arguments,
    Array,
    Check,
    Code,
    Field,
    Many,
    Number,
    One,
    Struct,
    Variant,
    Word,
    Words,
)


class Stream(NamedTuple):
    """A program as the native engines read it.

    Attributes:
        words: int64.
        arrays: float32, those that the words refer to by number: the program's own, where they are contiguous float32.
        places: at which word each field of the program begins, for tests.
    """

    words: np.ndarray
    arrays: list[np.ndarray]
    places: dict[str, int]


def write(whole: object) -> Stream:
    """The stream of what has the attributes that `PROGRAM` names."""
    writer = _Writer()
    writer.words += [MAGIC, DIGEST]
    places = {}
    for field in PROGRAM.fields:
        places[field.name] = len(writer.words)
        writer.field(field, whole)
    return Stream(np.array(writer.words, np.int64), writer.arrays, places)


class _Writer:
    def __init__(self) -> None:
        self.words: list[int] = []
        self.arrays: list[np.ndarray] = []
        self.numbers: dict[int, int] = {}  # of arrays that are written already, by id
        self.kept: list[np.ndarray] = []  # so that no id is used twice

    def struct(self, struct: Struct | Variant, value: Any) -> None:
        if isinstance(struct, Variant):
            self.variant(struct, value)
            return
        if (words := _plain(struct)) is not None:
            self.words += words(value)
            return
        for field in struct.fields:
            self.field(field, value)

    def field(self, field: Field, owner: object) -> None:
        if isinstance(field, Check):
            return
        value: Any = attrgetter(field.attribute)(owner)
        match field:
            case Word():
                self.words.append(int(value))
            case Code():
                self.words.append(NAMES[field.names].index(value.replace("-", "_")))
            case Number():
                self.number(value)
            case Array():
                self.array(value)
            case Words():
                self.words += [len(value), *_whole(value)]
            case Arguments():
                self.words += value
            case One(struct=struct) if struct is not None:
                if field.optional:
                    self.words.append(value is not None)
                if value is not None:
                    self.struct(struct, value)
            case Many(struct=struct) if struct is not None:
                self.many(field, struct, value)
            case _:
                raise TypeError(f"there is no way to write {field}")

    def many(self, field: Many, struct: Struct | Variant, values: Any) -> None:
        self.words.append(len(values))
        if isinstance(values, np.ndarray):  # a line for each struct, with its words
            self.words += _whole(values.reshape(-1))
            return
        for value in values:
            if not field.nested:
                self.struct(struct, value)
                continue
            self.words.append(len(value))
            for part in value:
                self.struct(struct, part)

    def variant(self, variant: Variant, value: object) -> None:
        for number, option in enumerate(variant.options):
            if type(value).__name__ == option.name and isinstance(option, Struct):
                self.words.append(number)
                self.struct(option, value)
                return
            if isinstance(option, Array) and isinstance(value, np.ndarray):
                self.words.append(number)
                self.array(value)
                return
            if isinstance(option, Number) and isinstance(value, (int, float)):
                self.words.append(number)
                self.number(value)
                return
        raise unknown_body(value, "the stream of the native engines")

    def number(self, value: float) -> None:
        self.words.append(int(np.float32(value).view(np.uint32)))

    def array(self, array: np.ndarray | None) -> None:
        if array is None:
            self.words += [-1, 0]
            return
        if id(array) not in self.numbers:
            self.numbers[id(array)] = len(self.arrays)
            self.kept.append(array)
            self.arrays.append(np.ascontiguousarray(array, np.float32))
        self.words += [self.numbers[id(array)], array.size]


def _whole(values: Sequence[int] | np.ndarray) -> Iterable[int]:
    return values.tolist() if isinstance(values, np.ndarray) else values


@cache
def _plain(struct: Struct) -> Any:
    """For a struct of nothing but whole numbers: what gives all of them."""
    return attrgetter(*(field.attribute for field in struct.fields)) if all(type(f) is Word for f in struct.fields) else None
