"""What a conditional model takes after the image: a label or a vector h, a map s; checked, and added to gates.

Paper: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional image generation with PixelCNN
decoders", NeurIPS 2016. Letters: N images, F features, D and M the sizes of vector and map, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInput


@dataclass(frozen=True)
class Wanted:
    """The conditions that a model was built for; 0 where it takes none.

    Args:
        classes: number of labels, h int64 (N,).
        vector: D, h float (N, D). One of the two at most.
        map_channels: M, s float (N, M, H, W).

    Raises:
        InvalidInput: both kinds of h, or a number that is no integer of at least 0.
    """

    classes: int = 0
    vector: int = 0
    map_channels: int = 0

    def __post_init__(self) -> None:
        for name in ("classes", "vector", "map_channels"):
            check_integer(name, getattr(self, name), 0)
        if self.classes and self.vector:
            raise InvalidInput(f"h is a label or a vector, not both: got classes={self.classes} and vector={self.vector}")

    def check(self, x: Tensor, h: Tensor | None, s: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """h and s, fit for the images x (N, C, H, W).

        Raises:
            InvalidInput: a condition is missing, not wanted, or has the wrong type, shape or range.
        """
        h = check_labels(x, h, self.classes) if self.classes else self._vector(x, h)
        return h, self._map(x, s)

    def _vector(self, x: Tensor, h: Tensor | None) -> Tensor | None:
        if not self.vector:
            if h is not None:
                raise InvalidInput("this model is not conditional on h: leave it out, or build it with classes= or vector=")
            return None
        wanted = f"h must be a float vector of shape ({x.shape[0]}, {self.vector})"
        if h is None:
            raise InvalidInput(f"this model is conditional on a vector and got none: {wanted}")
        if not h.is_floating_point() or h.shape != (x.shape[0], self.vector):
            raise InvalidInput(f"{wanted}, got {h.dtype} of shape {tuple(h.shape)}")
        return h.to(x.dtype)

    def _map(self, x: Tensor, s: Tensor | None) -> Tensor | None:
        if not self.map_channels:
            if s is not None:
                raise InvalidInput("this model is not conditional on a map: leave s out, or build it with map_channels=")
            return None
        wanted = f"s must be a float map of shape {(x.shape[0], self.map_channels, *x.shape[2:])}"
        if s is None:
            raise InvalidInput(f"this model is conditional on a map and got none: {wanted}")
        if not s.is_floating_point() or s.shape != (x.shape[0], self.map_channels, *x.shape[2:]):
            raise InvalidInput(f"{wanted}, got {s.dtype} of shape {tuple(s.shape)}")
        return s.to(x.dtype)


class Condition(nn.Module):
    """V^T h and U * s of one gate: the same for all pixels, (N, 2F, 1, 1), and for each by itself, (N, 2F, H, W)."""

    def __init__(self, features: int, classes: int = 0, vector: int = 0, map_channels: int = 0) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, 2 * features) if classes else None
        self.vector = nn.Linear(vector, 2 * features, bias=False) if vector else None
        self.map = nn.Conv2d(map_channels, 2 * features, 1, bias=False) if map_channels else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.1)

    def forward(self, gates: Tensor, h: Tensor | None, s: Tensor | None) -> Tensor:
        """Gates (N, 2F, H, W) with the condition added."""
        vector, map = self.parts(h, s)
        gates = gates if vector is None else gates + vector[:, :, None, None]
        return gates if map is None else gates + map

    def parts(self, h: Tensor | None, s: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What is added to all pixels, (N, 2F), and to each by itself, (N, 2F, H, W); None: nothing."""
        vector = map = None
        if h is not None and (self.label is not None or self.vector is not None):
            vector = self.label(h) if self.label is not None else self.vector(h)  # type: ignore[misc]
        if self.map is not None and s is not None:
            map = self.map(s)
        return vector, map


def check_labels(x: Tensor, h: Tensor | None, classes: int) -> Tensor:
    """Labels (N,) for the images x (N, C, H, W) as int64, or InvalidInput."""
    wanted = f"h must be int64 labels of shape ({x.shape[0]},), each in 0 .. {classes - 1}"
    if h is None:
        raise InvalidInput(f"this model is conditional on a class and got none: {wanted}")
    if h.is_floating_point() or h.is_complex() or h.dtype == torch.bool or h.shape != x.shape[:1]:
        raise InvalidInput(f"{wanted}, got {h.dtype} of shape {tuple(h.shape)}")
    check_range("labels", h, classes, wanted)
    return h.long()


def check_range(name: str, values: Tensor, levels: int, wanted: str) -> None:
    """InvalidInput unless integer values lie in 0 .. levels-1."""
    # While a graph is traced, tensors are stand-ins without values; while a CUDA graph is captured, nothing can be looked at.
    captured = values.is_cuda and torch.cuda.is_current_stream_capturing()
    if type(values) is Tensor and not torch.compiler.is_compiling() and not captured and not values.is_meta and values.numel():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= levels:
            raise InvalidInput(f"{wanted}, got {name} from {low} to {high}")


def check_fraction(name: str, value: float) -> None:
    """InvalidInput unless ``value`` is a number of at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InvalidInput(f"{name} must be a number of at least 0 and below 1, got {value!r}")


def check_integer(name: str, value: int, least: int) -> None:
    """InvalidInput unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name} must be an integer of at least {least}, got {value!r}")
