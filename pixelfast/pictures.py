"""Pictures of integer images: grids, captions, an animation of the drawing; and a picture read as given values.

Needs Pillow. Letters: N images, C channels (1: grey, 3: red, green, blue), H rows, W columns, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .data.picture_files import PictureOptions, pillow, read_frames
from .data.values import deep_enough, quantise, source_levels_of
from .errors import InvalidInput
from .files.access import MAX_BYTES, path_of, write_atomically
from .inputs.arguments import check_type, count_of, sizes_of
from .ir.scan_order import RASTER, Order

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Drawing", "grid", "read_given", "to_rgb"]

PAPER = (206, 214, 228)
"""The colour of gaps, and of what is not drawn yet or not known."""
INK = (40, 44, 52)
TEXT = 12
"""Rows of pixels for a caption."""
TILE = 64
"""Small images are enlarged by the whole number that brings them nearest to so many pixels."""


def to_rgb(images: Tensor | np.ndarray, levels: int) -> np.ndarray:
    """Integers 0 .. K-1 as uint8 (N, H, W, 3), 0 black and K-1 white; a negative value is shown as `PAPER`.

    Args:
        images: (N, C, H, W) or (C, H, W) with C of 1 or 3.
        levels: K, at least 2.

    Raises:
        InvalidInput: images of another shape, or fewer than 2 levels.

    Example:
        >>> pixelfast.pictures.to_rgb(torch.tensor([[[0, 1, -1]]]), levels=2)[0, 0]
        array([[  0,   0,   0],
               [255, 255, 255],
               [206, 214, 228]], dtype=uint8)
    """
    levels = count_of("levels", levels, 2)
    values = np.asarray(images)
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise InvalidInput(
            f"a picture shows images of shape (N, 1, H, W) or (N, 3, H, W), got {values.shape}: save them as .npz instead"
        )
    scaled = np.rint(values.clip(0, levels - 1) * (255.0 / (levels - 1))).astype(np.uint8)
    rgb = np.broadcast_to(scaled, (len(scaled), 3, *scaled.shape[2:])).transpose(0, 2, 3, 1).copy()
    rgb[(values < 0).any(1)] = PAPER
    return rgb


def grid(
    images: Tensor | np.ndarray,
    levels: int,
    *,
    columns: int | None = None,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
    gap: int = 2,
) -> Image:
    """Images side by side, in reading order.

    Args:
        images: integers of 0 .. levels-1, negative where unknown: (N, C, H, W).
        columns: how many stand in a row; by default as many as make the grid nearly square.
        scale: how many pixels wide and high a pixel is shown; by default so that an image is about 64 pixels wide.
        captions: a text for each image, written under it.
        gap: pixels between the images and around them, at least 0.

    Raises:
        InvalidInput: a number is out of range, the picture would be too large, or captions are not as many as images.

    Example:
        >>> images = torch.randint(4, (6, 1, 7, 5))
        >>> picture = pixelfast.pictures.grid(images, levels=4, columns=3, scale=2)
        >>> picture.size  # width and height of 3 x 2 images, with gaps
        (38, 34)
        >>> picture.save("images.png")
    """
    rgb = to_rgb(images, levels)
    for name, value in {"columns": columns, "scale": scale}.items():
        if value is not None:
            count_of(name, value)
    count_of("gap", gap, 0)
    check_type("captions", captions, (list, tuple), "a list of texts")
    count, height, width, _ = rgb.shape
    size = sheet_size(count, height, width, columns=columns, scale=scale, text=captions is not None, gap=gap)
    scale, columns = _fitting(count, height, width, columns, scale)
    if captions is not None and len(captions) != count:
        raise InvalidInput(f"{count} images came with {len(captions)} captions")
    text = 0 if captions is None else TEXT
    step_row, step_col = height * scale + text + gap, width * scale + gap
    if max(size) >= 2**31 or math.prod(size) >= 2**40:
        raise InvalidInput(f"a picture of {size[0]:,} x {size[1]:,} pixels is too large: lower scale=, columns= or gap=")
    sheet = np.full((*size, 3), PAPER, np.uint8)
    corners = [(gap + i // columns * step_row, gap + i % columns * step_col) for i in range(count)]
    for image, (row, col) in zip(rgb, corners, strict=True):
        sheet[row : row + height * scale, col : col + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    picture = pillow().Image.fromarray(sheet)
    if captions is not None:
        foot = [(row + height * scale, col) for row, col in corners]
        _write(picture, captions, foot, width * scale, text)
    return picture


def sheet_size(
    count: int,
    height: int,
    width: int,
    *,
    columns: int | None = None,
    scale: int | None = None,
    text: bool = False,
    gap: int = 2,
) -> tuple[int, int]:
    """Rows and columns of the pixels of a `grid`."""
    scale, columns = _fitting(count, height, width, columns, scale)
    rows = -(-count // columns)
    return rows * (height * scale + TEXT * text + gap) + gap, columns * (width * scale + gap) + gap


def _fitting(count: int, height: int, width: int, columns: int | None, scale: int | None) -> tuple[int, int]:
    return scale or default_scale(height, width), min(columns or math.ceil(math.sqrt(count)), count)


def default_scale(height: int, width: int) -> int:
    """How much an image is enlarged unless one says otherwise."""
    return max(1, round(TILE / max(height, width)))


def _write(picture: Image, captions: Sequence[str], places: Sequence[tuple[int, int]], width: int, height: int) -> None:
    """Each caption in the middle of a box of ``width`` by ``height`` pixels at (row, col); long ones are cut."""
    draw, font = pillow().ImageDraw.Draw(picture), pillow().ImageFont.load_default(10)
    for caption, (row, col) in zip(captions, places, strict=True):
        text = str(caption)
        while len(text) > 1 and draw.textlength(text, font) > width:
            text = text.rpartition(" ")[0].rstrip(" &,") or text[:-1]
        left = col + (width - draw.textlength(text, font)) / 2
        draw.text((left, row + height / 2), text, fill=INK, font=font, anchor="lm")


class Drawing:
    """Records images while they are drawn, as ``on_row=`` of ``Sampler.sample``, and saves an animation of it.

    Only the first batch is recorded, and at most ``most`` of its images. `frames` and `save` raise InvalidInput as long as
    nothing was drawn.

    Args:
        levels: K.
        most: images that are recorded.
        order: of generation.
        options: of `grid`.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> drawing = pixelfast.pictures.Drawing(levels=4)
        >>> images = pixelfast.sample(model, n=4, seed=0, on_row=drawing)
        >>> len(drawing.frames())
        8
        >>> drawing.save("drawing.gif")
    """

    MOST = 64

    def __init__(self, levels: int, most: int = MOST, order: Order = RASTER, **options: Any) -> None:
        self.levels, self.most, self.order, self.options = levels, most, order, options
        self._rows: list[np.ndarray] = []
        self._done = False

    def __call__(self, row: int, images: Tensor) -> None:
        """Row ``row`` of (N, C, H, W) is finished, or line ``row`` of another order."""
        if self._done:
            return
        frame = images[: self.most].numpy().astype(np.int32)
        lines = self.order.reordered(frame, 2)  # a view
        lines[:, :, row + 1 :] = -1
        self._rows.append(frame)
        self._done = row == lines.shape[2] - 1

    def frames(self) -> list[Image]:
        """One grid for each row, after one of blank paper."""
        if not self._rows:
            raise InvalidInput("nothing was drawn yet: pass the Drawing as on_row= of sample first")
        blank = np.full_like(self._rows[0], -1)
        return [grid(values, self.levels, **self.options) for values in (blank, *self._rows)]

    def save(self, path: str | Path, milliseconds: int = 80, pause: int = 2500) -> None:
        """Write an endless GIF: ``milliseconds`` for each row, ``pause`` for the finished images.

        Raises:
            OutputError: the file cannot be written.
        """
        for name, value in {"milliseconds": milliseconds, "pause": pause}.items():
            count_of(name, value, 0)
        place, none = path_of(path), pillow().Image.Dither.NONE
        frames = self.frames()
        colours = frames[-1].quantize(256, dither=none)
        first, *others = (frame.quantize(palette=colours, dither=none) for frame in frames)
        times = [milliseconds] * len(others) + [pause]
        how = {"save_all": True, "append_images": others, "duration": times, "loop": 0, "optimize": True}
        write_atomically(place, lambda part: first.save(part, format="GIF", **how))


def read_given(
    path: str | Path,
    shape: tuple[int, int, int],
    levels: int,
    source_levels: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """A picture as given values: int32 (1, C, H, W) in 0 .. K-1, and -1 where the picture is transparent.

    Its values are quantised as those of training images are: see `pixelfast.data.load`. Where the model is grey, colours become
    their luminance; where it is not, grey is all of its three colours.

    Raises:
        InvalidInput: it is no picture, not of the size H x W, has several frames or half transparent pixels, or leaves open how
            many values its pixels can take.

    Example:
        >>> picture = pixelfast.pictures.grid(torch.randint(2, (1, 1, 7, 5)), levels=2, scale=1, gap=0)
        >>> picture.save("given.png")
        >>> pixelfast.pictures.read_given("given.png", (1, 7, 5), levels=2).shape
        (1, 1, 7, 5)
    """
    channels, height, width = sizes_of(shape)
    frames = list(read_frames(path, PictureOptions(max_bytes=max_bytes)))
    if len(frames) > 1:
        raise InvalidInput(f"{path} has {len(frames)} frames: save the one that is meant as a picture of its own")
    (picture,) = frames
    clear = picture.clear
    (values,), bits = deep_enough([picture.values], picture.bits, levels, source_levels)
    if values.shape[:2] != (height, width) or channels not in (1, 3):
        found = f"{values.shape[0]} x {values.shape[1]}"
        raise InvalidInput(
            f"{path} has {found} pixels, but the model draws images of {channels} x {height} x {width}: crop or "
            "resize it; what `pixelfast sample` writes as an .npz is read back, a sheet of several images is not"
        )
    unknown = np.zeros((height, width), bool) if clear is None else clear == 0
    if clear is not None and ((clear > 0) & (clear < 255)).any():
        raise InvalidInput(f"{path} is half transparent somewhere: a pixel must be opaque (known) or clear (to be drawn)")
    if values.ndim == 3 and channels == 1:
        values = np.asarray(pillow().Image.fromarray(values).convert("L"))
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], channels, 2)
    _, source = source_levels_of(str(path), [values[~unknown]], levels, asked=source_levels, bits=bits)
    given = np.full((height, width, channels), -1, np.int32)
    given[~unknown] = quantise(values[~unknown], levels, source).numpy()
    return np.ascontiguousarray(given.transpose(2, 0, 1)[None])
