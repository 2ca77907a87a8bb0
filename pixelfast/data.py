"""Images from files: .npz, idx (MNIST's own format) or a folder of pictures, as integer tensors of K levels.

Everything becomes ``Dataset``: images int64 (N, C, H, W) in 0 .. K-1, labels int64 (N,) or None, and a held-out part. An .npz
may bring a map for each image, such as the codes of an upper level.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InvalidInput

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
IMAGE_KEYS = ("X_train", "x_train", "train_images", "images", "X", "x")
LABEL_KEYS = ("y_train", "train_labels", "labels", "y")
TEST_IMAGE_KEYS = ("X_test", "x_test", "test_images")
TEST_LABEL_KEYS = ("y_test", "test_labels")
MAP_KEYS = ("s_train", "train_maps", "maps", "s")
TEST_MAP_KEYS = ("s_test", "test_maps")


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


def quantise(images: Tensor | np.ndarray, levels: int, source_levels: int = 256) -> Tensor:
    """Integers 0 .. S-1 as 0 .. K-1: floor(k * K / S), so that each new value stands for S / K old ones. int64.

    Raises:
        InvalidInput: ``images`` are no integers of 0 .. S-1, or K is not in 2 .. S.
    """
    values = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    if values.is_floating_point() or values.is_complex():
        raise InvalidInput(f"images must be integers, got {values.dtype}: scale them to 0 .. {source_levels - 1} first")
    if not 2 <= levels <= source_levels:
        raise InvalidInput(f"levels must lie in 2 .. {source_levels}, got {levels}")
    values = values.long()
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= source_levels):
        raise InvalidInput(
            f"images must hold 0 .. {source_levels - 1}, got {int(values.min())} .. {int(values.max())}: "
            "give source_levels= where the data has another range"
        )
    return values * levels // source_levels


def load(
    path: str | Path, levels: int = 256, *, source_levels: int = 256, test_fraction: float = 0.1, seed: int = 0
) -> Dataset:
    """Read a data set and quantise it.

    Args:
        path: an .npz file (``X_train``, ``y_train``, ``X_test``, ``y_test``, or ``images`` and ``labels``; maps as
            ``s_train`` and ``s_test``, or ``maps``), an idx file
            of images, gzipped or not (labels and test images are looked for beside it, under MNIST's own names), or a
            folder of pictures of one size, where subfolders are classes.
        levels: K; see ``quantise``.
        source_levels: how many values the file's pixels can take.
        test_fraction: how much is held out where the file has no test part, drawn by ``seed``.

    Raises:
        InvalidInput: the path does not exist, is damaged, or holds no images.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidInput(f"there is no data at {path}")
    if path.is_dir():
        parts = _from_folder(path)
    elif path.suffix == ".npz":
        parts = _from_npz(path)
    else:
        parts = _from_idx(path)
    images, labels = _check(path, parts["images"], parts.get("labels"))
    if "test_images" in parts:
        test_images, test_labels = _check(path, parts["test_images"], parts.get("test_labels"))
        if test_images.shape[1:] != images.shape[1:]:
            raise InvalidInput(f"{path}: training images {images.shape[1:]} and test images {test_images.shape[1:]} differ")
        if (labels is None) != (test_labels is None):
            raise InvalidInput(f"{path}: labels are given for only one of the training and test images")
        maps, test_maps = _maps(path, images, parts.get("maps")), _maps(path, test_images, parts.get("test_maps"))
        if (maps is None) != (test_maps is None):
            raise InvalidInput(f"{path}: maps are given for only one of the training and test images")
    else:
        maps = _maps(path, images, parts.get("maps"))
        _, maps, _, test_maps = _split(images, maps, test_fraction, seed)
        images, labels, test_images, test_labels = _split(images, labels, test_fraction, seed)
    return Dataset(
        quantise(images, levels, source_levels),
        labels,
        quantise(test_images, levels, source_levels),
        test_labels,
        levels,
        parts.get("classes", ()),
        maps,
        test_maps,
    )


def _check(path: Path, images: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, Tensor | None]:
    """Images (N, H, W) or (N, H, W, C) as (N, C, H, W), and labels that belong to them."""
    if images.ndim == 4 and images.shape[-1] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim == 3:
        images = images[:, None]
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InvalidInput(f"{path}: images have shape {images.shape}, but (N, H, W), (N, H, W, C) or (N, C, H, W) is needed")
    if not images.size:
        raise InvalidInput(f"{path} holds no images: found shape {images.shape}")
    if images.dtype == np.bool_:
        images = images.astype(np.uint8)
    if not np.issubdtype(images.dtype, np.integer):
        raise InvalidInput(f"{path}: images are {images.dtype}, but integers are needed")
    if labels is None:
        return images, None
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}, but ({len(images)},) integers are needed"
        )
    return images, torch.from_numpy(labels.astype(np.int64))


def _maps(path: Path, images: np.ndarray, maps: np.ndarray | None) -> Tensor | None:
    """Maps (N, rows, columns) or (N, M, rows, columns) as (N, M, rows, columns), integers as int64."""
    if maps is None:
        return None
    if maps.ndim not in (3, 4) or len(maps) != len(images):
        raise InvalidInput(
            f"{path}: maps have shape {maps.shape}, but (N, rows, columns) or (N, M, rows, columns) is needed, "
            f"N = {len(images)}"
        )
    found = torch.from_numpy(maps.astype(np.int64) if np.issubdtype(maps.dtype, np.integer) else maps.astype(np.float32))
    return found.unsqueeze(1) if maps.ndim == 3 else found


def _split(
    images: np.ndarray, labels: Tensor | None, fraction: float, seed: int
) -> tuple[np.ndarray, Tensor | None, np.ndarray, Tensor | None]:
    if not 0 < fraction < 1:
        raise InvalidInput(f"test_fraction must lie between 0 and 1, got {fraction}")
    if len(images) < 2:
        raise InvalidInput("one image cannot be divided into training and test images")
    held = min(max(round(len(images) * fraction), 1), len(images) - 1)
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.sort(order[:held]), np.sort(order[held:])
    if labels is None:
        return images[train], None, images[test], None
    return images[train], labels[torch.from_numpy(train)], images[test], labels[torch.from_numpy(test)]


def _from_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is no readable .npz file: {error}") from error
    parts: dict[str, Any] = {"images": _first(arrays, IMAGE_KEYS), "labels": _first(arrays, LABEL_KEYS)}
    parts["maps"] = _first(arrays, MAP_KEYS)
    if parts["images"] is None:
        raise InvalidInput(f"{path} holds {sorted(arrays)}, but none of {', '.join(IMAGE_KEYS)}")
    test = _first(arrays, TEST_IMAGE_KEYS)
    if test is not None:
        parts |= {"test_images": test, "test_labels": _first(arrays, TEST_LABEL_KEYS)}
        parts["test_maps"] = _first(arrays, TEST_MAP_KEYS)
    return parts | {"classes": tuple(str(name) for name in arrays.get("classes", ()))}


def _first(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _from_idx(path: Path) -> dict[str, Any]:
    parts: dict[str, Any] = {"images": read_idx(path)}
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
    if labels != path and labels.exists():
        parts["labels"] = read_idx(labels)
    if path.name.startswith("train-"):
        test = path.with_name("t10k-" + path.name.removeprefix("train-"))
        if test.exists():
            found = _from_idx(test)
            parts |= {"test_images": found["images"], "test_labels": found.get("labels")}
    return parts


def read_idx(path: str | Path) -> np.ndarray:
    """An idx file of bytes, gzipped or not: 0, 0, 8 (uint8), the number of axes, the sizes (big-endian), the data."""
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    if len(data) < 8 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise InvalidInput(f"{path} is no .npz file, folder, or idx file of bytes (first bytes {data[:4]!r})")
    sizes = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if body.size != int(np.prod(sizes)):
        raise InvalidInput(f"{path} should hold {sizes} bytes, but has {body.size}: it is truncated or damaged")
    return body.reshape(sizes).copy()  # a bytes object's memory cannot be written


def _from_folder(path: Path) -> dict[str, Any]:
    """Pictures of one size; where all stand in subfolders, these are the classes. Grey only where every picture is."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InvalidInput("a folder of pictures needs Pillow: pip install pixelfast[demo]") from error
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise InvalidInput(f"{path} holds no pictures ({', '.join(sorted(PICTURES))})")
    pictures: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise InvalidInput(f"{file} is no readable picture: {error}") from error
        if pictures[-1].shape[:2] != pictures[0].shape[:2]:
            raise InvalidInput(
                f"{file} is {pictures[-1].shape[:2]}, but {files[0]} is {pictures[0].shape[:2]} (rows, columns): "
                "resize or crop the pictures to one size first"
            )
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, 2) for p in pictures]
    parts: dict[str, Any] = {"images": np.stack(pictures)}
    names = [file.relative_to(path).parts[0] for file in files if len(file.relative_to(path).parts) > 1]
    if len(names) == len(files):
        classes = tuple(sorted(set(names)))
        parts |= {"labels": np.array([classes.index(name) for name in names]), "classes": classes}
    return parts
