"""Layouts: which dimensions of a tensor are images, rows, columns and features, by where its elements come from.

`IndexLayout` and `PlainLayout` arrange a tensor's elements as maps (images, rows, cols, F) and back. Most tensors have one
dimension for each of images, rows and columns, which a few of their numbers show; the others are searched element by element
(layout_search.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..errors import UnsupportedModel
from .index import IMAGES, NEXT_IMAGE, ElementTable, all_elements, live_channels, written_out
from .layout_search import layout_by_elements
from .layout_types import IndexLayout, Layout, PlainLayout


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
    if not all(map(all_elements, operands)):
        merged = _merged_layout(table, operands, channel_dims, size)
        if merged is not None:
            return merged
    try:
        return layout_by_elements(table, operands, where, channel_dims)
    except UnsupportedModel:
        # One of them may say where the others stand, which take several elements from one pixel.
        alone = [_layout_or_none(table, numbers, where, channel_dims) for numbers in operands] if len(operands) > 1 else []
        result = [layout for layout in alone if layout is not None and layout.inside.all()]
        if not result:
            merged = _merged_layout(table, operands, channel_dims, size, proved=False)
            if merged is None:
                raise
            return merged
        return max(result, key=lambda layout: layout.size[1] * layout.size[2])


def _layout_or_none(table: ElementTable, numbers: Tensor, where: str, channel_dims: tuple[int, ...]) -> IndexLayout | None:
    try:
        return layout_by_elements(table, [numbers], where, channel_dims)
    except UnsupportedModel:
        return None


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
    result = {"image": -1, "row": -1, "col": -1}
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
            if result[kind] >= 0:
                return None
            result[kind] = dim
    return None if min(result.values()) < 0 else (result["image"], result["row"], result["col"])


def _first_steps(numbers: Tensor) -> tuple[int, tuple[int, ...]]:
    """The first number, and how much the second one along each dimension adds to it."""
    if numbers.is_meta:
        return int(numbers.storage_offset()), numbers.stride()
    first = numbers[(0,) * numbers.dim()]
    seconds = [numbers.select(dim, min(1, size - 1)).reshape(-1)[0] for dim, size in enumerate(numbers.shape)]
    return int(first), tuple(int(second - first) for second in seconds)


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

    It is found in the middle of the fullest one, where elements usually have neighbours, and proved everywhere.
    """
    shape = tuple(operands[0].shape)
    if min(shape) < 1:
        return None
    written = sorted(map(written_out, operands), key=lambda numbers: -int(numbers.count_nonzero()))
    middle = tuple((size - 1) // 2 for size in shape)
    here = int(written[0][middle])
    beside = [_beside(written[0], middle, dim) for dim in range(len(shape))]
    site_dims = _site_dims(table, here, tuple(number - here for number in beside), shape, channel_dims)
    if site_dims is None:
        return None
    near = table.places(np.array([here, beside[site_dims[1]], beside[site_dims[2]]]))
    steps = int(near.row[1] - near.row[0]), int(near.col[2] - near.col[0])
    return _where_it_stands(table, PlainLayout(shape, site_dims, 0, 0, steps), written)


def _merged_layouts(
    table: ElementTable, operands: list[Tensor], channel_dims: tuple[int, ...], size: tuple[int, int] | None
) -> Iterator[tuple[PlainLayout, int, tuple[int, ...]]]:
    """The possible layouts of tensors that have all pixels in raster order in one dimension.

    The pixels are those of one image or of two, one after the other, and of the whole image or of a node. Each layout comes
    with the dimension, and with the sizes that it is divided into.
    """
    shape = tuple(operands[0].shape)
    some = max(map(written_out, operands), key=lambda numbers: int(numbers.count_nonzero()))
    if not some.any():
        return
    node = int(table.places(some[some > 0][:1].numpy()).node[0])
    grids = [*([] if size is None else [(size, (1, 1))]), (table.grid(node), table.steps(node))]
    for (rows, cols), steps in grids:
        for dim, length in enumerate(shape):
            images = length // (rows * cols)
            apart = (images, rows, cols) if images == IMAGES else (rows, cols)
            alone = images == 1 and (dim == 0 or shape[0] != IMAGES or 1 in (rows, cols))  # nothing is merged there
            if dim in channel_dims or length != np.prod(apart) or alone:
                continue
            site_dims = (dim if images == IMAGES else 0, dim + len(apart) - 2, dim + len(apart) - 1)
            yield PlainLayout((*shape[:dim], *apart, *shape[dim + 1 :]), site_dims, 0, 0, steps), dim, apart


def _merged_layout(
    table: ElementTable,
    operands: list[Tensor],
    channel_dims: tuple[int, ...],
    size: tuple[int, int] | None,
    proved: bool = True,
) -> IndexLayout | None:
    """The first of `_merged_layouts` that the elements prove; or, unproved, the first whose images do not mix, where a place of
    the image may read elements from anywhere.
    """
    for plain, dim, apart in _merged_layouts(table, operands, channel_dims, size):
        parted = [written_out(numbers).unflatten(dim, apart) for numbers in operands]
        if proved:
            result = _where_it_stands(table, plain, parted)
        else:
            result = plain if all(_images_are_alike(plain.gather(numbers).numpy()) for numbers in parted) else None
        if result is not None:
            channels = tuple(d - (len(apart) - 1) * (d > dim) for d in plain.channel_dims)
            return IndexLayout(plain.index, result.row0, result.col0, channels, plain.steps)
    return None


def _where_it_stands(table: ElementTable, layout: PlainLayout, operands: list[Tensor]) -> PlainLayout | None:
    """A layout at the place where its elements come from; None if those of some feature come from no common offset."""
    most, row0, col0 = 0, 0, 0
    steps = layout.steps
    for numbers in operands:
        maps = layout.gather(numbers).numpy()
        known = maps[0] > 0  # (rows, cols, F)
        if not _images_are_alike(maps):
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


def _images_are_alike(maps: np.ndarray) -> bool:
    """Whether each image of maps (images, rows, cols, F) holds the same elements, of its own image."""
    return all(np.array_equal(np.where(image > 0, image - n * NEXT_IMAGE, 0), maps[0]) for n, image in enumerate(maps))


def _beside(numbers: Tensor, place: tuple[int, ...], dim: int) -> int:
    """The number after the one at a place, along a dimension; the last has itself."""
    after = list(place)
    after[dim] = min(place[dim] + 1, numbers.shape[dim] - 1)
    return int(numbers[tuple(after)])


def _the_same(values: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """The known value (F,) of each feature in maps (rows, cols, F), 0 where none is known; None if a feature has several."""
    high = np.where(known, values, np.iinfo(np.int64).min).max((0, 1))
    some = known.any((0, 1))
    high = np.where(some, high, 0)
    return high if ((values == high) | ~known).all() else None


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
