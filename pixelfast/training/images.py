"""What training takes in: images with labels and maps, which must fit the model and each other, and their augmentation.

Letters: N images, C channels, H rows, W columns, M channels of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..inputs.arguments import head_of, module_of, shape_of
from .options import TrainOptions


def check_images(model: nn.Module, images: Tensor, labels: Tensor | None = None, maps: Tensor | None = None) -> None:
    """InvalidInput unless ``images`` are integers of the model's channels and levels, with as many labels and maps."""
    channels, levels = shape_of(module_of(model))[0], head_of(model).levels
    if not isinstance(images, Tensor):
        raise InvalidInput(f"images must be a tensor of integers (N, {channels}, H, W), got {type(images).__name__}")
    numbers = images.is_floating_point() or images.is_complex()
    if numbers or images.ndim != 4 or images.shape[1] != channels or not images.numel():
        raise InvalidInput(
            f"images must be integers of shape (N, {channels}, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    low, high = int(images.min()), int(images.max())
    if low < 0 or high >= levels:
        raise InvalidInput(f"the model has {levels} levels, 0 .. {levels - 1}, but the images hold {low} .. {high}")
    for name, part in (("labels", labels), ("maps", maps)):
        if part is not None and not isinstance(part, Tensor):
            raise InvalidInput(f"{name} must be a tensor, got {type(part).__name__}")
        if part is not None and part.shape[:1] != images.shape[:1]:
            raise InvalidInput(f"{len(images)} images came with {len(part) if part.ndim else 'no'} {name}")
    classes = getattr(model, "classes", 0)
    if labels is not None and isinstance(classes, int) and classes > 0:
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise InvalidInput(f"labels must be integers (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InvalidInput(f"the model has {classes} classes, 0 .. {classes - 1}, but the labels hold {low} .. {high}")


def parts_of(parts: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images, labels and maps of a held-out part, None for those that are left out.

    Raises:
        InvalidInput: there are none, or more than three.
    """
    images, labels, maps = (*parts, None, None)[:3] if len(parts) in (1, 2, 3) else (None, None, None)
    if images is None:
        raise InvalidInput(f"test= takes (images,), (images, labels) or (images, labels, maps), got {len(parts)} parts")
    return images, labels, maps


def augment(
    images: Tensor, maps: Tensor | None, options: TrainOptions, rng: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """Shift and mirror each image, and its map alike: (N, C, H, W) and (N, M, H, W), both as they came in shape.

    Raises:
        InvalidInput: the map has another size than the image, so that it cannot move along.
    """
    count, _, height, width = images.shape
    if maps is not None and maps.shape[2:] != images.shape[2:]:
        found = f"{tuple(maps.shape[2:])} for images of {height, width}"
        raise InvalidInput(f"shift and flip move maps along with their images, which needs maps of the same size, got {found}")
    by = torch.from_numpy(rng.integers(-options.shift, options.shift + 1, (count, 2)))
    rows = (torch.arange(height) + by[:, :1]).clamp(0, height - 1)  # (N, H)
    cols = (torch.arange(width) + by[:, 1:]).clamp(0, width - 1)  # (N, W)
    if options.flip:
        mirrored = torch.from_numpy(rng.random(count) < 0.5).unsqueeze(1)
        cols = torch.where(mirrored, cols.flip(1), cols)
    image = torch.arange(count).view(-1, 1, 1)

    def move(part: Tensor) -> Tensor:
        return part.movedim(1, -1)[image, rows.unsqueeze(2), cols.unsqueeze(1)].movedim(-1, 1)

    return move(images), None if maps is None else move(maps)
