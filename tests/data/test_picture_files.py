"""What pictures say besides their colours (bits, palettes, transparency, orientation, frames), and which files count."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelfast import DataWarning
from pixelfast.data.dataset import load
from pixelfast.errors import InvalidInput
from pixelfast.pictures import read_given

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
DEEP = (np.arange(35, dtype=np.uint16) * 1900).reshape(7, 5)
RGB = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def images(folder: Path, levels: int | None = None, **options: Any) -> np.ndarray:
    """All images of a folder, in the order of their names, as (N, C, H, W)."""
    return load(folder, levels, test_fraction=0, **options).images.numpy()


def quietly(folder: Path, levels: int | None = None, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        return images(folder, levels, **options)


def png(pixels: np.ndarray, colour_type: int, bits: int = 16) -> bytes:
    """A PNG of 4 bits, or of 16 bits for each colour, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour_type, 0, 0, 0)
    pairs = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2))) if bits == 4 else pixels
    packed = pixels.astype(">u2") if bits == 16 else pairs[:, ::2] * 16 + pairs[:, 1::2]
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, ending: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / f"deep{ending}")
    assert np.array_equal(quietly(tmp_path)[0, 0], DEEP // 256)
    assert np.array_equal(quietly(tmp_path, 16)[0, 0], DEEP // 4096)
    assert np.array_equal(quietly(tmp_path, 65536)[0, 0], DEEP)
    with pytest.raises(InvalidInput, match=r"source_levels=65000 .*source_levels=65536 where all"):  # codes, or a picture
        images(tmp_path, 65000)
    assert np.array_equal(read_given(tmp_path / f"deep{ending}", (3, 7, 5), 16)[0, 2], DEEP // 4096)
    with pytest.raises(InvalidInput, match=r"must be 0 .. 255, got 0 .. 64600: say source_levels=64601"):
        images(tmp_path, source_levels=256)
    Image.fromarray(DEEP // 16).save(tmp_path / f"deep{ending}")  # 12 bits of a camera
    with pytest.raises(InvalidInput, match="source_levels="):
        images(tmp_path)
    assert np.array_equal(quietly(tmp_path, 16, source_levels=4096)[0, 0], DEEP // 4096)
    with pytest.raises(InvalidInput, match="source_levels="):
        read_given(tmp_path / f"deep{ending}", (1, 7, 5), 16)
    assert np.array_equal(read_given(tmp_path / f"deep{ending}", (1, 7, 5), 16, 4096)[0, 0], DEEP // 4096)


def test_deeper_pictures_are_kept_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(DEEP.astype(np.int32)).save(file)
    with pytest.raises(InvalidInput, match="source_levels=65536"):
        images(tmp_path, 16)
    assert np.array_equal(images(tmp_path, 16, source_levels=65536)[0, 0], DEEP // 4096)
    Image.fromarray((DEEP / 65535).astype(np.float32)).save(file)
    for read in (lambda: images(tmp_path), lambda: read_given(file, (1, 7, 5), 16)):
        with pytest.raises(InvalidInput, match=r"a.tif holds floats"):
            read()
    file.unlink()
    for pixels, colour_type in ((DEEP[:, :, None].repeat(3, 2), 2), (DEEP[:, :, None].repeat(4, 2), 6)):
        (tmp_path / "b.png").write_bytes(png(pixels, colour_type))
        with pytest.raises(InvalidInput, match=r"b.png has 16 bits for each colour"):
            images(tmp_path)
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.ppm").write_bytes(b"P6 5 7 65535\n" + DEEP[:, :, None].repeat(3, 2).astype(">u2").tobytes())
    with pytest.raises(InvalidInput, match=r"c.ppm has 16 bits for each colour"):
        images(tmp_path)
    (tmp_path / "c.ppm").unlink()
    (tmp_path / "d.pgm").write_bytes(b"P5 5 7 65535\n" + DEEP.astype(">u2").tobytes())
    assert np.array_equal(quietly(tmp_path)[0, 0], DEEP // 256)


def test_masks_and_labels_stay_what_they_are(tmp_path: Path) -> None:
    Image.fromarray(GREY % 2).save(tmp_path / "a.png")
    with pytest.warns(DataWarning, match="source_levels=2 "):
        assert np.array_equal(images(tmp_path, 2)[0, 0], GREY % 2)
    assert np.array_equal(quietly(tmp_path, 2, source_levels=2)[0, 0], GREY % 2)
    Image.fromarray(GREY % 2 == 1).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    data = load(tmp_path, test_fraction=0)
    assert data.levels == 2
    assert np.array_equal(data.images[0, 0], GREY % 2)
    Image.fromarray(GREY).save(tmp_path / "b.png")  # black and white beside 8 bits
    assert np.array_equal(quietly(tmp_path)[:, 0], [GREY % 2 * 255, GREY])
    (tmp_path / "b.png").unlink()
    Image.fromarray(DEEP).save(tmp_path / "c.png")
    with pytest.raises(InvalidInput, match=r"c.png has pixels of 16 bits, but .*a.png of 1:"):
        images(tmp_path)


def test_four_bits_are_sixteen_values(tmp_path: Path) -> None:
    labels, file = GREY % 10, tmp_path / "a.png"
    file.write_bytes(png(labels, 0, bits=4))
    assert load(tmp_path, test_fraction=0).levels == 16
    assert np.array_equal(quietly(tmp_path)[0, 0], labels)
    assert np.array_equal(quietly(tmp_path, 10, source_levels=10)[0, 0], labels)
    assert np.array_equal(read_given(file, (1, 7, 5), 10, 10)[0, 0], labels)
    assert np.array_equal(quietly(tmp_path, 4)[0, 0], labels // 4)
    assert np.array_equal(quietly(tmp_path, 256)[0, 0], labels * 17)
    assert np.array_equal(read_given(file, (1, 7, 5), 256)[0, 0], labels * 17)
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert np.array_equal(quietly(tmp_path)[:, 0], [labels * 17, GREY])


def test_black_and_white_of_more_levels_are_the_first_and_the_last(tmp_path: Path) -> None:
    Image.fromarray(GREY % 2 == 1).save(tmp_path / "a.png")
    assert np.array_equal(quietly(tmp_path, 4)[0, 0], GREY % 2 * 3)
    assert np.array_equal(read_given(tmp_path / "a.png", (1, 7, 5), 16)[0, 0], GREY % 2 * 15)
    assert np.array_equal(read_given(tmp_path / "a.png", (1, 7, 5), 2)[0, 0], GREY % 2)


def test_grey_pictures_beside_colours_have_three_equal_ones(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "b.png")
    assert np.array_equal(quietly(tmp_path), [np.stack([GREY] * 3), RGB.transpose(2, 0, 1)])


def test_palettes_are_colours_or_indices(tmp_path: Path) -> None:
    labels = GREY % 21
    picture = Image.fromarray(labels, "P")
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "a.png")
    with pytest.warns(DataWarning, match="palette="):
        coloured = images(tmp_path)
    assert np.array_equal(coloured[0], palette[labels].transpose(2, 0, 1))
    assert np.array_equal(quietly(tmp_path, palette="colours"), coloured)
    assert np.array_equal(quietly(tmp_path, 21, palette="indices")[0, 0], labels)
    assert np.array_equal(read_given(tmp_path / "a.png", (3, 7, 5), 256)[0], coloured[0])
    greys = Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE)
    greys.save(tmp_path / "a.png")
    assert np.array_equal(quietly(tmp_path, palette="colours"), GREY[None, None])
    Image.fromarray(GREY).save(tmp_path / "b.png")
    with pytest.raises(InvalidInput, match=r"b.png has no palette"):
        images(tmp_path, palette="indices")
    with pytest.raises(InvalidInput, match="palette must be"):
        images(tmp_path, palette="colors")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_lies_under_clear_pixels_does_not_count(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros((7, 5), np.uint8)
    alpha[2:6] = 255
    alpha[6] = 51
    colours = RGB if mode == "RGBA" else GREY[:, :, None]
    Image.fromarray(np.dstack([colours, alpha]), mode).save(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"a.png is transparent in 43% .*background=.white."):
        images(tmp_path)
    white, black = quietly(tmp_path, background="white")[0], quietly(tmp_path, background="#000000")[0]
    expected = colours.transpose(2, 0, 1)
    assert white.shape == expected.shape
    assert (white[:, :2] == 255).all()
    assert (black[:, :2] == 0).all()
    assert np.array_equal(white[:, 2:6], expected[:, 2:6])
    assert np.array_equal(black[:, 6], np.rint(expected[:, 6] * 0.2))
    assert np.array_equal(white[:, 6], np.rint(expected[:, 6] * 0.2 + 255 * 0.8))
    with pytest.raises(InvalidInput, match="background='whit' is no colour"):
        images(tmp_path, background="whit")
    with pytest.raises(InvalidInput, match="half transparent"):
        read_given(tmp_path / "a.png", (3, 7, 5), 256)
    Image.fromarray(np.dstack([colours, np.full_like(GREY, 255)]), mode).save(tmp_path / "a.png")
    assert np.array_equal(quietly(tmp_path)[0], expected)


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_pictures_stand_as_every_viewer_shows_them(tmp_path: Path, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(quietly(tmp_path)[0, 0], np.rot90(GREY, turns))
    assert np.array_equal(read_given(tmp_path / "a.png", (1, *np.rot90(GREY, turns).shape), 256)[0, 0], np.rot90(GREY, turns))


@pytest.mark.parametrize("ending", [".gif", ".tif", ".png", ".mpo"])
def test_every_frame_is_an_image(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(np.full((7, 5), 80 * i + 20, np.uint8)) for i in range(3)]
    name = "a.jpg" if ending == ".mpo" else f"a{ending}"
    frames[0].save(tmp_path / name, format="MPO" if ending == ".mpo" else None, save_all=True, append_images=frames[1:])
    with pytest.warns(DataWarning, match=r"has 3 frames: each is an image of its own; frames=.first."):
        found = images(tmp_path)
    assert found.shape == (3, 1, 7, 5)
    assert np.abs(found[:, 0, 0, 0] - [20, 100, 180]).max() <= 1
    assert np.array_equal(quietly(tmp_path, frames="all"), found)
    assert np.array_equal(quietly(tmp_path, frames="first"), found[:1])
    with pytest.raises(InvalidInput, match="has 3 frames: save the one"):
        read_given(tmp_path / name, (1, 7, 5), 4)


def put(folder: Path, *names: str) -> None:
    """Pictures of their own grey, in the order of their names."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((7, 5), 255 - 10 * index, np.uint8)).save(folder / name, format="PNG")


def test_hidden_and_foreign_files_do_not_count(tmp_path: Path) -> None:
    put(
        tmp_path, "cat/1.png", "dog/1.PNG", "cat/._1.png", ".ipynb_checkpoints/1.png", "__MACOSX/dog/1.png", "cat/.hidden/1.png"
    )
    for name in (".DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "labels.csv"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "cat/._2.png").write_bytes(b"no picture")
    data = load(tmp_path, test_fraction=0)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert data.images[:, 0, 0, 0].tolist() == [255, 245]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "VALID"), ("train", "val")])
def test_folders_of_a_split_are_its_parts(tmp_path: Path, train: str, test: str) -> None:
    put(tmp_path, *(f"{train}/{name}/{i}.png" for name in ("b", "a") for i in range(3)), f"{test}/b/9.png")
    data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert (len(data.images), len(data.test_images)) == (6, 1)
    assert data.labels is not None
    assert data.test_labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [1]
    assert data.test_images[0, 0, 0, 0] == 255 - 60


def test_a_split_without_classes_and_with_three_parts(tmp_path: Path) -> None:
    put(tmp_path, "train/0.png", "train/1.png", "val/0.png", "test/0.png")
    with pytest.warns(DataWarning, match=r"val is left out: .*test is what is held out"):
        data = load(tmp_path)
    assert data.labels is None
    assert data.test_images[:, 0, 0, 0].tolist() == [255 - 30]
    (tmp_path / "only").mkdir()
    (tmp_path / "train").rename(tmp_path / "only" / "train")
    assert len(load(tmp_path / "only", test_fraction=0.5).images) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "test/b/1.png"], "has the classes b, but .*train has a"),
        (["train/a/1.png", "test/1.png"], "has no class folders"),
        (["train/1.png", "cat/1.png"], r"holds train/ and cat/: a split needs"),
        (["train/1.png", "test/1.png", "2.png"], r"and 2.png: a split needs"),
        (["test/1.png", "val/1.png"], "a split needs one train/"),
        (["train/1.png", "training/1.png"], "a split needs one train/"),
        (["cat/train/1.png", "cat/test/1.png"], "arrange them as test/cat/ instead"),
        (["train_images/1.png", "Test_images/1.png"], "named like the parts of a split: name them train/ and test/"),
        (["train2017/1.png", "val2017/1.png"], r"give the path of one part \(.*train2017\)"),
        (["trainA/1.png", "trainB/1.png", "testA/1.png"], "or rename folders that are classes"),
        (["cat/1.png", "2.png"], r"holds pictures \(2.png\) and folders of pictures \(cat/\)"),
        (["cat/1.png", "dog/notes.txt"], r"dog stands among folders that are classes"),
    ],
)
def test_folders_whose_meaning_is_not_clear_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(InvalidInput, match=message):
        load(tmp_path)


def test_classes_whose_names_begin_like_a_part(tmp_path: Path) -> None:
    put(tmp_path, "train station/1.png", "valley/1.png", "testudo/1.png", "evaporation/1.png")
    assert len(load(tmp_path).classes) == 4


def test_a_picture_that_pillow_cannot_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "3.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InvalidInput, match=r"3.heic is no readable picture"):
        load(tmp_path)
