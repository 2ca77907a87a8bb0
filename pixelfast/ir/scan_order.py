"""Orders of generation: which pixel of an image a model draws after which.

The pipeline and its engines know one order, raster. Each of the others is raster again in an image that is flipped, and
transposed where columns come one after another. What a module is traced with, and what goes into an engine and comes out
(`pixelfast.engines.base`), is *reordered* so at the border; modules, conditions and users see their own images.

Letters: H rows and W columns of the user's image. A line is what is drawn from end to end: a row, or a column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """Lines are rows or `columns`; within columns, or from row to row, it goes down or `up`; along rows, right or `left`."""

    name: str
    columns: bool = False
    up: bool = False
    left: bool = False

    def reordered(self, array: np.ndarray, rows: int) -> np.ndarray:
        """A view with lines and pixels at the axes `rows` and `rows + 1`, where the array has rows and columns."""
        flipped = self._flipped(array, rows)
        return flipped.swapaxes(rows, rows + 1) if self.columns else flipped

    def restored(self, array: np.ndarray, rows: int) -> np.ndarray:
        """`reordered` undone."""
        straight = array.swapaxes(rows, rows + 1) if self.columns else array
        return self._flipped(straight, rows)

    def _flipped(self, array: np.ndarray, rows: int) -> np.ndarray:
        """An axis of length 1 keeps its stride: NumPy takes such an array for contiguous, PyTorch refuses a negative stride."""
        axes = ((rows, self.up), (rows + 1, self.left))
        return np.flip(array, tuple(axis for axis, flip in axes if flip and array.shape[axis] > 1))

    def after(self, frame: Order) -> Order:
        """The order in which an image that is reordered by `frame` is drawn, where its own is drawn in this one."""
        probe = np.arange(6).reshape(2, 3)
        wanted, seen = self.reordered(probe, 0), frame.reordered(probe, 0)
        return next(order for order in ORDERS.values() if np.array_equal(order.reordered(seen, 0), wanted))

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels, lines, and pixels of a line, of images (C, H, W)."""
        channels, height, width = shape
        return (channels, width, height) if self.columns else shape

    def offset(self, row: int, col: int) -> tuple[int, int]:
        """How many lines and pixels lie between two pixels that are so many rows and columns apart."""
        down, right = (-row if self.up else row), (-col if self.left else col)
        return (right, down) if self.columns else (down, right)

    def position(self, row: np.ndarray, col: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The line of each of some pixels, and where in it they stand; also of pixels beside the image."""
        down, right = (height - 1 - row if self.up else row), (width - 1 - col if self.left else col)
        return (right, down) if self.columns else (down, right)

    def pixels(self, height: int, width: int) -> np.ndarray:
        """The number row * W + col of each pixel of each line: (lines, pixels)."""
        return self.reordered(np.arange(height * width).reshape(height, width), 0)

    def ranks(self, height: int, width: int) -> np.ndarray:
        """How many pixels are drawn before each: (H, W)."""
        return self.restored(np.arange(height * width).reshape(self.shape((1, height, width))[1:]), 0)

    def place(self, line: int, pixel: int, height: int, width: int) -> tuple[int, int]:
        """The row and column of a pixel of a line."""
        row, col = divmod(int(self.pixels(height, width)[line, pixel]), width)
        return row, col


RASTER = Order("raster")
"""Rows from the top, each from the left."""

ORDERS = {
    order.name: order
    for order in (
        RASTER,
        Order("raster-right-to-left", left=True),
        Order("raster-bottom-up", up=True),
        Order("raster-bottom-up-right-to-left", up=True, left=True),
        Order("columns", columns=True),
        Order("columns-right-to-left", columns=True, left=True),
        Order("columns-bottom-up", columns=True, up=True),
        Order("columns-bottom-up-right-to-left", columns=True, up=True, left=True),
    )
}
"""By name: row after row or column after column, from the top unless bottom-up, from the left unless right-to-left."""
