"""Reading images: every format gives the same integers, and damaged files are named."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelfast.data.dataset import load, quantise, read_idx
from pixelfast.errors import InvalidInput

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 7, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 7, 5, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_quantise_by_hand() -> None:
    values = torch.tensor([0, 63, 64, 127, 128, 191, 192, 255])
    assert quantise(values, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert quantise(values, 256).tolist() == values.tolist()
    assert quantise(values, 3).tolist() == [v * 3 // 256 for v in values.tolist()]
    assert quantise(torch.arange(17), 17, 17).tolist() == list(range(17))
    assert quantise(values.byte(), 2).dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "levels", "message"),
    [
        (torch.rand(3), 4, "must be integers"),
        (torch.tensor([256]), 4, "must hold 0 .. 255"),
        (torch.tensor([-1]), 4, "must hold 0 .. 255"),
        (torch.tensor([0]), 1, "levels must lie in 2 .. 256"),
        (torch.tensor([0]), 257, "levels must lie in 2 .. 256"),
    ],
)
def test_quantise_refuses(images: torch.Tensor, levels: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        quantise(images, levels)


def test_npz_with_test_part(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    names = np.array(["a", "b", "c"])
    np.savez(file, X_train=RGB[:8], y_train=LABELS[:8], X_test=RGB[8:], y_test=LABELS[8:], classes=names)
    data = load(file, 16)
    assert data.shape == (3, 7, 5)
    assert torch.equal(data.images, torch.from_numpy(RGB[:8].astype(np.int64) // 16).permute(0, 3, 1, 2))
    assert torch.equal(data.test_images, torch.from_numpy(RGB[8:].astype(np.int64) // 16).permute(0, 3, 1, 2))
    assert data.labels is not None
    assert data.labels.tolist() == LABELS[:8].tolist()
    assert data.classes == ("a", "b", "c")
    assert data.levels == 16


def test_split_is_a_partition_and_keyed_by_seed(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, images=GREY, labels=np.arange(12))
    data = load(file, test_fraction=0.25, seed=3)
    assert len(data.test_images) == 3
    assert data.labels is not None
    assert data.test_labels is not None
    assert sorted(data.labels.tolist() + data.test_labels.tolist()) == list(range(12))
    for image, label in zip(data.test_images, data.test_labels, strict=True):
        assert np.array_equal(image[0].numpy(), GREY[label])
    assert load(file, test_fraction=0.25, seed=3).test_labels.tolist() == data.test_labels.tolist()
    assert load(file, test_fraction=0.25, seed=4).test_labels.tolist() != data.test_labels.tolist()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_with_its_labels_and_test_part(tmp_path: Path, ending: str) -> None:
    for name, part in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte{ending}", GREY[part])
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte{ending}", LABELS[part])
    data = load(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert np.array_equal(data.images[:, 0].numpy(), GREY[:8])
    assert np.array_equal(data.test_images[:, 0].numpy(), GREY[8:])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS[:8].tolist()


def test_folder_of_pictures_with_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for index, picture in enumerate(RGB):
        folder = tmp_path / "cba"[index % 3]
        folder.mkdir(exist_ok=True)
        image.fromarray(picture).save(folder / f"{index:02}.png")
    data = load(tmp_path, test_fraction=0.5)
    assert data.classes == ("a", "b", "c")
    assert len(data.images) == len(data.test_images) == 6
    assert data.labels is not None
    every = {picture.tobytes(): "cba"[index % 3] for index, picture in enumerate(RGB)}
    for picture, label in zip(data.images, data.labels, strict=True):
        key = picture.permute(1, 2, 0).numpy().astype(np.uint8).tobytes()
        assert every[key] == data.classes[label]


def test_grey_folder_without_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for index, picture in enumerate(GREY):
        image.fromarray(picture).save(tmp_path / f"{index:02}.png")
    data = load(tmp_path, 2)
    assert data.shape == (1, 7, 5)
    assert data.labels is None
    image.fromarray(GREY[0, :6]).save(tmp_path / "small.png")
    with pytest.raises(InvalidInput, match=r"small.png is \(6, 5\)"):
        load(tmp_path)
    (tmp_path / "small.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match="no readable picture"):
        load(tmp_path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no data"):
        load(tmp_path / "nothing.npz")
    with pytest.raises(InvalidInput, match="holds no pictures"):
        load(tmp_path)
    file = tmp_path / "data.npz"
    np.savez(file, images=GREY)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InvalidInput, match="no readable"):
        load(file)
    idx = tmp_path / "images-idx3-ubyte"
    write_idx(idx, GREY)
    idx.write_bytes(idx.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match="truncated or damaged"):
        read_idx(idx)
    idx.write_bytes(b"hello, world")
    with pytest.raises(InvalidInput, match="folder, or idx file"):
        load(idx)
    packed = tmp_path / "images-idx3-ubyte.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="no readable idx file"):
        load(packed)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": GREY}, r"holds \['pixels'\], but none of"),
        ({"images": GREY[None, None]}, "images have shape"),
        ({"images": GREY[:0]}, "holds no images"),
        ({"images": GREY / 255}, "integers are needed"),
        ({"images": GREY, "labels": LABELS[:5]}, r"\(12,\) integers are needed"),
        ({"X_train": GREY, "X_test": GREY[:, :6]}, "differ"),
        ({"X_train": GREY, "y_train": LABELS, "X_test": GREY}, "only one of"),
        ({"images": np.array([GREY[0], "object"], dtype=object)}, "'images' holds object"),
    ],
)
def test_npz_with_wrong_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InvalidInput, match=message):
        load(tmp_path / "data.npz")


def test_maps_come_with_their_images(tmp_path: Path) -> None:
    maps = RNG.integers(0, 300, (12, 3, 2))
    np.savez(tmp_path / "both.npz", X_train=GREY[:9], X_test=GREY[9:], s_train=maps[:9], s_test=maps[9:])
    found = load(tmp_path / "both.npz")
    assert found.maps is not None
    assert found.maps.dtype == torch.int64
    assert found.maps.shape == (9, 1, 3, 2)
    assert found.test_maps is not None
    assert torch.equal(found.test_maps[:, 0], torch.from_numpy(maps[9:]))
    several = RNG.random((12, 5, 3, 2))
    np.savez(tmp_path / "one.npz", images=np.arange(12, dtype=np.uint8).reshape(12, 1, 1), maps=several)
    found = load(tmp_path / "one.npz", test_fraction=0.25, seed=3)
    for images, part in ((found.images, found.maps), (found.test_images, found.test_maps)):
        assert part is not None
        assert part.dtype == torch.float32
        assert torch.equal(part, torch.from_numpy(several)[images.flatten()].float())
    assert load(tmp_path / "both.npz").labels is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"s_train": np.zeros((12, 2))}, r"maps have shape \(12, 2\)"),
        ({"s_train": np.full((12, 3, 2), "a")}, "maps are <U1, but numbers are needed"),
        ({"s_train": np.zeros((11, 3, 2))}, r"maps have shape \(11, 3, 2\).* N = 12"),
        ({"s_train": np.zeros((12, 3, 2)), "X_test": GREY}, "maps are given for only one of"),
    ],
)
def test_wrong_maps(tmp_path: Path, parts: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", X_train=GREY, **parts)
    with pytest.raises(InvalidInput, match=message):
        load(tmp_path / "data.npz")


def test_split_needs_two_images_and_a_fraction(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=GREY[:1])
    with pytest.raises(InvalidInput, match="one image"):
        load(tmp_path / "one.npz")
    np.savez(tmp_path / "all.npz", images=GREY)
    with pytest.raises(InvalidInput, match="test_fraction"):
        load(tmp_path / "all.npz", test_fraction=1.0)
