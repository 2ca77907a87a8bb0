"""What a file says about its values is taken: levels, types, bits, axes, labels. What it leaves open is asked for."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pixelfast import DataWarning
from pixelfast.data.dataset import load, read_idx
from pixelfast.errors import InvalidInput

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 7, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 3, 7, 5), dtype=np.uint8)


def everything(path: Path, **arrays: Any) -> torch.Tensor:
    """All images of an .npz, in its order, with the options among the arguments that are no arrays."""
    options = {name: arrays.pop(name) for name in ("as_levels", "source_levels", "axes") if name in arrays}
    np.savez(path / "data.npz", **arrays)
    return load(path / "data.npz", options.pop("as_levels", None), test_fraction=0, **options).images


def whole(levels: int, kind: type = np.int64) -> np.ndarray:
    """Images (N, 7, 5) in which each of the values occurs."""
    return np.resize(np.arange(levels), (-(-levels // 35) + 3, 7, 5)).astype(kind)


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint16, np.uint32, np.int8])
@pytest.mark.parametrize("levels", [2, 10, 16, 64, 127, 128])
def test_integers_that_are_levels_stay_what_they_are(tmp_path: Path, kind: type, levels: int) -> None:
    values = whole(levels, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(everything(tmp_path, images=values, as_levels=levels)[:, 0], values)


@pytest.mark.parametrize("levels", [2, 16, 64, 128, 129, 200, 255])
def test_bytes_that_are_levels_stay_what_they_are_and_that_is_said(tmp_path: Path, levels: int) -> None:
    values = whole(levels, np.uint8)
    with pytest.warns(DataWarning, match=f"source_levels={levels} .*source_levels=256"):
        found = everything(tmp_path, images=values, as_levels=levels)
    assert np.array_equal(found[:, 0], values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(everything(tmp_path, images=values, as_levels=levels, source_levels=levels)[:, 0], values)
        dark = everything(tmp_path, images=values, as_levels=levels, source_levels=256)[:, 0]
        assert np.array_equal(dark, values.astype(np.int64) * levels // 256)
        assert np.array_equal(everything(tmp_path, images=values)[:, 0], values)  # of 256 levels, as bytes are
        black = everything(tmp_path, images=np.zeros_like(values), as_levels=levels)
        assert not black.any()


@pytest.mark.parametrize(
    ("values", "levels", "message"),
    [
        (whole(17, np.uint8), 4, "hold 0 .. 16, for 4 levels: say source_levels=256 .*source_levels=17 if none"),
        (whole(17, np.uint8), 16, "source_levels=17"),
        (whole(256), 16, "source_levels=256"),
        (whole(300), 16, "source_levels=65536"),
        (whole(512), 512, "source_levels=512"),
        (whole(4, np.uint8), 512, r"take 256 values, and cannot become 512 levels: say levels=256"),
        (whole(512), None, "source_levels=65536"),
        (whole(256, np.uint8), 512, r"take 256 values, and cannot become 512 levels"),
        (whole(2, bool), 256, r"take 2 values, and cannot become 256 levels"),
        (-whole(4), 4, "got -3 .. 0: add what is missing to 0"),
    ],
)
def test_where_a_type_leaves_the_values_open_the_option_is_named(
    tmp_path: Path, values: np.ndarray, levels: int | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        everything(tmp_path, images=values, as_levels=levels)


def test_what_the_file_says_comes_first(tmp_path: Path) -> None:
    values = whole(4, np.uint8)
    np.savez(tmp_path / "said.npz", images=values, levels=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(tmp_path / "said.npz")
        assert data.levels == 4
        assert torch.equal(torch.cat([data.images, data.test_images]).unique(), torch.arange(4))
        assert load(tmp_path / "said.npz", 2, test_fraction=0).images.unique().tolist() == [0, 1]
    with pytest.raises(InvalidInput, match="says that its pixels take 4 values, but source_levels is 256"):
        load(tmp_path / "said.npz", source_levels=256)
    with pytest.raises(InvalidInput, match=r"take 4 values, and cannot become 16 levels: say levels=4"):
        load(tmp_path / "said.npz", 16)
    with pytest.raises(InvalidInput, match=r"pixels must be 0 .. 2, got 0 .. 3: by its own words .*`levels`=4"):
        everything(tmp_path, images=values, levels=3)
    with pytest.raises(InvalidInput, match="`levels` must be one integer"):
        everything(tmp_path, images=values, levels=[2, 3])
    assert load(tmp_path / "said.npz", source_levels=4).levels == 4


def test_rows_that_have_labels_are_no_single_image(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"shape \(6, 98\): .*if a row is an image, store images.reshape"):
        everything(tmp_path, images=np.zeros((6, 98), np.uint8), labels=np.arange(6))
    assert everything(tmp_path, images=np.full((6, 98), 255, np.uint8), labels=np.array([3])).shape == (1, 1, 6, 98)


def test_booleans_are_two_levels_and_sixteen_bits_are_quantised(tmp_path: Path) -> None:
    np.savez(tmp_path / "masks.npz", images=whole(2, bool))
    data = load(tmp_path / "masks.npz")
    assert data.levels == 2
    assert data.images.unique().tolist() == [0, 1]
    deep = np.resize(np.arange(0, 65536, 1024), (2, 7, 5)).astype(np.uint16)
    with pytest.raises(InvalidInput, match="source_levels=65536"):
        everything(tmp_path, images=deep)
    found = everything(tmp_path, images=deep, as_levels=16, source_levels=65536)
    assert np.array_equal(found[:, 0], deep // 4096)
    with pytest.raises(InvalidInput, match="8 bits, which take 256 values"):
        everything(tmp_path, images=whole(256, np.uint8), source_levels=65536)


def test_integers_of_the_other_byte_order_and_size(tmp_path: Path) -> None:
    for kind in (">u2", ">i4", ">i8", "u8"):
        assert np.array_equal(everything(tmp_path, images=GREY.astype(kind))[:, 0], GREY)
    with pytest.raises(InvalidInput, match=r"got 1 .. 18446744073709551615"):
        everything(tmp_path, images=GREY.astype("u8") - 1 + (GREY > 0), source_levels=256)
    with pytest.raises(InvalidInput, match=r"timedelta64"):
        everything(tmp_path, images=GREY.astype("m8[s]"))


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (np.linspace(0, 1, 35), "np.rint(255 * images).astype(np.uint8)"),
        (np.linspace(-1, 1, 35), "np.rint(127.5 * (images + 1)).astype(np.uint8)"),
        (np.arange(35.0) * 7, "images.astype(np.uint8)"),
        (np.linspace(-2.1, 2.6, 35), "before they were normalised"),
        (np.full(35, np.nan), "NaN"),
    ],
)
def test_floats_are_refused_with_the_line_that_makes_integers(tmp_path: Path, images: np.ndarray, line: str) -> None:
    with pytest.raises(InvalidInput) as error:
        everything(tmp_path, images=images.reshape(1, 7, 5).repeat(4, 0).astype(np.float32))
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("array", "axes", "expected"),
    [
        (GREY, None, GREY[:, None]),
        (RGB, None, RGB),
        (RGB.transpose(0, 2, 3, 1), None, RGB),
        (GREY[0], None, GREY[:1, None]),
        (GREY[:1], None, GREY[:1, None]),
        (RGB[0], "CHW", RGB[:1]),
        (RGB[0].transpose(1, 2, 0), "HWC", RGB[:1]),
        (RGB[0], "NHW", RGB[0][:, None]),
        (RGB[:, :, :, :3], "NCHW", RGB[:, :, :, :3]),
        (RGB[:, :, :, :3], "NHWC", RGB[:, :, :, :3].transpose(0, 3, 1, 2)),
        (RGB[:, :2], "NCHW", RGB[:, :2]),
        (RGB[0], None, "axes=\"NHW\" or axes=\"CHW\""),
        (RGB[0].transpose(1, 2, 0), None, "axes=\"NHW\" or axes=\"HWC\""),
        (GREY[:, :, :1], None, "axes="),
        (RGB[:, :, :, :3], None, "axes=\"NCHW\" or axes=\"NHWC\""),
        (RGB[:, :2], None, "--axes NCHW or NHWC"),
        (GREY.reshape(6, 35), "NHW", r"axes NHW is needed"),
        (np.zeros((60, 784), int), None, 'axes="HW".*if a row is an image, store images.reshape'),
        (np.zeros((60, 3072), int), None, 'axes="HW".*if a row is an image, store images.reshape'),
        (RGB.reshape(18, 35)[:, :16], "HW", RGB.reshape(1, 1, 18, 35)[:, :, :, :16]),
        (GREY, "NWH", "axes must be one of"),
        (RGB[None], None, "is needed"),
    ],
)  # fmt: skip
def test_axes_are_never_misread(tmp_path: Path, array: np.ndarray, axes: str | None, expected: np.ndarray | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(InvalidInput, match=expected):
            everything(tmp_path, images=array, axes=axes)
    else:
        assert np.array_equal(everything(tmp_path, images=array, axes=axes), expected)


def test_labels_and_the_training_part_settle_axes(tmp_path: Path) -> None:
    assert np.array_equal(everything(tmp_path, images=RGB[0], labels=[4, 0, 2])[:, 0], RGB[0])
    np.savez(tmp_path / "both.npz", X_train=GREY, X_test=GREY[:3])
    assert np.array_equal(load(tmp_path / "both.npz").test_images[:, 0], GREY[:3])


def test_an_npy_is_read_as_an_npz_is(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", RGB)
    assert np.array_equal(load(tmp_path / "images.npy", test_fraction=0).images, RGB)
    np.save(tmp_path / "images.npy", GREY[0])
    with pytest.raises(InvalidInput, match="one image cannot be divided"):
        load(tmp_path / "images.npy")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.arange(6)[:, None], list(range(6))),
        (np.arange(6) % 2 == 1, [0, 1] * 3),
        (np.arange(6.0), "store labels.astype"),
        (np.eye(6, dtype=int), "argmax"),
        (np.array(list("abcabc")), "`classes`"),
        (np.arange(6) - 1, "hold -1 .. 4, but must be 0"),
        (np.arange(5), r"\(6,\) integers are needed"),
    ],
)
def test_labels(tmp_path: Path, labels: np.ndarray, expected: list[int] | str) -> None:
    np.savez(tmp_path / "data.npz", images=GREY, labels=labels)
    if isinstance(expected, str):
        with pytest.raises(InvalidInput, match=expected):
            load(tmp_path / "data.npz")
        return
    found = load(tmp_path / "data.npz", test_fraction=0).labels
    assert found is not None
    assert found.tolist() == expected


def test_labels_beyond_the_named_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=GREY, labels=np.arange(6), classes=["a", "b"])
    with pytest.raises(InvalidInput, match=r"must be 0 .. 1, as there are 2 names"):
        load(tmp_path / "data.npz")


@pytest.mark.parametrize(("code", "kind"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx_of_every_type(tmp_path: Path, code: int, kind: str) -> None:
    values = np.arange(2 * 7 * 5).reshape(2, 7, 5).astype(kind)
    file = tmp_path / "images-idx3"
    file.write_bytes(bytes([0, 0, code, 3]) + struct.pack(">3I", 2, 7, 5) + values.tobytes())
    assert np.array_equal(read_idx(file), values)
    if values.dtype.kind == "f":
        with pytest.raises(InvalidInput, match="integers are needed"):
            load(file)
    else:
        assert np.array_equal(load(file, test_fraction=0).images[:, 0], values)
