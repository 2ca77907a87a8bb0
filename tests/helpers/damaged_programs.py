"""Programs of every kind with some words changed, and calls with anything in them: case `number` is always the same.

Words change by little, so that many programs still run, or by much; some are exchanged, left out or doubled. What a call brings
(noise, given values, fields, threads) has sizes that fit the changed words, or the old ones, or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from attention_cases import Case as AttentionCase
from attention_cases import program_of as attention_program
from heads import MIXTURES, mixture_head
from native import ARRANGEMENTS
from programs import Builder, by_phases, recurrent, swept

from pixelfast.ir.contract import FIELD
from pixelfast.ir.program import Program
from pixelfast.ir.stream import Stream
from pixelfast.lowering import packing

SPECIAL = (0, 1, -1, 2, 63, 64, 255, 1 << 12, 1 << 20, 1 << 22, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
LITTLE = (-17, -3, -2, -1, -1, -1, -1, 1, 1, 1, 1, 2, 3, 17, 64, 1000, -1000, 1 << 12, 1 << 20, -(1 << 20))
NUMBERS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -1.0, 1.0)
MOST_NUMBERS = 1 << 16
"""The most numbers of an array that is damaged; larger ones are left as they were."""
MOST_SUBPIXELS = 1 << 12
"""The most sub-pixels of a call: dozens of threads that wait for one another at every row take a minute for more."""


@dataclass(frozen=True)
class Base:
    """A program that runs, as its stream."""

    name: str
    stream: Stream

    def number(self, name: str, words: np.ndarray | None = None) -> int:
        """A number of the head; of changed words, the old one where no array may have the new one as its size."""
        old = int(self.stream.words[self.stream.places[name]])
        return old if words is None else _of(words, self.stream.places[name], old)


@cache
def bases() -> tuple[Base, ...]:
    rng = np.random.default_rng(0)

    def built(channels: int, head: str) -> Program:
        mixture = mixture_head(head, 6, 2, channels)
        return Builder(np.random.default_rng(1), (channels, 3, 4), features=5, head=head, mixture=mixture).build()

    programs = {
        "categorical": built(2, "categorical"),
        "wide": Builder(np.random.default_rng(2), (1, 4, 9), features=17).build(),
        "phases": by_phases(built(2, "categorical"), 2, 3),
        **{f"{head}, {channels} channels": built(channels, head) for head in MIXTURES for channels in (1, 3)},
        "recurrent": recurrent(rng, 3, 4),
        "swept": swept(rng, 3, 4, 1)[0],
        "swept back": swept(rng, 3, 4, -1)[0],
        "attention of pixels": attention_program(AttentionCase(masks=3, biases=1, phase="pixel"), rng),
        "attention of rows": attention_program(AttentionCase(masks=3, biases=1, phase="row"), rng),
    }
    for head in ("bernoulli_logit", "bernoulli_probability"):
        programs[head] = Builder(np.random.default_rng(3), (1, 4, 3), levels=2, features=3, head=head).build()
    result = []
    for name, program in programs.items():
        result.append(Base(name, packing.pack(program)))
    return tuple(result)


@dataclass(frozen=True)
class Damaged:
    """One case: a stream, how the engine is made, and a call."""

    base: str
    words: np.ndarray
    arrays: list[np.ndarray]
    options: dict[str, Any]
    call: dict[str, Any]
    levels: int


def damaged(number: int, shared: bool = False) -> Damaged:
    """Case `number`; with `shared`, several threads always share a tile."""
    rng = np.random.default_rng([number, shared])
    base = bases()[int(rng.integers(len(bases())))]
    words, arrays = _changed(base.stream.words, rng), [array.copy() for array in base.stream.arrays]
    for _ in range(int(rng.integers(1, 5)) if rng.random() < 0.15 else 0):
        array = arrays[int(rng.integers(len(arrays)))].reshape(-1)
        array[int(rng.integers(array.size)) : array.size : 1 << 20] = rng.choice(NUMBERS)
    if rng.random() < 0.02:
        arrays = _fewer(arrays, rng)
    options = {
        "cell": int(_mostly([4, 4, 0, 2], [3, -1], rng)),
        "precision": _mostly(["fp32", "fp32", "fp16w"], ["fp8", ""], rng),
        "isa": int(rng.integers(8)),  # which of those that there are; the best for most
    }
    return Damaged(base.name, words, arrays, options, _call(base, words, rng, shared), base.number("levels", words))


def _fewer(arrays: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The arrays without the last ones, or with one of them cut short."""
    at = int(rng.integers(len(arrays)))
    if rng.random() < 0.5:
        return arrays[:at]
    short = arrays[at].reshape(-1)[: int(rng.integers(arrays[at].size))].copy()
    return [*arrays[:at], short, *arrays[at + 1 :]]


def _changed(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stream with one word changed, or several."""
    changed = words.copy()
    for _ in range(int(rng.choice([0, 1, 1, 1, 1, 2, 2, 3, 5, 9]))):
        if len(changed) < 3:
            break
        at = int(rng.integers(2 if rng.random() < 0.95 else 0, len(changed)))
        kind = rng.random()
        if kind < 0.7:
            changed[at] = _word(int(changed[at]) + int(rng.choice(LITTLE)))
        elif kind < 0.8:
            changed[at] = SPECIAL[int(rng.integers(len(SPECIAL)))]
        elif kind < 0.9:
            changed[at] = changed[int(rng.integers(len(changed)))]
        elif kind < 0.94:
            other = int(rng.integers(2, len(changed)))
            changed[[at, other]] = changed[[other, at]]
        elif kind < 0.955:
            changed = np.delete(changed, at)
        elif kind < 0.97:
            changed = np.insert(changed, at, changed[int(rng.integers(len(changed)))])
        elif kind < 0.985:
            last = min(len(changed), at + int(rng.integers(1, 40)))
            changed = np.concatenate([changed[:last], changed[at:]])
        else:
            changed = changed[: max(1, at)]
    return changed


def _word(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _of(words: np.ndarray, at: int, otherwise: int, least: int = 1) -> int:
    """The number at a place of a stream, if an array may have that size."""
    number = int(words[at]) if at < len(words) else otherwise
    return number if least <= number <= MOST_NUMBERS else otherwise


def _call(base: Base, words: np.ndarray, rng: np.random.Generator, shared: bool) -> dict[str, Any]:
    sizes = ("channels", "height", "width")
    channels, height, width = (base.number(name, words) for name in sizes)
    images = int(rng.choice([1, 1, 2, 3, 5, 13, 0]))
    if images * channels * height * width > MOST_SUBPIXELS:
        channels, height, width = map(base.number, sizes)
    shape = _perhaps((images, height, width, channels), rng)
    noise = rng.random(shape, dtype=np.float32)
    if rng.random() < 0.3:
        noise[rng.random(shape) < 0.2] = rng.choice([np.nan, 1.0, -1.0, 0.0, np.inf, -np.inf, 2.0])
    parameters = base.number("parameters", words)
    large = int(np.prod(shape)) * parameters > 16 * MOST_NUMBERS
    return {
        "noise": noise,
        "values": np.full(_perhaps(shape, rng), -7, np.int32),
        "given": _given(shape, base.number("levels", words), rng),
        "fields": _fields(base, words, images, rng),
        "log_prob": np.zeros(_perhaps((images,), rng)) if rng.random() < 0.5 else None,
        "parameters": None if large or rng.random() < 0.5 else np.zeros(_perhaps((*shape, parameters), rng), np.float32),
        "temperature": _mostly([1.0, 1.0, 0.5, 3.0, 1e-46, 1e46, 1e-300], [0.0, -1.0, np.nan, np.inf], rng),
        "threads": _mostly([2, 3, 4] if shared else [1, 1, 2, 3, 4, 7], [0, -1, 5000], rng),
        "arrangement": _arrangement(rng, shared),
        "on_row": (lambda row, values: None) if rng.random() < 0.2 else None,
    }


def _given(shape: tuple[int, ...], levels: int, rng: np.random.Generator) -> np.ndarray | None:
    if rng.random() < 0.5:
        return None
    given = rng.integers(levels, size=_perhaps(shape, rng)).astype(np.int32)
    share = rng.choice([0.0, 0.3, 1.0])
    given[rng.random(given.shape) < share] = -1
    if given.size and rng.random() < 0.15:
        given.reshape(-1)[int(rng.integers(given.size))] = rng.choice([levels, -2, (1 << 31) - 1, -(1 << 31)])
    return given


def _fields(base: Base, words: np.ndarray, images: int, rng: np.random.Generator) -> list[np.ndarray]:
    result, names = [], [field.name for field in FIELD.fields]
    for i in range(base.number("fields")):
        at = base.stream.places["fields"] + 1 + len(names) * i
        places = [at + names.index(name) for name in ("features", "rows", "cols")]
        old = base.stream.words
        features, rows, cols = (_of(words, place, int(old[place])) for place in places)
        sizes = [n if rng.random() < 0.7 else 1 for n in (images, rows, cols)]
        if int(np.prod(sizes)) * features > 4 * MOST_NUMBERS:
            sizes, features = [1, 1, 1], int(old[places[0]])
        array = rng.standard_normal(_perhaps((*sizes, features), rng), dtype=np.float32)
        if array.size and rng.random() < 0.1:
            array.reshape(-1)[int(rng.integers(array.size))] = rng.choice(NUMBERS)
        result.append(array)
    return result


def _mostly(usual: Sequence[Any], wrong: Sequence[Any], rng: np.random.Generator) -> Any:
    choices = wrong if rng.random() < 0.02 else usual
    return choices[int(rng.integers(len(choices)))]


def _perhaps(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """A shape, and seldom another one."""
    if rng.random() > 0.005:
        return shape
    axis, change = int(rng.integers(len(shape))), int(rng.choice([-1, 1]))
    return tuple(max(0, n + change) if i == axis else n for i, n in enumerate(shape))


def _arrangement(rng: np.random.Generator, shared: bool) -> tuple[int, int, str, int] | None:
    if shared:
        return [forced for forced in ARRANGEMENTS if forced[1] > 1][int(rng.integers(8))]
    if rng.random() < 0.3:
        return None
    teams, team, split, chunk = ARRANGEMENTS[int(rng.integers(len(ARRANGEMENTS)))]
    if rng.random() < 0.1:
        split = str(rng.choice(["rows", "parts", "x"]))
        return int(rng.integers(-1, 9)), int(rng.integers(-1, 9)), split, int(rng.integers(-1, 1030))
    return teams, team, split, chunk
