"""Elements: every number that a traced tensor holds, named by the node, feature and pixel that it comes from.

While a graph is converted, a tensor that depends on the image is an array of element numbers of the tensor's own shape.
Layout operations then simply run on those numbers, so that any mixture of views, pads, crops and permutations is followed
exactly, without a rule for each. Number 0 is an element that does not depend on the image.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Value:
    """A traced tensor.

    Attributes:
        ids: element numbers, 0 where the element is constant; None if all of it is.
        const: the constant elements (anything where ids > 0); None for zeros.
        dynamic: the node of the condition graph that gives `const`, if it depends on the conditions of a call.
    """

    ids: Tensor | None
    const: Tensor | None = None
    dynamic: fx.Node | None = None


@dataclass(frozen=True)
class Places:
    """Where the elements of an array come from, element by element; entries are meaningless where `known` is False."""

    known: np.ndarray
    image: np.ndarray
    node: np.ndarray
    feature: np.ndarray
    row: np.ndarray
    col: np.ndarray


class ElementTable:
    """Numbers the elements of nodes, and reads the numbers back."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int, int, int]] = []

    def add(self, node: Node, images: int) -> Tensor:
        """Numbers (images, rows, cols, features) of the elements of the next node."""
        domain = node.domain
        rows, cols = domain.row1 - domain.row0, domain.col1 - domain.col0
        first = (len(self._sizes) << _NODE_BIT) + 1
        self._sizes.append((rows, cols, domain.row0, domain.col0))
        elements = torch.arange(node.features * rows * cols).view(node.features, rows, cols).permute(1, 2, 0) + first
        return torch.stack([elements + n * NEXT_IMAGE for n in range(images)])

    def places(self, ids: np.ndarray) -> Places:
        """Where each numbered element comes from."""
        sizes = np.asarray(self._sizes, dtype=np.int64).reshape(-1, 4)
        known = ids > 0
        node = np.where(known, (ids >> _NODE_BIT) & _NODE_MASK, 0)
        element = np.where(known, (ids & _ELEMENT_MASK) - 1, 0)
        rows, cols, row0, col0 = (sizes[node, axis] for axis in range(4))
        rest, col = np.divmod(element, cols)
        feature, row = np.divmod(rest, rows)
        return Places(known, ids >> _IMAGE_BIT, node, feature, row + row0, col + col0)


@dataclass(frozen=True)
class Layout:
    """How a tensor's elements form feature maps: `index` (images, rows, cols, features) into the flattened tensor.

    Pixel (r, c) stands at [r - row0, c - col0]; index is -1 where the tensor has no element.
    `channel_dims` are the tensor's dimensions that make up the features, in order.
    """

    index: np.ndarray
    row0: int
    col0: int
    channel_dims: tuple[int, ...]

    def scatter(self, maps: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of `shape` whose elements are those of `maps`, shaped as `index`; 0 elsewhere."""
        flat = torch.zeros(int(np.prod(shape)), dtype=maps.dtype)
        inside = self.index >= 0
        flat[torch.from_numpy(self.index[inside])] = maps[torch.from_numpy(inside)]
        return flat.view(shape)

    def gather(self, tensor: Tensor) -> Tensor:
        """The elements of `tensor` shaped as `index`; 0 where it has none."""
        flat = tensor.reshape(-1)[torch.from_numpy(np.maximum(self.index, 0))]
        return torch.where(torch.from_numpy(self.index >= 0), flat, torch.zeros((), dtype=flat.dtype))


def infer_layout(table: ElementTable, operands: list[Tensor], where: str, channel_dims: tuple[int, ...] = ()) -> Layout:
    """Find which dimensions of a tensor are images, rows and columns, from where its elements come.

    Args:
        operands: element numbers of tensors of one shape, which are combined element by element.
        where: name of the operation, for messages.
        channel_dims: dimensions that must be features.

    Raises:
        UnsupportedModel: rows, columns, images and features are mixed in a way that is no feature map.
    """
    shape = tuple(operands[0].shape)
    places = [table.places(ids.numpy()) for ids in operands]
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
        _extrapolate(site.reshape(3, *(shape[d] for d in site_dims)), found.reshape([shape[d] for d in site_dims]))
    features = int(np.prod([shape[d] for d in feature_dims], dtype=np.int64))
    flat = np.arange(int(np.prod(shape))).reshape(shape).transpose(order).reshape(sites, features)
    return Layout(*_grid(site[:, found], flat[found], where), channel_dims=feature_dims)


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
    predicted = site[(slice(None), *start)].reshape(3, *([1] * found.ndim))
    for dim, size in enumerate(found.shape):
        ahead = [slice(None)] * found.ndim
        behind = list(ahead)
        ahead[dim], behind[dim] = slice(1, None), slice(None, -1)
        both = found[tuple(ahead)] & found[tuple(behind)]
        steps = np.where(both, site[(slice(None), *ahead)] - site[(slice(None), *behind)], 0)
        others = tuple(d for d in range(found.ndim) if d != dim)
        known = both.any(others)
        if size > 1 and not known.any():
            return
        along = np.zeros((3, size), dtype=np.int64)
        if size > 1:
            axes = tuple(d + 1 for d in others)
            # Unknown entries are 0, so the sum of the extremes is the one step that occurs, whatever its sign.
            step = steps.max(axes) + steps.min(axes)
            places = np.flatnonzero(known)
            nearest = [places[np.abs(places - i).argmin()] for i in range(size - 1)]
            along[:, 1:] = step[:, nearest].cumsum(1)
        along = along - along[:, start[dim]][:, None]
        predicted = predicted + along.reshape(3, *(size if d == dim else 1 for d in range(found.ndim)))
    predicted = np.broadcast_to(predicted, site.shape)
    if (predicted == site)[:, found].all() and predicted[0].min() >= 0:
        site[:] = predicted
        found[:] = True


def _grid(site: np.ndarray, flat: np.ndarray, where: str) -> tuple[np.ndarray, int, int]:
    """Arrange sites (3, S) and their flat indices (S, F) on a grid of images, rows and columns."""
    image, row, col = site
    row0, col0 = int(row.min()), int(col.min())
    images = int(image.max()) + 1
    index = np.full((images, int(row.max()) - row0 + 1, int(col.max()) - col0 + 1, flat.shape[1]), -1, dtype=np.int64)
    taken = np.zeros(index.shape[:3], dtype=np.int64)
    np.add.at(taken, (image, row - row0, col - col0), 1)
    if taken.max() > 1:
        raise UnsupportedModel(
            f"{where} holds several elements of one feature at one pixel: rows, columns and channels are mixed in a view"
        )
    index[image, row - row0, col - col0] = flat
    return index, row0, col0
