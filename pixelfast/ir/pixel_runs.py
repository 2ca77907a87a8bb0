"""Which pixels each pixel looks at: the lists of attention, as runs in raster order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelRuns:
    """Lists of pixels, each as runs of numbers in raster order over the image: a list of everything before is one run.

    List i is runs[offsets[i] : offsets[i + 1]], ascending and apart: offsets (lists + 1,), runs (R, 2) of [first, last).
    """

    offsets: np.ndarray
    runs: np.ndarray

    @staticmethod
    def of(seen: np.ndarray) -> PixelRuns:
        """The lists of a mask: bool (lists, pixels)."""
        padded = np.zeros((len(seen), seen.shape[1] + 2), dtype=np.int8)
        padded[:, 1:-1] = seen
        steps = np.diff(padded, axis=1)
        lists, first = np.nonzero(steps == 1)
        last = np.nonzero(steps == -1)[1]
        offsets = np.zeros(len(seen) + 1, dtype=np.int64)
        np.cumsum(np.bincount(lists, minlength=len(seen)), out=offsets[1:])
        return PixelRuns(offsets, np.stack([first, last], 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """The pixels of a list: (keys,)."""
        runs = self.runs[self.offsets[index] : self.offsets[index + 1]]
        return np.concatenate([np.arange(first, last) for first, last in runs]) if len(runs) else np.zeros(0, np.int64)

    def counts(self) -> np.ndarray:
        """How many pixels each list has: (lists,)."""
        before = np.concatenate([[0], np.cumsum(self.runs[:, 1] - self.runs[:, 0])])
        return np.asarray(np.diff(before[self.offsets]))

    def last(self) -> np.ndarray:
        """The last pixel of each list, -1 of an empty one: (lists,)."""
        result = np.full(len(self), -1, dtype=np.int64)
        some = np.diff(self.offsets) > 0
        result[some] = self.runs[self.offsets[1:][some] - 1, 1] - 1
        return result

    def latest_offset(self, height: int, width: int) -> tuple[int, int]:
        """The latest (row, column) offset, in raster order, between a pixel and one of its list; lists are of all pixels."""
        last = self.last()
        lists = np.flatnonzero(last >= 0)
        pixel, last = lists % (height * width), last[lists]
        rows, cols = last // width - pixel // width, last % width - pixel % width
        latest = np.lexsort((cols, rows))[-1]
        return int(rows[latest]), int(cols[latest])

    def mask(self, pixels: int) -> np.ndarray:
        """bool (lists, pixels)."""
        steps = np.zeros((len(self), pixels + 1), dtype=np.int8)
        lists = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        steps[lists, self.runs[:, 0]] = 1
        np.add.at(steps, (lists, self.runs[:, 1]), -1)
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1] > 0
