"""The index of elements: every number that a traced tensor holds, named by the node, feature and pixel that it comes from.

While a graph is converted, a tensor that depends on the image is an array of element numbers of the tensor's own shape.
Layout operations then simply run on those numbers, so that any mixture of views, pads, crops and permutations is followed
exactly, without a rule for each. Number 0 is an element that does not depend on the image.

Most tensors hold one block of one node, whose numbers are a first one plus a step along each dimension: just what a strided
tensor describes. Such numbers are kept as a *stepped* tensor, a view on the meta device whose storage offset is the first
number and whose strides are the steps. It takes no memory, and PyTorch's own views move it as they move the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..ir.graph import Node

IMAGES = 2
"""Images in the traced batch: two, so that anything that mixes images shows."""

_IMAGE_BIT = 56
_NODE_BIT = 36
_NODE_MASK = (1 << (_IMAGE_BIT - _NODE_BIT)) - 1
_ELEMENT_MASK = (1 << _NODE_BIT) - 1
NEXT_IMAGE = 1 << _IMAGE_BIT

_ALL_NUMBERS = torch.empty(2 * NEXT_IMAGE, dtype=torch.uint8, device="meta")
"""What stepped tensors are views of: its addresses are the element numbers. Nothing is allocated on the meta device."""


def stepped(first: int, shape: Sequence[int], steps: Sequence[int]) -> Tensor:
    """The numbers first + sum over dimensions of position * step, without writing them out."""
    return _ALL_NUMBERS.as_strided(tuple(shape), tuple(steps), first)


def written_out(numbers: Tensor) -> Tensor:
    """Element numbers as an int64 tensor that holds them."""
    if not numbers.is_meta:
        return numbers
    result = torch.tensor(numbers.storage_offset())
    for dim, (size, step) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        result = result + (torch.arange(size) * step).view(-1, *([1] * (numbers.dim() - dim - 1)))
    return result


def all_elements(numbers: Tensor) -> bool:
    """Whether every number names an element; a stepped tensor holds no 0."""
    return numbers.is_meta or bool((numbers > 0).all())


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`tensor.reshape`; numbers are written out if the new shape has no steps."""
    if tensor.is_meta:
        try:
            return tensor.view(tuple(shape))
        except RuntimeError:
            tensor = written_out(tensor)
    return tensor.reshape(tuple(shape))


def both_images(numbers: Tensor) -> Tensor:
    """Element numbers of the first image as those of both: (rows, cols, F) -> (images, rows, cols, F)."""
    if numbers.is_meta:
        return stepped(int(numbers.storage_offset()), (IMAGES, *numbers.shape), (NEXT_IMAGE, *numbers.stride()))
    return torch.stack([torch.where(numbers > 0, numbers + n * NEXT_IMAGE, 0) for n in range(IMAGES)])


class Places:
    """Where the elements of an array come from, element by element; entries are meaningless where `known` is False.

    Arrays are large, and few readers want all of them: each is computed when it is asked for.
    """

    def __init__(self, numbers: np.ndarray, sizes: np.ndarray) -> None:
        self._numbers, self._sizes = numbers, sizes  # sizes (6, nodes), see `ElementTable`

    @cached_property
    def known(self) -> np.ndarray:
        return np.asarray(self._numbers > 0)

    @cached_property
    def image(self) -> np.ndarray:
        return np.asarray(self._numbers >> _IMAGE_BIT)

    @cached_property
    def node(self) -> np.ndarray:
        return np.where(self.known, (self._numbers >> _NODE_BIT) & _NODE_MASK, 0)

    @cached_property
    def feature(self) -> np.ndarray:
        return np.asarray(self._element // (self._size(0) * self._size(1)))

    @cached_property
    def row(self) -> np.ndarray:
        return np.asarray(self._element // self._size(1) % self._size(0) * self._size(4) + self._size(2))

    @cached_property
    def col(self) -> np.ndarray:
        return np.asarray(self._element % self._size(1) * self._size(5) + self._size(3))

    @cached_property
    def _element(self) -> np.ndarray:
        return np.where(self.known, (self._numbers & _ELEMENT_MASK) - 1, 0)

    def _size(self, axis: int) -> np.ndarray:
        return self._sizes[axis].take(self.node)


REMEMBERED = 4
"""How many of the last tensors keep what was read from them: an operation asks several times about the same one."""


class ElementTable:
    """Numbers the elements of nodes, and reads the numbers back."""

    def __init__(self) -> None:
        # A column for each node: rows and columns, first row and column, steps of rows and columns.
        self._sizes: list[tuple[int, int, int, int, int, int]] = []
        self._sizes_array = np.zeros((6, 0), dtype=np.int64)
        # The tensors are held, so that no other one gets their addresses.
        self._rectangles: dict[object, tuple[Tensor, Rectangle | None]] = {}

    def add(self, node: Node) -> Tensor:
        """Numbers (rows, cols, features) of the elements of the next node, in the first image."""
        domain, lattice = node.domain, node.lattice
        rows, cols = len(lattice.rows(domain.row0, domain.row1)), len(lattice.columns(domain.col0, domain.col1))
        first = (len(self._sizes) << _NODE_BIT) + 1
        self._sizes.append((rows, cols, domain.row0, domain.col0, *lattice.steps))
        return stepped(first, (rows, cols, node.features), (cols, 1, rows * cols))

    def grid(self, node: int) -> tuple[int, int]:
        """Rows and columns of a node's elements."""
        return self._sizes[node][:2]

    def corner(self, node: int) -> tuple[int, int]:
        """The first row and column of a node's elements."""
        return self._sizes[node][2:4]

    def steps(self, node: int) -> tuple[int, int]:
        """How many pixels lie from one row, and from one column, of a node's elements to the next."""
        return self._sizes[node][4:]

    def places(self, ids: np.ndarray) -> Places:
        """Where each numbered element comes from."""
        return Places(ids, self._all_sizes())

    def _all_sizes(self) -> np.ndarray:
        """(6, nodes)"""
        if self._sizes_array.shape[1] != len(self._sizes):
            self._sizes_array = np.array(self._sizes, dtype=np.int64).T.copy()
        return self._sizes_array

    def rectangle(self, ids: Tensor) -> Rectangle | None:
        """The common case, found without reading every number back: maps (images, rows, cols, F) whose elements go on
        from one to the next, or in equal steps, in their nodes, in one rectangle, with nothing outside of it. None for
        anything else.
        """
        if ids.is_meta:
            return self._stepped_rectangle(ids)
        key = (ids.data_ptr(), ids.shape, ids.stride())
        if key not in self._rectangles:
            while len(self._rectangles) >= REMEMBERED:
                self._rectangles.pop(next(iter(self._rectangles)))
            self._rectangles[key] = ids, self._written_rectangle(ids)
        return self._rectangles[key][1]

    def _sizes_of(self, nodes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rows, columns, first row, first column and steps of nodes."""
        return tuple(self._all_sizes()[:, nodes])

    def _in_steps(
        self, window: tuple[int, int, int, int], corner: Places, next_row: np.ndarray, next_col: np.ndarray
    ) -> Rectangle | None:
        """The rectangle whose elements follow from its corner by adding next_row, next_col (F,) for each row and column."""
        row0, row1, col0, col1 = window
        rows, cols, first_row, first_col, row_step, col_step = self._sizes_of(corner.node)
        down = next_row // cols if row1 - row0 > 1 else np.ones_like(cols)
        right = next_col if col1 - col0 > 1 else np.ones_like(cols)
        if (down < 1).any() or (right < 1).any() or (row1 - row0 > 1 and (next_row % cols).any()):
            return None
        last_row = (corner.row - first_row) // row_step + (row1 - row0 - 1) * down
        last_col = (corner.col - first_col) // col_step + (col1 - col0 - 1) * right
        row_steps, col_steps = down * row_step, right * col_step
        # One row or column alone has no step: any will do.
        uneven = row1 - row0 > 1 and bool((row_steps != row_steps[0]).any())
        uneven = uneven or (col1 - col0 > 1 and bool((col_steps != col_steps[0]).any()))
        if uneven or (last_row >= rows).any() or (last_col >= cols).any() or corner.image.any():
            return None
        return Rectangle(row0, row1, col0, col1, corner, int(row_steps.max()), int(col_steps.max()))

    def _stepped_rectangle(self, ids: Tensor) -> Rectangle | None:
        images, rows, cols, features = ids.shape
        next_image, next_row, next_col, next_feature = ids.stride()
        if images > 1 and next_image != NEXT_IMAGE:
            return None
        corner = self.places(int(ids.storage_offset()) + np.arange(features) * next_feature)
        return self._in_steps((0, rows, 0, cols), corner, np.full(features, next_row), np.full(features, next_col))

    def _written_rectangle(self, ids: Tensor) -> Rectangle | None:
        mask = ids[0, :, :, 0] > 0
        rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if not len(rows):
            return None
        row0, row1, col0, col1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
        block = ids[:, row0:row1, col0:col1]
        corner = block[0, 0, 0].contiguous()
        if not bool((corner > 0).all()) or (block.shape != ids.shape and int(ids.count_nonzero()) != block.numel()):
            return None
        next_row = block[0, min(1, row1 - row0 - 1), 0] - corner
        next_col = block[0, 0, min(1, col1 - col0 - 1)] - corner
        down, right = torch.arange(row1 - row0).view(-1, 1), torch.arange(col1 - col0)
        # (F, rows, cols), as most tensors lie in memory: comparing across that order takes several times as long.
        expected = corner.view(-1, 1, 1) + down * next_row.view(-1, 1, 1) + right * next_col.view(-1, 1, 1)
        if any(not torch.equal(block[n] - n * NEXT_IMAGE, expected.permute(1, 2, 0)) for n in range(len(block))):
            return None
        return self._in_steps((row0, row1, col0, col1), self.places(corner.numpy()), next_row.numpy(), next_col.numpy())

    def origin(self, maps: Tensor, size: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
        """Where position (0, 0) of maps (images, rows, cols, F) stands, and the pixels from each row and column to the next.

        It is chosen so that most elements stand where they are read, for an image of `size`. Maps that repeat rows, or take
        them in turn from several nodes, are finer than what they read: how much finer shows from first to last.
        """
        live = live_channels(maps)
        plain = self.rectangle(maps if live is None else maps[..., live])
        if plain is not None and (maps.is_meta or (plain.row1 - plain.row0 > 1 and plain.col1 - plain.col0 > 1)):
            row, col = int(plain.corner.row[0]), int(plain.corner.col[0])
            steps = plain.row_step, plain.col_step
            return row - plain.row0 * steps[0], col - plain.col0 * steps[1], steps
        numbers = written_out(maps)[0].numpy()
        known = numbers > 0
        if not known.any():
            return 0, 0, (1, 1)
        first = tuple(int(i) for i in np.unravel_index(int(known.argmax()), known.shape))
        along_rows = known.sum(0)
        col, feature = (int(i) for i in np.unravel_index(int(along_rows.argmax()), along_rows.shape))
        rows = np.flatnonzero(known[:, col, feature])
        along_cols = known.sum(1)
        row, other = (int(i) for i in np.unravel_index(int(along_cols.argmax()), along_cols.shape))
        cols = np.flatnonzero(known[row, :, other])
        place = self.places(numbers[first])
        own = self.steps(int(place.node))
        row_step = _step(rows, self.places(numbers[rows, col, feature]).row, own[0], maps.shape[1], size[0])
        col_step = _step(cols, self.places(numbers[row, cols, other]).col, own[1], maps.shape[2], size[1])
        return int(place.row) - first[0] * row_step, int(place.col) - first[1] * col_step, (row_step, col_step)


def _step(positions: np.ndarray, pixels: np.ndarray, own: int, length: int, size: int) -> int:
    """Pixels from one position to the next of `length` that cover `size` pixels; these positions read `pixels`.

    `own` is the step of the node that is read.
    """
    count, distance = int(positions[-1] - positions[0]), int(pixels[-1] - pixels[0])
    if count == 0:
        return own
    even, rest = divmod(distance, count)
    if even > 0 and rest == 0 and (pixels - pixels[0] == (positions - positions[0]) * even).all():
        return even
    least = distance / count if distance > 0 else size / length - 0.5
    return next((step for step in range(1, own) if own % step == 0 and step >= least), own)


@dataclass(frozen=True)
class Rectangle:
    """Rows [row0, row1) and columns [col0, col1) of maps that hold elements, and where the first one of each feature is.

    `row_step` and `col_step`: how many pixels lie from one of these rows or columns to the next.
    """

    row0: int
    row1: int
    col0: int
    col1: int
    corner: Places
    row_step: int
    col_step: int


def live_channels(ids: Tensor) -> Tensor | None:
    """Which channels of maps (images, rows, cols, F) hold elements: bool (F,), if the others are constant everywhere.

    None: all of them, or some hold both.
    """
    if ids.is_meta or not ids.numel():
        return None
    live = ids[0, 0, 0] > 0
    return None if bool(live.all()) or not bool(live.any()) or bool(ids[..., ~live].any()) else live
