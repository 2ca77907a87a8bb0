"""Attention over the grid: each pixel's mean of values at the pixels that it may look at.

Where every pixel looks at a beginning of the image, the latest that it sees is a running maximum; otherwise it takes the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedModel
from ..ir.geometry import EVERYWHERE, Rect
from ..ir.graph import Edge, Graph, Node
from ..ir.pixel_runs import PixelRuns
from ..ir.program import Attention, Cache
from ..ir.scan_order import Order
from .base import Demand, Marks, Needs, Operation
from .evaluation import Evaluation
from .lags import latest_lag
from .lowering_context import LoweringContext
from .shared import all_there
from .times import Step, Times


@dataclass(frozen=True)
class CausalAttention(Operation):
    """Each pixel's mean of values at the pixels that it may look at, weighted by the softmax of scores, head by head.

    Its two edges are the query, the asking pixel's own channels, and the cache, keys and values, whose offset is the latest,
    in raster order, at which any pixel looks at another.

    The score of a key is scale * (query . key) + bias. Queries have heads * E channels, E of them each head's; the cache
    holds heads * E channels of keys and then heads * D channels of values; the result has heads * D.

    Attributes:
        seen: for each mask (one, or one for each head) and asking pixel, the pixels that it looks at; numbers are raster
            order over the whole image. Where there are none the result is 0.
        bias: (1 or heads, keys in the order of `seen`), or None.
        refusal: why no engine can compute it, if none can; what it depends on is known all the same.
    """

    heads: int
    scale: float
    seen: PixelRuns
    bias: np.ndarray | None
    refusal: str = ""

    chooses_pixels = True
    keeps_order = True
    looks_up = False

    @property
    def query(self) -> Edge:
        return self.edges[0]

    @property
    def cache(self) -> Edge:
        return self.edges[1]

    @property
    def size(self) -> int:
        """E, channels of a head's queries and keys."""
        return len(self.query.channels) // self.heads

    def check(self) -> None:
        assert len(self.edges) == 2
        assert len(self.cache.channels) == len(self.query.channels) + self.features

    def evaluated(self, evaluation: Evaluation) -> Tensor:
        _, height, width, _ = evaluation.images.shape
        queries = evaluation.read(self.query, self.domain).unflatten(-1, (self.heads, -1))  # (N, rows, cols, heads, E)
        # The cache holds every pixel of the image that any asks for; its offset says nothing about which.
        kept = evaluation.read(replace(self.cache, row=0, col=0), Rect(0, height, 0, width)).flatten(1, 2)
        keys, values = (part.unflatten(-1, (self.heads, -1)) for part in kept.tensor_split([self.heads * self.size], -1))
        mask = torch.from_numpy(self.seen.mask(height * width))  # (lists, pixels)
        scores = torch.einsum("nqhe,nkhe->nhqk", queries.flatten(1, 2), keys) * self.scale
        if self.bias is not None:
            for number, own in enumerate(torch.from_numpy(self.bias).double()):
                heads = slice(None) if len(self.bias) == 1 else slice(number, number + 1)
                bias = torch.zeros(mask.shape, dtype=torch.float64)
                bias[mask] = own
                scores[:, heads] += self._asking(bias, height, width)
        weights = scores.masked_fill(~self._asking(mask, height, width), -torch.inf).softmax(-1).nan_to_num(0.0)
        return torch.einsum("nhqk,nkhd->nqhd", weights, values).flatten(2).unflatten(1, self.domain.size)

    def _asking(self, lists: Tensor, height: int, width: int) -> Tensor:
        """Lists (1 or heads times H * W, pixels) of the pixels in the rectangle: (1 or heads, rows * cols, pixels)."""
        d = self.domain
        return lists.unflatten(0, (-1, height, width))[:, d.row0 : d.row1, d.col0 : d.col1].flatten(1, 2)

    # ---------------------------------------------------------------- causality

    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        image = graph.image
        query, cache = times[self.query.source], times[self.cache.source]
        found: dict[tuple[object, ...], int] = {}
        maps: list[np.ndarray] = []
        classes = []
        for head in range(self.heads):
            asking, keys, values = self._head(head)
            asked, looked = _classes(query, self.query, asking), _classes(cache, self.cache, keys)
            mask = self._mask_of(head, image)
            for value in cache.classes[self.cache.channels[values]]:
                kind = (tuple(asked), tuple(looked), int(value), mask)
                if kind not in found:
                    found[kind] = len(maps)
                    lists = self._lists(image, mask)
                    weighed = np.maximum(_flat(query, image, asked), _latest(lists, _flat(cache, image, looked)))
                    found_there = _latest(lists, _flat(cache, image, np.array([value])))
                    latest = np.maximum(found_there, np.where(_chooses(lists), weighed, -1))
                    maps.append(_cropped(latest, image, self.domain))
                classes.append(found[kind])
        return Times(self.domain, np.stack(maps).astype(np.int32), np.array(classes))

    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        _, feature, row, col = element
        query, cache = times[self.query.source], times[self.cache.source]
        width = cache.domain.col1 - cache.domain.col0
        head = feature // (self.features // self.heads)
        asking, keys, _ = self._head(head)
        pixels = self._lists(cache.domain, self._mask_of(head, cache.domain))[row * width + col]
        value = len(self.query.channels) + feature
        best = (-1, self.query.source, 0, row, col)
        chooses = len(pixels) > 1
        for channel in self.query.channels[asking] if chooses else ():
            best = max(best, (query.at(int(channel), row, col), self.query.source, int(channel), row, col))
        for channel in self.cache.channels[[*keys, value] if chooses else [value]]:
            seen = cache.maps[cache.classes[channel]].reshape(-1)[pixels]
            latest = int(seen.argmax())
            best = max(best, (int(seen[latest]), self.cache.source, int(channel), *divmod(int(pixels[latest]), width)))
        return best[1:]

    def without(self, graph: Graph, reader: Step, source: Step) -> Sequence[Node]:
        """With masks that forbid each pixel those after it, and then itself."""
        if source[0] != self.cache.source:
            return ()
        image = graph.image
        pixels = _pixels(image)
        stricter = (0, -1) if source[2:] > reader[2:] else (-1,)
        masks = [np.tile(np.tri(pixels, pixels, last, dtype=bool), (self._masks(image), 1)) for last in stricter]
        return [replace(self, seen=PixelRuns.of(self.seen.mask(pixels) & mask), bias=None) for mask in masks]

    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        image, d = graph.image, self.domain
        width = image.col1 - image.col0
        number = np.arange(_pixels(image)).reshape(-1, width)[d.row0 : d.row1, d.col0 : d.col1].reshape(-1)
        asked = np.zeros((len(self.query.channels), *marks.shape[1:]), dtype=bool)
        seen = np.zeros((len(self.cache.channels), _pixels(image)), dtype=bool)
        for head in range(self.heads):
            asking, keys, values = self._head(head)
            lists = self._lists(image, self._mask_of(head, image))
            own = marks[values - len(self.query.channels)].reshape(len(values), -1)
            weighed = own.any(0) & _chooses(lists)[number]
            asked[asking] |= weighed.reshape(marks.shape[1:])
            patterns, pattern = np.unique(own, axis=0, return_inverse=True)
            seen[values] = np.stack([_union(lists, number[places]) for places in patterns])[pattern.reshape(-1)]
            seen[keys] = _union(lists, number[weighed])
        cache = replace(self.cache, row=0, col=0)
        return [Marks(self.query, asked, d.row0, d.col0), Marks(cache, seen.reshape(len(seen), -1, width), 0, 0)]

    def _head(self, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A head's positions among the channels of the query; of its keys and of its values among those of the cache."""
        value = self.features // self.heads
        keys = np.arange(head * self.size, (head + 1) * self.size)
        return keys, keys, len(self.query.channels) + np.arange(head * value, (head + 1) * value)

    def _masks(self, image: Rect) -> int:
        return len(self.seen) // _pixels(image)

    def _mask_of(self, head: int, image: Rect) -> int:
        return head if self._masks(image) > 1 else 0

    def _lists(self, image: Rect, mask: int) -> PixelRuns:
        """What each pixel sees with one of the masks."""
        pixels = _pixels(image)
        return PixelRuns(self.seen.offsets[mask * pixels : (mask + 1) * pixels + 1], self.seen.runs)

    # ---------------------------------------------------------------- passes

    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        cache = self.cache
        everywhere = cache.rect.shifted(-cache.row, -cache.col)  # from where a reader sees all of its rectangle
        asked = Demand(self.query.channels, domain, self.lattice)
        demands = (asked, Demand(cache.channels, everywhere, EVERYWHERE))
        return Needs(np.ones(self.features, dtype=bool), domain, demands)

    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        return replace(self, domain=domain, edges=all_there(self, edges))

    def reads(self, graph: Graph, read: np.ndarray) -> Sequence[Marks]:
        everything = np.ones(graph.image.size, dtype=bool)
        return [
            Marks(self.query, read, self.domain.row0, self.domain.col0),
            Marks(replace(self.cache, row=0, col=0), everything, 0, 0),
        ]

    def without_unread(self, graph: Graph, read: np.ndarray) -> Node:
        image, d = graph.image, self.domain
        full = np.zeros(image.size, dtype=bool)
        full[d.row0 : d.row1, d.col0 : d.col1] = read
        kept = np.tile(full.reshape(-1), self._masks(image))
        counts = self.seen.counts()
        if not counts[~kept].any():
            return self
        bias = None if self.bias is None else np.ascontiguousarray(self.bias[:, np.repeat(kept, counts)])
        seen = PixelRuns.of(self.seen.mask(_pixels(image)) & kept[:, None])
        return self._looking_at(seen, bias, *image.size) if len(seen.runs) else self

    def reordered(self, order: Order, height: int, width: int) -> Node:
        pixels = order.pixels(height, width)  # (lines, pixels)
        numbers, count = pixels.reshape(-1), pixels.size
        mask = self.seen.mask(count).reshape(-1, count, count)
        turned = mask[:, numbers][:, :, numbers]
        bias = self.bias
        if bias is not None:
            listed = np.zeros(mask.shape, dtype=np.int64)  # each key's place in the lists
            listed[mask] = np.arange(bias.shape[1])
            bias = np.ascontiguousarray(bias[:, listed[:, numbers][:, :, numbers][turned]])
        return self._looking_at(PixelRuns.of(turned.reshape(-1, count)), bias, *pixels.shape)

    def _looking_at(self, seen: PixelRuns, bias: np.ndarray | None, height: int, width: int) -> Node:
        """The same attention to other pixels."""
        row, col = seen.latest_offset(height, width)
        return replace(self, edges=(self.query, replace(self.cache, row=row, col=col)), seen=seen, bias=bias)

    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        return np.full(self.features, latest_lag(self.edges, lags, channels), dtype=np.int64)

    def order_from(self) -> Edge | None:
        return None

    def order_for(self) -> Sequence[Edge]:
        return ()

    # ---------------------------------------------------------------- lowering

    def lower(self, at: LoweringContext) -> None:
        """Both of its sources are gathered: each is one buffer, in order."""
        if self.refusal:
            raise UnsupportedModel(self.refusal)
        (part,) = at.parts()
        (query,) = at.ordered_runs(self.query)
        cache, source = at.source(self.cache)
        keys = Cache(cache, 0, query.count, source.row, source.col)
        values = replace(keys, channel=query.count, count=self.features)
        seen, bias = self._of_domain(at.image)
        body = Attention(query, keys, values, self.heads, self._masks(at.image), self.scale, seen, bias)
        part.instructions.append(at.instruction(part.out, body))

    def _of_domain(self, image: Rect) -> tuple[PixelRuns, np.ndarray | None]:
        """What the pixels of the domain see, and the bias of that."""
        d = self.domain
        if d == image:
            return self.seen, self.bias
        pixels = _pixels(image)
        number = np.arange(pixels).reshape(image.size)[d.row0 : d.row1, d.col0 : d.col1].reshape(-1)
        lists = (np.arange(self._masks(image))[:, None] * pixels + number).reshape(-1)
        bias = None
        if self.bias is not None:
            kept = np.repeat(np.isin(np.arange(len(self.seen)), lists), self.seen.counts())
            bias = np.ascontiguousarray(self.bias[:, kept])
        return PixelRuns.of(self.seen.mask(pixels)[lists]), bias


def _pixels(image: Rect) -> int:
    rows, cols = image.size
    return rows * cols


def _chooses(lists: PixelRuns) -> np.ndarray:
    """Whether scores matter: with a single pixel to look at, its weight is 1 whatever they are."""
    return lists.counts() > 1


def _classes(times: Times, edge: Edge, positions: np.ndarray) -> np.ndarray:
    return np.unique(times.classes[edge.channels[positions]])


def _flat(times: Times, image: Rect, classes: np.ndarray) -> np.ndarray:
    """The latest of some classes at every pixel of the image: (pixels,)."""
    full = np.full(image.size, -1, dtype=np.int64)
    d = times.domain
    full[d.row0 : d.row1, d.col0 : d.col1] = times.maps[classes].max(0)
    return full.reshape(-1)


def _latest(lists: PixelRuns, times: np.ndarray) -> np.ndarray:
    """The latest time that each list's pixels have: (lists,)."""
    runs = [lists.runs[i:j] for i, j in _run_bounds(lists)]
    if all(len(run) == 0 or (len(run) == 1 and run[0, 0] == 0) for run in runs):
        before = np.concatenate([[-1], np.maximum.accumulate(times)])
        return np.asarray(before[lists.last() + 1])
    return np.array([max((int(times[first:last].max()) for first, last in run), default=-1) for run in runs])


def _union(lists: PixelRuns, chosen: np.ndarray) -> np.ndarray:
    """What the chosen lists, which are of all pixels, have together: bool (pixels,)."""
    wanted = np.isin(np.repeat(np.arange(len(lists)), np.diff(lists.offsets)), chosen)
    runs = lists.runs[lists.offsets[0] : lists.offsets[-1]][wanted]
    steps = np.zeros(len(lists) + 1, dtype=np.int64)
    np.add.at(steps, runs[:, 0], 1)
    np.add.at(steps, runs[:, 1], -1)
    return np.asarray(np.cumsum(steps)[:-1] > 0)


def _run_bounds(lists: PixelRuns) -> Iterator[tuple[int, int]]:
    return zip(lists.offsets[:-1].tolist(), lists.offsets[1:].tolist(), strict=True)


def _cropped(times: np.ndarray, image: Rect, domain: Rect) -> np.ndarray:
    return times.reshape(image.size)[domain.row0 : domain.row1, domain.col0 : domain.col1]
