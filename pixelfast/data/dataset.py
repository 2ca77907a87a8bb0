"""Images from files: .npz, .npy, idx (MNIST's own format) or a folder of pictures, as integer tensors of K levels.

Everything becomes ``Dataset``: images int64 (N, C, H, W) in 0 .. K-1, labels int64 (N,) or None, and a held-out part. An .npz
may bring a map for each image, such as the codes of an upper level. What a file says about its values is taken, and what it
leaves open is asked for: how many values a pixel takes (`values.py`), which axis is which (`arrays.py`), what stands behind
transparent pixels (`picture_files.py`), which folders are classes (`picture_folders.py`).
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput, described
from ..files.access import MAX_BYTES, is_folder, opened, path_of, status
from ..files.array_files import open_npz, read_npy
from ..inputs.arguments import check_type, count_of
from .arrays import as_images, as_labels, as_maps
from .picture_files import PICTURES, PictureOptions
from .picture_folders import read_folder
from .values import deep_enough, quantise, source_levels_of

IMAGE_KEYS = ("X_train", "x_train", "train_images", "images", "X", "x")
LABEL_KEYS = ("y_train", "train_labels", "labels", "y")
TEST_IMAGE_KEYS = ("X_test", "x_test", "test_images")
TEST_LABEL_KEYS = ("y_test", "test_labels")
MAP_KEYS = ("s_train", "train_maps", "maps", "s")
TEST_MAP_KEYS = ("s_test", "test_maps")
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True)
class Dataset:
    """Integer images (N, C, H, W) in 0 .. levels-1 with labels (N,) and maps (N, M, rows, columns) or None, also held out."""

    images: Tensor
    labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    levels: int
    classes: tuple[str, ...] = ()
    maps: Tensor | None = None
    test_maps: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def load(
    path: str | Path,
    levels: int | None = None,
    *,
    source_levels: int | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    axes: str | None = None,
    background: str | None = None,
    palette: str | None = None,
    frames: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """Read a data set and quantise it: a value k of S becomes floor(k * K / S).

    S, how many values a pixel can take, is what the file says: a number ``levels`` in an .npz, as `pixelfast sample` writes it;
    2 of booleans and of pictures of 1 bit. Bytes and pictures of more bits have as many values as these allow (16 of 4 bits,
    256 of 8, 65536 of 16) if one of their values needs all of them. Where none does, they may as well be codes, labels or
    masks: values of 0 .. K-1 are then taken as they are, with a `DataWarning`, and others need ``source_levels``. So do other
    integers, unless they lie in 0 .. K-1 with K of at most 256, and are levels as they are.

    Args:
        path: an .npz file (``X_train``, ``y_train``, ``X_test``, ``y_test``, or ``images`` and ``labels``; maps as
            ``s_train`` and ``s_test``, or ``maps``; ``classes``, names; ``levels``), an .npy of images, an idx file
            of images, gzipped or not (labels and test images are looked for beside it, under MNIST's own names), or a
            folder of pictures of one size, where subfolders are classes, or the parts train and test (or val) of a split.
        levels: K; by default S where that is said or follows from less than 8 bits, else 256. Pictures of fewer bits than K has
            become bytes, as viewers show them.
        source_levels: S.
        test_fraction: how much is held out where the file has no test part, drawn by ``seed``; 0: nothing.
        axes: of arrays, "NHW", "NCHW" or "NHWC", of one image "HW", "CHW" or "HWC", where their shape leaves a choice or they
            have other than 1 or 3 channels.
        background, palette, frames: of pictures, see `PictureOptions`.
        max_bytes: what a file, an array of it, or all pictures of a folder together may open to; a file may always open to as
            much as it takes on the disk.

    Raises:
        InvalidInput: the path does not exist, is damaged, holds no images, is larger than ``max_bytes``, or leaves open what
            its values mean.

    Example:
        >>> import numpy as np
        >>> np.savez("images.npz", images=np.arange(70, dtype=np.uint8).reshape(2, 7, 5) * 3)
        >>> data = pixelfast.data.load("images.npz", levels=4, source_levels=256, test_fraction=0.5)
        >>> data.images.shape, data.images.max().item(), data.levels
        (torch.Size([1, 1, 7, 5]), 3, 4)
    """
    path = path_of(path)
    levels = None if levels is None else count_of("levels", levels, 2)
    source_levels = None if source_levels is None else count_of("source_levels", source_levels, 2)
    seed = count_of("seed", seed, 0)
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, Real):
        raise InvalidInput(f"test_fraction must be a number, got {type(test_fraction).__name__}")
    for name, value in {"axes": axes, "background": background, "palette": palette, "frames": frames}.items():
        check_type(name, value, str, "text")
    if status(path) is None:
        raise InvalidInput(f"there is no data at {path}")
    parts = _read(path, axes, PictureOptions(background, palette, frames, max_bytes))
    images, test = parts["images"], parts.get("test_images")
    classes = parts.get("classes", ())
    labels, maps = _labels(path, parts, "", images, classes), as_maps(str(path), images, parts.get("maps"))
    arrays, bits = deep_enough([images] if test is None else [images, test], parts.get("bits"), levels, source_levels)
    known, source = source_levels_of(str(path), arrays, levels, said=parts.get("levels"), asked=source_levels, bits=bits)
    images, *held_out = arrays
    if not held_out:
        _, maps, _, test_maps = _split(images, maps, test_fraction, seed)
        images, labels, test_images, test_labels = _split(images, labels, test_fraction, seed)
    else:
        (test_images,) = held_out
        test_labels = _labels(path, parts, "test_", test_images, classes)
        test_maps = as_maps(str(path), test_images, parts.get("test_maps"))
        if test_images.shape[1:] != images.shape[1:]:
            raise InvalidInput(f"{path}: training images {images.shape[1:]} and test images {test_images.shape[1:]} differ")
        for name, both in (("labels", (labels, test_labels)), ("maps", (maps, test_maps))):
            if (both[0] is None) != (both[1] is None):
                raise InvalidInput(f"{path}: {name} are given for only one of the training and test images")
    train, test = quantise(images, known, source), quantise(test_images, known, source)
    return Dataset(train, labels, test, test_labels, known, classes, maps, test_maps)


def read_images(
    path: str | Path, shape: tuple[int, int, int], axes: str | None = None, max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, int | None]:
    """The images (N, C, H, W) of an .npz or .npy as they are, C, H, W as in ``shape``, and how many levels the file says."""
    path = path_of(path)
    npz = path.suffix.lower() == ".npz"
    parts: dict[str, Any] = _from_npz(path, max_bytes) if npz else {"images": read_npy(path, max_bytes)}
    return as_images(str(path), parts["images"], axes or parts.get("axes"), shape=shape)[0], parts.get("levels")


def _read(path: Path, axes: str | None, options: PictureOptions) -> dict[str, Any]:
    """What a file or folder holds; images, also held-out ones, as (N, C, H, W)."""
    if is_folder(path):
        try:
            parts = read_folder(path, options)
        except (OSError, RuntimeError) as error:  # no right to look, a loop of links
            raise InvalidInput(f"{path} cannot be searched for pictures: {described(error)}") from error
        axes = "NHW" if parts["images"].ndim == 3 else "NHWC"
    elif path.suffix.lower() == ".npz":
        parts = _from_npz(path, options.max_bytes)
        axes = axes or parts.get("axes")
    elif path.suffix.lower() == ".npy":
        parts = {"images": read_npy(path, options.max_bytes)}
    else:
        parts = _from_idx(path, options.max_bytes)
        axes = axes or ("NHW" if parts["images"].ndim == 3 else None)
    beside = next((parts[name] for name in ("labels", "maps") if parts.get(name) is not None), None)
    count = None if beside is None else len(beside) if beside.ndim else 1
    parts["images"], axes = as_images(str(path), parts["images"], axes, count)
    if parts.get("test_images") is not None:
        parts["test_images"], _ = as_images(str(path), parts["test_images"], axes)
    return parts


def _labels(path: Path, parts: Mapping[str, Any], prefix: str, images: np.ndarray, classes: tuple[str, ...]) -> Tensor | None:
    labels = parts.get(prefix + "labels")
    return None if labels is None else as_labels(str(path), labels, len(images), len(classes))


def _split(
    images: np.ndarray, labels: Tensor | None, fraction: float, seed: int
) -> tuple[np.ndarray, Tensor | None, np.ndarray, Tensor | None]:
    if not 0 <= fraction < 1:
        raise InvalidInput(f"test_fraction must be 0, or lie between 0 and 1, got {fraction}")
    if fraction == 0:
        return images, labels, images[:0], None if labels is None else labels[:0]
    if len(images) < 2:
        raise InvalidInput(
            "one image cannot be divided into training and test images: "
            "test_fraction=0 (eval --split all) holds none out"
        )
    held = min(max(round(len(images) * fraction), 1), len(images) - 1)
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.sort(order[:held]), np.sort(order[held:])
    if labels is None:
        return images[train], None, images[test], None
    return images[train], labels[torch.from_numpy(train)], images[test], labels[torch.from_numpy(test)]


def _from_npz(path: Path, max_bytes: int) -> dict[str, Any]:
    with open_npz(path, max_bytes) as arrays:
        parts: dict[str, Any] = {"images": _first(arrays, IMAGE_KEYS), "labels": _first(arrays, LABEL_KEYS)}
        parts["maps"] = _first(arrays, MAP_KEYS)
        if parts["images"] is None:
            raise InvalidInput(
                f"{path} holds {sorted(arrays)}, but none of {', '.join(IMAGE_KEYS)}: store the images under one of these "
                "names, as np.savez(path, images=...) does"
            )
        test = _first(arrays, TEST_IMAGE_KEYS)
        if test is not None:
            parts |= {"test_images": test, "test_labels": _first(arrays, TEST_LABEL_KEYS)}
            parts["test_maps"] = _first(arrays, TEST_MAP_KEYS)
        if "levels" in arrays:
            parts["levels"] = _number(path, arrays["levels"])
        if "axes" in arrays:
            parts["axes"] = str(arrays["axes"])
        elif {"images", "levels", "seed"} <= set(arrays):  # `pixelfast sample` wrote it
            parts["axes"] = "NCHW"
        classes = np.ravel(arrays["classes"]) if "classes" in arrays else ()
        return parts | {"classes": tuple(str(name) for name in classes)}


def _number(path: Path, levels: np.ndarray) -> int:
    if levels.size != 1 or not np.issubdtype(levels.dtype, np.integer) or int(levels.reshape(-1)[0]) < 2:
        raise InvalidInput(f"{path}: `levels` must be one integer of at least 2, how many values a pixel takes, got {levels!r}")
    return int(levels.reshape(-1)[0])


def _first(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _from_idx(path: Path, max_bytes: int) -> dict[str, Any]:
    parts: dict[str, Any] = {"images": read_idx(path, max_bytes)}
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
    if labels != path and status(labels) is not None:
        parts["labels"] = read_idx(labels, max_bytes)
    if path.name.startswith("train-"):
        test = path.with_name("t10k-" + path.name.removeprefix("train-"))
        if status(test) is not None:
            found = _from_idx(test, max_bytes)
            parts |= {"test_images": found["images"], "test_labels": found.get("labels")}
    return parts


def read_idx(path: str | Path, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """An idx file, gzipped or not: 0, 0, the type (8: uint8), the number of axes, the sizes (big-endian), the data."""
    path = path_of(path)
    with opened(path, "idx file", max_bytes) as file:
        stream = gzip.GzipFile(fileobj=file.handle) if path.suffix == ".gz" else file.handle
        head = stream.read(4)
        axes = head[3] if len(head) == 4 else 0
        numbers = stream.read(4 * axes)
        if head[:2] != b"\0\0" or not 1 <= axes <= 4 or head[2] not in IDX_TYPES or len(numbers) < 4 * axes:
            hint = f"; pictures are read from their folder, {path.parent}" if path.suffix.lower() in PICTURES else ""
            raise InvalidInput(f"{path} is no .npz or .npy file, folder, or idx file (first bytes {head!r}){hint}")
        kind, sizes = np.dtype(IDX_TYPES[head[2]]), struct.unpack(f">{axes}I", numbers)
        wanted = math.prod(sizes) * kind.itemsize
        file.allow(wanted)
        body = stream.read(wanted + 1)  # no more, however much there is
        if len(body) != wanted:
            found = f"{len(body)} bytes" if len(body) < wanted else "more"
            raise InvalidInput(f"{path} should hold {sizes} numbers of {kind}, but has {found}: it is truncated or damaged")
        return np.frombuffer(body, kind).reshape(sizes).astype(kind.newbyteorder("="))  # bytes cannot be written
