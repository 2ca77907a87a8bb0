"""Pictures: every pixel where it belongs, captions, the animation, and a picture read back as given values."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelfast.errors import InvalidInput
from pixelfast.pictures import PAPER, Drawing, default_scale, grid, pillow, read_given, to_rgb


def colours(count: int = 3, levels: int = 5) -> np.ndarray:
    """Images (N, 3, 7, 5) of random values."""
    return np.random.default_rng(0).integers(levels, size=(count, 3, 7, 5))


def test_levels_become_bytes_and_unknown_becomes_paper() -> None:
    rgb = to_rgb(torch.tensor([[[[0, 1, 2, -1]]]]), 3)
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[[[0, 0, 0], [128, 128, 128], [255, 255, 255], list(PAPER)]]]
    assert to_rgb(np.array([[[200]], [[100]], [[255]]]), 256).tolist() == [[[[200, 100, 255]]]]


def test_grid_has_every_pixel_where_it_belongs() -> None:
    images = colours(5)
    sheet = np.asarray(grid(images, 5, columns=2, scale=3, gap=4))
    assert sheet.shape == (3 * (7 * 3 + 4) + 4, 2 * (5 * 3 + 4) + 4, 3)
    expected = np.full(sheet.shape, PAPER, np.uint8)
    for index, image in enumerate(to_rgb(images, 5)):
        row, col = 4 + index // 2 * 25, 4 + index % 2 * 19
        expected[row : row + 21, col : col + 15] = np.kron(image, np.ones((3, 3, 1), np.uint8))
    np.testing.assert_array_equal(sheet, expected)


def test_grid_is_nearly_square_and_small_images_are_enlarged() -> None:
    assert default_scale(28, 28) == 2
    assert default_scale(7, 5) == 9
    assert default_scale(500, 300) == 1
    assert grid(np.zeros((9, 1, 32, 32), int), 2, gap=0).size == (3 * 64, 3 * 64)
    assert grid(np.zeros((3, 1, 32, 32), int), 2, gap=0, columns=100).size == (3 * 64, 64)


def test_captions_are_written_below_and_cut_to_the_width() -> None:
    images = np.zeros((2, 1, 16, 16), int)
    plain = np.asarray(grid(images, 2, scale=4, columns=2))
    sheet = np.asarray(grid(images, 2, scale=4, columns=2, captions=["a long caption of many words", ""]))
    assert sheet.shape == (plain.shape[0] + 12, plain.shape[1], 3)
    np.testing.assert_array_equal(sheet[:66], plain[:66])
    strip = (sheet[66:] != PAPER).any((0, 2))
    assert strip[2:66].any()
    assert not strip[66:].any(), "the caption runs into its neighbour"
    with pytest.raises(InvalidInput, match="2 images came with 1 captions"):
        grid(images, 2, captions=["one"])


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (3, 3), (1, 2, 1, 3, 3)])
def test_images_that_are_no_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"\(N, 1, H, W\) or \(N, 3, H, W\)"):
        grid(np.zeros(shape, int), 2)


def test_drawing_hides_what_is_not_drawn_yet(tmp_path: Path) -> None:
    images = torch.from_numpy(colours(2))
    drawing = Drawing(5, scale=1, columns=2, gap=0)
    for row in range(7):
        rows = images.clone()
        rows[:, :, row + 1 :] = 4  # not valid yet, whatever it holds
        drawing(row, rows)
        rows[:] = 0  # engines use the memory again
    drawing(0, torch.zeros(2, 3, 7, 5))  # the first row of another batch, which is not recorded
    frames = [np.asarray(frame) for frame in drawing.frames()]
    whole = np.asarray(grid(images, 5, scale=1, columns=2, gap=0))
    assert len(frames) == 8
    for row, frame in enumerate(frames):
        np.testing.assert_array_equal(frame[:row], whole[:row])
        assert (frame[row:] == PAPER).all()
    drawing.save(tmp_path / "drawing.gif", milliseconds=50, pause=900)
    with Image.open(tmp_path / "drawing.gif") as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == 8
        assert gif.info["loop"] == 0
        gif.seek(7)
        assert gif.info["duration"] == 900
        np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), whole)


def test_drawing_shows_at_most_so_many_images_and_needs_some() -> None:
    drawing = Drawing(2, most=2, scale=1, gap=0, columns=9)
    with pytest.raises(InvalidInput, match="nothing was drawn yet"):
        drawing.frames()
    drawing(0, torch.ones(5, 1, 1, 3, dtype=torch.uint8))
    assert drawing.frames()[-1].size == (6, 1)


def test_a_picture_is_read_as_given_values(tmp_path: Path) -> None:
    values = np.arange(35, dtype=np.uint8).reshape(7, 5) * 7
    Image.fromarray(values).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_given(tmp_path / "grey.png", (1, 7, 5), 256), values[None, None])
    np.testing.assert_array_equal(read_given(tmp_path / "grey.png", (1, 7, 5), 4), values[None, None] // 64)
    rgba = np.random.default_rng(0).integers(256, size=(7, 5, 4)).astype(np.uint8)
    rgba[:, :, 3] = 255
    rgba[4:, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    given = read_given(tmp_path / "clear.png", (3, 7, 5), 256)
    np.testing.assert_array_equal(given[0, :, :4], rgba[:4, :, :3].transpose(2, 0, 1))
    assert (given[0, :, 4:] == -1).all()


def test_a_picture_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    Image.new("L", (5, 6)).save(tmp_path / "small.png")
    with pytest.raises(InvalidInput, match="6 x 5 pixels, but the model draws images of 1 x 7 x 5"):
        read_given(tmp_path / "small.png", (1, 7, 5), 4)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match="no readable picture"):
        read_given(tmp_path / "broken.png", (1, 7, 5), 4)
    with pytest.raises(InvalidInput, match="no readable picture"):
        read_given(tmp_path / "missing.png", (1, 7, 5), 4)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InvalidInput, match=r'pip install "pixelfast\[demo\]"'):
        pillow()
