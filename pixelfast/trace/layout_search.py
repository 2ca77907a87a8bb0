"""The general search for a tensor's layout, element by element: any mixture of views, pads, crops and permutations.

A dimension along which most elements come from another image, row or column is one of sites; the others are features. Sites
stand where the fullest feature's elements come from, and every other feature must lie at one offset from them.
"""

from __future__ import annotations

from functools import reduce
from math import gcd

import numpy as np
from torch import Tensor

from ..errors import UnsupportedModel
from .index import ElementTable, Places, written_out
from .layout_types import IndexLayout


def layout_by_elements(table: ElementTable, operands: list[Tensor], where: str, channel_dims: tuple[int, ...]) -> IndexLayout:
    """The layout of tensors of one shape that are combined element by element; see `layouts.infer_layout`."""
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
    if known[~found].any():
        raise UnsupportedModel(
            f"{where} reads elements of the image (shape {shape}) beside others that are constant at the same pixels, so that "
            "nothing says where they stand"
        )
    features = int(np.prod([shape[d] for d in feature_dims], dtype=np.int64))
    flat = np.arange(int(np.prod(shape))).reshape(shape).transpose(order).reshape(sites, features)
    own = (table.steps(int(node)) for p in places for node in np.unique(p.node[p.known]))
    alone = tuple(map(max, zip(*own, strict=True)))
    index, row0, col0, steps = _grid(site[:, found], flat[found], where, alone)  # type: ignore[arg-type]
    return IndexLayout(index, row0, col0, feature_dims, steps)


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
