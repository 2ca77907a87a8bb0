"""Attention over the grid: what it sees of its queries, keys and values, for times, receptive fields and leaks.

Where every pixel looks at a beginning of the image, the latest that it sees is a running maximum; otherwise it takes the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..ir.graph import CausalAttention, Edge
from ..ir.program import Keys, Rect

if TYPE_CHECKING:
    from .availability import Times


def latest_seen(node: CausalAttention, image: Rect, query: Times, cache: Times) -> tuple[np.ndarray, np.ndarray]:
    """Times of an attention's features: maps (classes, rows, cols) over its domain, and the class of each feature."""
    heads = [_head(node, head) for head in range(node.heads)]
    found: dict[tuple[object, ...], int] = {}
    maps: list[np.ndarray] = []
    classes = []
    for head, (asking, keys, values) in enumerate(heads):
        asked, looked = _classes(query, node.query, asking), _classes(cache, node.cache, keys)
        mask = head if _masks(node, image) > 1 else 0
        for value in cache.classes[node.cache.channels[values]]:
            kind = (tuple(asked), tuple(looked), int(value), mask)
            if kind not in found:
                found[kind] = len(maps)
                lists = _lists(node, image, mask)
                weighed = np.maximum(_flat(query, image, asked), _latest(lists, _flat(cache, image, looked)))
                found_there = _latest(lists, _flat(cache, image, np.array([value])))
                latest = np.maximum(found_there, np.where(_chooses(lists), weighed, -1))
                maps.append(_cropped(latest, image, node.domain))
            classes.append(found[kind])
    return np.stack(maps).astype(np.int32), np.array(classes)


def strongest_cause(
    node: CausalAttention, query: Times, cache: Times, feature: int, row: int, col: int
) -> tuple[int, int, int, int]:
    """The latest element that a feature reads: (node, feature, row, col)."""
    image = cache.domain
    width = image.col1 - image.col0
    head = feature // (node.features // node.heads)
    asking, keys, _ = _head(node, head)
    mask = head if _masks(node, image) > 1 else 0
    pixels = _lists(node, image, mask)[row * width + col]
    value = len(node.query.channels) + feature
    best = (-1, node.query.source, 0, row, col)
    chooses = len(pixels) > 1
    for channel in node.query.channels[asking] if chooses else ():
        best = max(best, (query.at(int(channel), row, col), node.query.source, int(channel), row, col))
    for channel in node.cache.channels[[*keys, value] if chooses else [value]]:
        times = cache.maps[cache.classes[channel]].reshape(-1)[pixels]
        latest = int(times.argmax())
        place = divmod(int(pixels[latest]), width)
        best = max(best, (int(times[latest]), node.cache.source, int(channel), *place))
    return best[1:]


def without_later_pixels(node: CausalAttention, image: Rect, strictly: bool) -> CausalAttention:
    """The attention with a mask that forbids each pixel those after it, and with `strictly` itself."""
    pixels = _pixels(image)
    before = np.tri(pixels, pixels, -1 if strictly else 0, dtype=bool)
    mask = node.seen.mask(pixels) & np.tile(before, (_masks(node, image), 1))
    return replace(node, seen=Keys.of(mask), bias=None)


def marks_seen(node: CausalAttention, image: Rect, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What marked elements (features, rows, cols) read: marks of the query's channels, and of the cache's over the image."""
    width = image.col1 - image.col0
    d = node.domain
    number = np.arange(_pixels(image)).reshape(-1, width)[d.row0 : d.row1, d.col0 : d.col1].reshape(-1)
    asked = np.zeros((len(node.query.channels), *marks.shape[1:]), dtype=bool)
    seen = np.zeros((len(node.cache.channels), _pixels(image)), dtype=bool)
    for head, (asking, keys, values) in enumerate(_head(node, head) for head in range(node.heads)):
        lists = _lists(node, image, head if _masks(node, image) > 1 else 0)
        own = marks[values - len(node.query.channels)].reshape(len(values), -1)
        weighed = own.any(0) & _chooses(lists)[number]
        asked[asking] |= weighed.reshape(marks.shape[1:])
        patterns, pattern = np.unique(own, axis=0, return_inverse=True)
        seen[values] = np.stack([_union(lists, number[places]) for places in patterns])[pattern.reshape(-1)]
        seen[keys] = _union(lists, number[weighed])
    return asked, seen.reshape(len(seen), -1, width)


def _head(node: CausalAttention, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head's positions among the channels of the query; of its keys and of its values among those of the cache."""
    size, value = node.size, node.features // node.heads
    keys = np.arange(head * size, (head + 1) * size)
    return keys, keys, len(node.query.channels) + np.arange(head * value, (head + 1) * value)


def _pixels(image: Rect) -> int:
    return (image.row1 - image.row0) * (image.col1 - image.col0)


def _masks(node: CausalAttention, image: Rect) -> int:
    return len(node.seen) // _pixels(image)


def _lists(node: CausalAttention, image: Rect, mask: int) -> Keys:
    """What each pixel sees with one of the masks."""
    pixels = _pixels(image)
    return Keys(node.seen.offsets[mask * pixels : (mask + 1) * pixels + 1], node.seen.runs)


def _chooses(lists: Keys) -> np.ndarray:
    """Whether scores matter: with a single pixel to look at, its weight is 1 whatever they are."""
    return lists.counts() > 1


def _classes(times: Times, edge: Edge, positions: np.ndarray) -> np.ndarray:
    return np.unique(times.classes[edge.channels[positions]])


def _flat(times: Times, image: Rect, classes: np.ndarray) -> np.ndarray:
    """The latest of some classes at every pixel of the image: (pixels,)."""
    full = np.full((image.row1 - image.row0, image.col1 - image.col0), -1, dtype=np.int64)
    d = times.domain
    full[d.row0 : d.row1, d.col0 : d.col1] = times.maps[classes].max(0)
    return full.reshape(-1)


def _latest(lists: Keys, times: np.ndarray) -> np.ndarray:
    """The latest time that each list's pixels have: (lists,)."""
    runs = [lists.runs[i:j] for i, j in _run_bounds(lists)]
    if all(len(run) == 0 or (len(run) == 1 and run[0, 0] == 0) for run in runs):
        before = np.concatenate([[-1], np.maximum.accumulate(times)])
        return np.asarray(before[lists.last() + 1])
    return np.array([max((int(times[first:last].max()) for first, last in run), default=-1) for run in runs])


def _union(lists: Keys, chosen: np.ndarray) -> np.ndarray:
    """What the chosen lists, which are of all pixels, have together: bool (pixels,)."""
    wanted = np.isin(np.repeat(np.arange(len(lists)), np.diff(lists.offsets)), chosen)
    runs = lists.runs[lists.offsets[0] : lists.offsets[-1]][wanted]
    steps = np.zeros(len(lists) + 1, dtype=np.int64)
    np.add.at(steps, runs[:, 0], 1)
    np.add.at(steps, runs[:, 1], -1)
    return np.asarray(np.cumsum(steps)[:-1] > 0)


def _run_bounds(lists: Keys) -> Iterator[tuple[int, int]]:
    return zip(lists.offsets[:-1].tolist(), lists.offsets[1:].tolist(), strict=True)


def _cropped(times: np.ndarray, image: Rect, domain: Rect) -> np.ndarray:
    grid = times.reshape(image.row1 - image.row0, image.col1 - image.col0)
    return grid[domain.row0 : domain.row1, domain.col0 : domain.col1]
