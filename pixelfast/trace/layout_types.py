"""A tensor's elements as feature maps (images, rows, cols, F), and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .index import reshaped, written_out


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
        """The index that an `IndexLayout` of the same tensor has."""
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
