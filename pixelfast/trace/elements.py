"""Elements: every number that a traced tensor holds, named by the node, feature and pixel that it comes from.

While a graph is converted, a tensor that depends on the image is an array of element numbers of the tensor's own shape.
Layout operations then simply run on those numbers, so that any mixture of views, pads, crops and permutations is followed
exactly, without a rule for each. Number 0 is an element that does not depend on the image.

Most tensors hold one block of one node, whose numbers are a first one plus a step along each dimension: just what a strided
tensor describes. Such numbers are kept as a *stepped* tensor, a view on the meta device whose storage offset is the first
number and whose strides are the steps. It takes no memory, and PyTorch's own views move it as they move the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import gcd

import numpy as np
import torch
from torch import Tensor, fx

from ..errors import UnsupportedModel
from ..graph import Node

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


@dataclass(frozen=True)
class Value:
    """A traced tensor.

    Attributes:
        numbers: element numbers, written out or stepped, 0 where the element is constant; None if all of it is.
        const: the constant elements (anything where numbers > 0); None for zeros.
        dynamic: the node of the condition graph that gives `const`, if it depends on the conditions of a call.
    """

    numbers: Tensor | None
    const: Tensor | None = None
    dynamic: fx.Node | None = None

    @cached_property
    def ids(self) -> Tensor:
        """The element numbers written out, of a value that has some."""
        assert self.numbers is not None
        return written_out(self.numbers)


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
"""So many tensors of numbers are not read again: an operation asks several times what the same one holds."""


class ElementTable:
    """Numbers the elements of nodes, and reads the numbers back."""

    def __init__(self) -> None:
        # Of each node: rows and columns, first row and column, steps of rows and columns.
        self._sizes: list[tuple[int, int, int, int, int, int]] = []
        self._sizes_array = np.zeros((6, 0), dtype=np.int64)
        self._rectangles: dict[object, tuple[Tensor, Rectangle | None]] = {}  # of the last few tensors, held so that they stay

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
        # Of one row or column alone there is no step; any will do.
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
        down, right = torch.arange(row1 - row0).view(-1, 1, 1), torch.arange(col1 - col0).view(1, -1, 1)
        expected = corner + down * next_row + right * next_col
        if any(not torch.equal(block[n] - n * NEXT_IMAGE, expected) for n in range(len(block))):
            return None
        return self._in_steps((row0, row1, col0, col1), self.places(corner.numpy()), next_row.numpy(), next_col.numpy())

    def origin(self, maps: Tensor, size: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
        """Where position (0, 0) of maps (images, rows, cols, F) stands, and the pixels from each row and column to the next.

        Chosen so that most elements stand where they are read, for an image of `size`. Maps that repeat rows, or take them
        in turn from several nodes, are finer than what they read: how much finer shows from first to last.
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
        col, feature = np.unravel_index(int(along_rows.argmax()), along_rows.shape)
        rows = np.flatnonzero(known[:, col, feature])
        along_cols = known.sum(1)
        row, other = np.unravel_index(int(along_cols.argmax()), along_cols.shape)
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


@dataclass(frozen=True)
class IndexLayout:
    """How a tensor's elements form feature maps: `index` (images, rows, cols, features) into the flattened tensor.

    Position [i, j] stands at pixel (row0 + i * steps[0], col0 + j * steps[1]); index is -1 where the tensor has no element.
    `channel_dims` are the tensor's dimensions that make up the features, in order.
    """

    index: np.ndarray
    row0: int
    col0: int
    channel_dims: tuple[int, ...]
    steps: tuple[int, int] = (1, 1)

    @property
    def size(self) -> tuple[int, ...]:
        """Images, rows, columns, features."""
        return self.index.shape

    @cached_property
    def inside(self) -> np.ndarray:
        """Where the tensor has elements: bool, shaped as `index`."""
        return self.index >= 0

    def scatter(self, maps: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of `shape` whose elements are those of `maps`, shaped as `index`; 0 elsewhere."""
        maps = written_out(maps)
        flat = torch.zeros(int(np.prod(shape)), dtype=maps.dtype)
        flat[torch.from_numpy(self.index[self.inside])] = maps[torch.from_numpy(self.inside)]
        return flat.view(tuple(shape))

    def gather(self, tensor: Tensor) -> Tensor:
        """The elements of `tensor` shaped as `index`; 0 where it has none."""
        flat = written_out(tensor).reshape(-1)[torch.from_numpy(np.maximum(self.index, 0))]
        return torch.where(torch.from_numpy(self.inside), flat, torch.zeros((), dtype=flat.dtype))


@dataclass(frozen=True)
class PlainLayout:
    """The layout of a tensor of `shape` with one dimension each for images, rows and columns: no index is needed.

    `pixels`: of a tensor that has rows and columns in one dimension, that dimension; `shape` has them apart.
    """

    shape: tuple[int, ...]
    site_dims: tuple[int, int, int]
    row0: int
    col0: int
    steps: tuple[int, int] = (1, 1)
    pixels: int | None = None

    @property
    def channel_dims(self) -> tuple[int, ...]:
        """Dimensions of the tensor that make up the features."""
        return tuple(d - int(self.pixels is not None and d > self.pixels) for d in self.order[3:])

    @property
    def order(self) -> tuple[int, ...]:
        return (*self.site_dims, *(d for d in range(len(self.shape)) if d not in self.site_dims))

    def _apart(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A tensor's shape with a dimension for rows and one for columns."""
        if self.pixels is None:
            return tuple(shape)
        return (*shape[: self.pixels], *self.shape[self.pixels : self.pixels + 2], *shape[self.pixels + 1 :])

    @property
    def size(self) -> tuple[int, ...]:
        """Images, rows, columns, features."""
        sites = [self.shape[d] for d in self.site_dims]
        return (*sites, int(np.prod(self.shape)) // int(np.prod(sites)))

    @property
    def index(self) -> np.ndarray:
        """As an `IndexLayout` has it."""
        return np.arange(int(np.prod(self.shape))).reshape(self.shape).transpose(self.order).reshape(self.size)

    @property
    def inside(self) -> np.ndarray:
        return np.broadcast_to(np.True_, self.size)

    def scatter(self, maps: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of `shape` whose elements are those of `maps` (images, rows, cols, features)."""
        apart = self._apart(shape)
        ordered = reshaped(maps, [apart[d] for d in self.order])
        return reshaped(ordered.permute([self.order.index(d) for d in range(len(self.shape))]), shape)

    def gather(self, tensor: Tensor) -> Tensor:
        """The elements of `tensor` as maps (images, rows, cols, features)."""
        return reshaped(reshaped(tensor, self._apart(tensor.shape)).permute(self.order), self.size)


Layout = IndexLayout | PlainLayout


def infer_layout(
    table: ElementTable,
    operands: list[Tensor],
    where: str,
    channel_dims: tuple[int, ...] = (),
    size: tuple[int, int] | None = None,
) -> Layout:
    """Find which dimensions of a tensor are images, rows and columns, from where its elements come.

    Args:
        operands: element numbers of tensors of one shape, which are combined element by element.
        where: name of the operation, for messages.
        channel_dims: dimensions that must be features.
        size: rows and columns of the image; then maps may also repeat pixels.

    Raises:
        UnsupportedModel: rows, columns, images and features are mixed in a way that is no feature map.
    """
    for numbers in operands:
        plain = _plain_layout(table, numbers, channel_dims) or _raster_layout(table, numbers, channel_dims)
        if plain is not None:
            return plain
    open_layout = _layout_with_gaps(table, operands, channel_dims)
    if open_layout is not None:
        return open_layout
    repeated = None if size is None else _repeated_layout(table, operands, channel_dims, size)
    if repeated is not None:
        return repeated
    try:
        return _layout_by_elements(table, operands, where, channel_dims)
    except UnsupportedModel:
        # One of them may say where the others stand, which take several elements from one pixel.
        alone = [_layout_or_none(table, numbers, where, channel_dims) for numbers in operands] if len(operands) > 1 else []
        found = [layout for layout in alone if layout is not None and layout.inside.all()]
        if not found:
            raise
        return max(found, key=lambda layout: layout.size[1] * layout.size[2])


def _layout_or_none(table: ElementTable, numbers: Tensor, where: str, channel_dims: tuple[int, ...]) -> IndexLayout | None:
    try:
        return _layout_by_elements(table, [numbers], where, channel_dims)
    except UnsupportedModel:
        return None


def _repeated_layout(
    table: ElementTable, operands: list[Tensor], channel_dims: tuple[int, ...], size: tuple[int, int]
) -> PlainLayout | None:
    """The layout of maps that take several elements from one pixel, like repeated ones, along neighbouring dimensions.

    Which pixel an element comes from then does not say where it stands.
    """
    if len(operands[0]) < 2 or 0 in channel_dims:
        return None
    dims = [_repeating_dims(table, numbers, channel_dims) for numbers in operands]
    if not any(dims):
        return None
    # It stands where an operand does that repeats nothing, if there is one.
    alone = [numbers for numbers, found in zip(operands, dims, strict=True) if not found] or operands
    numbers = max(alone, key=lambda numbers: int((written_out(numbers) > 0).sum()))
    dim = next(dim for dim in dims if dim)
    layout = PlainLayout(tuple(numbers.shape), (0, dim, dim + 1), 0, 0)
    row0, col0, steps = table.origin(layout.gather(numbers), size)
    return replace(layout, row0=row0, col0=col0, steps=steps)


def _repeating_dims(table: ElementTable, numbers: Tensor, channel_dims: tuple[int, ...]) -> int:
    """The dimension of rows, before that of columns, if some neighbours along either come from one pixel; else 0."""
    place = table.places(written_out(numbers).numpy())
    image = np.arange(len(numbers)).reshape(-1, *([1] * (numbers.dim() - 1)))
    if (place.image != image)[place.known].any():
        return 0
    for dim in range(1, numbers.dim() - 1):
        rows, cols = _moves_along(place.row, place.known, dim), _moves_along(place.col, place.known, dim + 1)
        crossed = _moves_along(place.row, place.known, dim + 1) or _moves_along(place.col, place.known, dim)
        rows, cols = (rows or place.row.shape[dim] == 1), (cols or place.col.shape[dim + 1] == 1)
        if rows and cols and not crossed and "stays" in (rows, cols) and not {dim, dim + 1} & set(channel_dims):
            return dim
    return 0


def _moves_along(coordinate: np.ndarray, known: np.ndarray, dim: int) -> str:
    """How a coordinate changes along a dimension: "" (never), "goes" (with every step) or "stays" (at some of them)."""
    ahead, behind = np.moveaxis(coordinate, dim, 0)[1:], np.moveaxis(coordinate, dim, 0)[:-1]
    both = np.moveaxis(known, dim, 0)[1:] & np.moveaxis(known, dim, 0)[:-1]
    moved = (ahead != behind)[both]
    return "" if not moved.any() else "goes" if moved.all() else "stays"


def _layout_by_elements(table: ElementTable, operands: list[Tensor], where: str, channel_dims: tuple[int, ...]) -> IndexLayout:
    """See `infer_layout`."""
    shape = tuple(operands[0].shape)
    places = [table.places(written_out(numbers).numpy()) for numbers in operands]
    places.sort(key=lambda p: -int(p.known.sum()))
    site_dims = tuple(d for d in range(len(shape)) if d not in channel_dims and _moves(places, d))
    feature_dims = tuple(d for d in range(len(shape)) if d not in site_dims)
    order = (*site_dims, *feature_dims)
    sites = int(np.prod([shape[d] for d in site_dims], dtype=np.int64))

    def columns(name: str) -> np.ndarray:  # (sites, features of all operands)
        return np.concatenate([getattr(p, name).transpose(order).reshape(sites, -1) for p in places], 1)

    known, image, row, col = columns("known"), columns("image"), columns("row"), columns("col")
    anchor = int(known.sum(0).argmax())
    found = known[:, anchor].copy()
    site = np.stack([image[:, anchor], row[:, anchor], col[:, anchor]])  # (3, sites)
    coordinates = np.stack([image, row, col])  # (3, sites, features)
    for _ in range(2):
        common = known & found[:, None]
        difference = coordinates - site[:, :, None]
        low = np.where(common, difference, np.iinfo(np.int64).max).min(1)
        high = np.where(common, difference, np.iinfo(np.int64).min).max(1)
        linked = common.any(0)
        if (low[:, linked] != high[:, linked]).any() or low[0, linked].any():
            raise UnsupportedModel(
                f"{where} mixes images, rows or columns with channels (shape {shape}): its elements come from pixels that "
                "no common offset explains, so they cannot be computed pixel by pixel"
            )
        offset = np.where(linked, low, 0)
        fill = ~found & (known & linked).any(1)
        if not fill.any():
            break
        source = (known & linked).argmax(1)
        picked = coordinates[:, np.arange(sites), source] - offset[:, source]
        site[:, fill] = picked[:, fill]
        found |= fill
    if not found.all():
        sizes = [shape[d] for d in site_dims]
        _extrapolate(site.reshape(3, *sizes), found.reshape(sizes))
        if not found.all():
            node = int(columns("node")[found.argmax(), anchor])
            _continue_raster(site.reshape(3, *sizes), found.reshape(sizes), table.grid(node))
    features = int(np.prod([shape[d] for d in feature_dims], dtype=np.int64))
    flat = np.arange(int(np.prod(shape))).reshape(shape).transpose(order).reshape(sites, features)
    own = (table.steps(int(node)) for p in places for node in np.unique(p.node[p.known]))
    alone = tuple(map(max, zip(*own, strict=True)))
    index, row0, col0, steps = _grid(site[:, found], flat[found], where, alone)  # type: ignore[arg-type]
    return IndexLayout(index, row0, col0, feature_dims, steps)


def _plain_layout(table: ElementTable, numbers: Tensor, channel_dims: tuple[int, ...]) -> PlainLayout | None:
    """The layout of a tensor with one dimension each for images, rows and columns, all of it elements; else None."""
    if min(numbers.shape) < 1:
        return None
    site_dims = _site_dims(table, *_first_steps(numbers), numbers.shape, channel_dims)
    if site_dims is None:
        return None
    layout = PlainLayout(tuple(numbers.shape), site_dims, 0, 0)
    live = live_channels(maps := layout.gather(numbers))
    rectangle = table.rectangle(maps if live is None else maps[..., live])
    if rectangle is None or (rectangle.row1 - rectangle.row0, rectangle.col1 - rectangle.col0) != layout.size[1:3]:
        return None
    steps = (rectangle.row_step, rectangle.col_step)
    return replace(layout, row0=int(rectangle.corner.row[0]), col0=int(rectangle.corner.col[0]), steps=steps)


def _site_dims(
    table: ElementTable, first: int, steps: tuple[int, ...], shape: Sequence[int], channel_dims: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """The dimensions of images, rows and columns, by what an element's neighbour along each dimension adds to its number."""
    if first <= 0:
        return None
    rows, cols = table.grid(int(table.places(np.array([first])).node[0]))
    if rows < 2 or cols < 2:
        return None
    found = {"image": -1, "row": -1, "col": -1}
    for dim, step in enumerate(steps):
        if step == NEXT_IMAGE:
            kind = "image"
        elif cols <= step < rows * cols and step % cols == 0:
            kind = "row"
        elif 0 < step < cols:
            kind = "col"
        else:
            continue
        if shape[dim] > 1 and dim not in channel_dims:
            if found[kind] >= 0:
                return None
            found[kind] = dim
    return None if min(found.values()) < 0 else (found["image"], found["row"], found["col"])


def _raster_layout(table: ElementTable, numbers: Tensor, channel_dims: tuple[int, ...]) -> PlainLayout | None:
    """The layout of a stepped tensor that has all rows and columns of a node in one dimension, as attention has them."""
    if not numbers.is_meta or channel_dims or not numbers.numel():
        return None
    rows, cols = table.grid(int(table.places(np.array([numbers.storage_offset()])).node[0]))
    for dim, (length, step) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        if step == 1 and length == rows * cols:
            plain = _plain_layout(table, numbers.unflatten(dim, (rows, cols)), ())
            return None if plain is None else replace(plain, pixels=dim)
    return None


def _layout_with_gaps(table: ElementTable, operands: list[Tensor], channel_dims: tuple[int, ...]) -> PlainLayout | None:
    """The layout of tensors with one dimension each for images, rows and columns, some of whose elements are constant.

    Found in the middle of the fullest one, where elements usually have neighbours, and proved everywhere.
    """
    shape = tuple(operands[0].shape)
    if min(shape) < 1:
        return None
    written = sorted(map(written_out, operands), key=lambda numbers: -int(numbers.count_nonzero()))
    middle = tuple((size - 1) // 2 for size in shape)
    here = int(written[0][middle])
    beside = [
        int(written[0][(*middle[:dim], min(place + 1, shape[dim] - 1), *middle[dim + 1 :])]) for dim, place in enumerate(middle)
    ]
    site_dims = _site_dims(table, here, tuple(number - here for number in beside), shape, channel_dims)
    if site_dims is None:
        return None
    near = table.places(np.array([here, beside[site_dims[1]], beside[site_dims[2]]]))
    steps = int(near.row[1] - near.row[0]), int(near.col[2] - near.col[0])
    layout = PlainLayout(shape, site_dims, 0, 0, steps)
    most, row0, col0 = 0, 0, 0
    for numbers in written:
        maps = layout.gather(numbers).numpy()
        known = maps[0] > 0  # (rows, cols, F)
        if any(not np.array_equal(np.where(known, image - n * NEXT_IMAGE, 0), maps[0]) for n, image in enumerate(maps)):
            return None
        place = table.places(maps[0])
        rows = _the_same(place.row - np.arange(len(known))[:, None, None] * steps[0], known)
        cols = _the_same(place.col - np.arange(known.shape[1])[None, :, None] * steps[1], known)
        if rows is None or cols is None:
            return None
        # The fullest channel says where all of them stand.
        counts = known.sum((0, 1))
        if counts.max() > most:
            most, row0, col0 = int(counts.max()), int(rows[counts.argmax()]), int(cols[counts.argmax()])
    return replace(layout, row0=row0, col0=col0)


def _the_same(values: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Of maps (rows, cols, F), each feature's value (F,) if it has only one among those known; 0 where none is."""
    high = np.where(known, values, np.iinfo(np.int64).min).max((0, 1))
    some = known.any((0, 1))
    high = np.where(some, high, 0)
    return high if ((values == high) | ~known).all() else None


def live_channels(ids: Tensor) -> Tensor | None:
    """Which channels of maps (images, rows, cols, F) hold elements: bool (F,), if the others are constant everywhere.

    None: all of them, or some hold both.
    """
    if ids.is_meta or not ids.numel():
        return None
    live = ids[0, 0, 0] > 0
    return None if bool(live.all()) or not bool(live.any()) or bool(ids[..., ~live].any()) else live


def _first_steps(numbers: Tensor) -> tuple[int, tuple[int, ...]]:
    """The first number, and how much the second one along each dimension adds to it."""
    if numbers.is_meta:
        return int(numbers.storage_offset()), numbers.stride()
    first = numbers[(0,) * numbers.dim()]
    seconds = [numbers.select(dim, min(1, size - 1)).reshape(-1)[0] for dim, size in enumerate(numbers.shape)]
    return int(first), tuple(int(second - first) for second in seconds)


def _moves(places: list[Places], dim: int) -> bool:
    """Whether most steps along a dimension lead to another image, row or column."""
    for place in places:
        if place.known.shape[dim] < 2:
            return False
        ahead = [slice(None)] * place.known.ndim
        behind = list(ahead)
        ahead[dim], behind[dim] = slice(1, None), slice(None, -1)
        a, b = tuple(ahead), tuple(behind)
        both = place.known[a] & place.known[b]
        if not both.any():
            continue
        moved = (place.image[a] != place.image[b]) | (place.row[a] != place.row[b]) | (place.col[a] != place.col[b])
        return 2 * int((moved & both).sum()) > int(both.sum())
    return False


def _extrapolate(site: np.ndarray, found: np.ndarray) -> None:
    """Continue coordinates (3, *dims) to positions where nothing is known, in place, if each dimension has its own steps."""
    start = np.argwhere(found)[0]
    predicted = site.reshape(3, -1)[:, np.ravel_multi_index(tuple(start), found.shape)].reshape(3, *([1] * found.ndim))
    for dim, size in enumerate(found.shape):
        ahead = [slice(None)] * found.ndim
        behind = list(ahead)
        ahead[dim], behind[dim] = slice(1, None), slice(None, -1)
        both = found[tuple(ahead)] & found[tuple(behind)]
        steps = np.where(both, np.diff(site, axis=dim + 1), np.iinfo(np.int64).min)
        others = tuple(d for d in range(found.ndim) if d != dim)
        known = both.any(others)
        if size > 1 and not known.any():
            return
        along = np.zeros((3, size), dtype=np.int64)
        if size > 1:
            # One of the steps that occur stands for all: whether they are equal shows below.
            step = steps.max(tuple(d + 1 for d in others))
            places = np.flatnonzero(known)
            nearest = [places[np.abs(places - i).argmin()] for i in range(size - 1)]
            along[:, 1:] = step[:, nearest].cumsum(1)
        along = along - along[:, start[dim]][:, None]
        predicted = predicted + along.reshape(3, *(size if d == dim else 1 for d in range(found.ndim)))
    predicted = np.broadcast_to(predicted, site.shape)
    if (predicted == site)[:, found].all() and predicted[0].min() >= 0:
        site[:] = predicted
        found[:] = True


def _continue_raster(site: np.ndarray, found: np.ndarray, grid: tuple[int, int]) -> None:
    """The same where a dimension holds all pixels of `grid` in raster order, of one image or of one after the other."""
    rows, cols = grid
    predicted = np.zeros_like(site)
    for dim, size in enumerate(found.shape):
        place = np.arange(size)
        pixels = size % (rows * cols) == 0
        along = (place // (rows * cols), place // cols % rows, place % cols) if pixels else (place, 0 * place, 0 * place)
        predicted += np.stack(along).reshape(3, *(size if d == dim else 1 for d in range(found.ndim)))
    start = tuple(np.argwhere(found)[0])
    apart = (site - predicted).reshape(3, -1)[:, np.ravel_multi_index(start, found.shape)]
    predicted += apart.reshape(3, *([1] * found.ndim))
    if (predicted == site)[:, found].all() and predicted[0].min() >= 0:
        site[:] = predicted
        found[:] = True


def _grid(
    site: np.ndarray, flat: np.ndarray, where: str, alone: tuple[int, int]
) -> tuple[np.ndarray, int, int, tuple[int, int]]:
    """Arrange sites (3, S) and their flat indices (S, F) on a grid of images, rows and columns, in steps of so many pixels.

    `alone`: the steps of rows and columns of which there is only one.
    """
    image, row, col = site
    row0, col0 = int(row.min()), int(col.min())
    images = int(image.max()) + 1
    steps = (reduce(gcd, (row - row0).tolist()) or alone[0], reduce(gcd, (col - col0).tolist()) or alone[1])
    row, col = (row - row0) // steps[0], (col - col0) // steps[1]
    index = np.full((images, int(row.max()) + 1, int(col.max()) + 1, flat.shape[1]), -1, dtype=np.int64)
    taken = np.zeros(index.shape[:3], dtype=np.int64)
    np.add.at(taken, (image, row, col), 1)
    if taken.max() > 1:
        raise UnsupportedModel(
            f"{where} holds several elements of one feature at one pixel: rows, columns and channels are mixed in a view"
        )
    index[image, row, col] = flat
    return index, row0, col0, steps
