"""Picture files as integers: what a file says about its pixels is kept, or refused by name. Needs Pillow.

Kept are the bits of a picture (1, 2, 4, 8 or 16), one channel where it is grey, its orientation (EXIF), its palette, its
transparency and all of its frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataWarning, InvalidInput
from ..files.access import MAX_BYTES, opened
from ..host.locks import Lock
from ..inputs.announce import announce
from .values import widened

PICTURES = {
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
"""Endings of what is taken for a picture; one that Pillow cannot read is an error, and is not passed over."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
"""What a file may be, whatever its name. Pillow knows others, for one of which (EPS) it runs a program."""

_LIMIT = Lock()
"""Pillow keeps its limit in a global."""

PALETTES, FRAMES = ("colours", "indices"), ("all", "first")
COLOURS = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True)
class PictureOptions:
    """What a picture leaves open.

    Args:
        background: the colour behind transparent pixels, as Pillow writes colours ("white", "#ffcc00"); None refuses them.
        palette: "colours" of a palette's entries, or their "indices", as label maps mean it; None: colours, with a warning.
        frames: "all" frames of a file are images of their own, or only its "first"; None: all, with a warning.
        max_bytes: what all pictures together may open to.
    """

    background: str | None = None
    palette: str | None = None
    frames: str | None = None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        for name, known in (("palette", PALETTES), ("frames", FRAMES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InvalidInput(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")


@dataclass(frozen=True)
class Picture:
    """One frame of a file.

    Attributes:
        file: where it lies.
        place: the file, and the number of the frame where there are several.
        values: integers (H, W), or uint8 (H, W, 3).
        bits: of a value, by the format: 1, 2, 4, 8 or 16; 0 where any number fits.
        clear: uint8 (H, W), 0 where transparent and 255 where opaque; None where all of it is opaque.
        palette: values are colours that a palette gives, which are not its indices.
    """

    file: Path
    place: str
    values: np.ndarray
    bits: int = 8
    clear: np.ndarray | None = None
    palette: bool = False


def pillow() -> Any:
    """The module ``PIL``, with what is used of it, or InvalidInput that says how to get it."""
    try:
        import PIL.Image
        import PIL.ImageColor
        import PIL.ImageDraw
        import PIL.ImageFont
        import PIL.ImageOps
    except ImportError as error:
        raise InvalidInput('pictures need Pillow: pip install "pixelfast[demo]"') from error
    return PIL


def read_pictures(files: Sequence[Path], options: PictureOptions) -> list[Picture]:
    """All frames of all files, on the background. Warns of what the options leave open.

    Raises:
        InvalidInput: a file is no readable picture, or holds what cannot be kept.
    """
    result: list[Picture] = []
    several = ""
    for file in files:
        before = len(result)
        frames = read_frames(file, options, len(files), sum(picture.values.nbytes for picture in result[:1]) * len(result))
        for picture in frames:
            result.append(on_background(picture, options.background))
            if options.frames == "first":
                break
        if len(result) - before > 1 and not several:
            several = f"{file.name} has {len(result) - before} frames"
    if several and options.frames is None:
        text = f'{several}: each is an image of its own; frames="first" (--frames first) takes the first one only'
        announce(text, DataWarning)
    coloured = [picture.place for picture in result if picture.palette]
    if coloured and options.palette is None:
        announce(
            f"{len(coloured)} pictures have a palette, {coloured[0]} for instance, and its colours are taken: a label map is "
            'read by palette="indices" (--palette indices); palette="colours" says that colours are meant',
            DataWarning,
        )
    return result


def read_frames(file: str | Path, options: PictureOptions, files: int = 1, read: int = 0) -> Iterator[Picture]:
    """The frames of one file, one by one.

    Args:
        files: how many files there are, which are all of one size.
        read: how many bytes of pictures there are before this one.

    Raises:
        InvalidInput: it is no readable picture, or has floats, 16-bit colours, or no palette where indices are asked for; or
            there are more pixels than ``options.max_bytes``.
    """
    image = pillow().Image
    image.init()
    formats = [name for name in FORMATS if name in image.OPEN]
    with opened(file, "picture", options.max_bytes) as source:
        try:
            with _own_limit(image):
                picture = image.open(source.handle, formats=formats)
        except image.UnidentifiedImageError as error:
            raise InvalidInput(f"{file} is no readable picture: it is damaged, or none of {', '.join(formats)}") from error
        with picture:
            count = getattr(picture, "n_frames", 1)
            kept = 1 if options.frames == "first" else count
            for frame in range(kept):
                picture.seek(frame)
                width, height = picture.size
                size = 3 * width * height
                source.allow(8 * size, f"a picture of {width} x {height} pixels")  # its numbers become int64
                source.allow(max(read + size * kept, size * files), f"{max(files, kept)} pictures of {width} x {height} pixels")
                place = str(file) if count == 1 else f"{file} (frame {frame})"
                yield _frame(Path(file), place, picture, options)


@contextmanager
def _own_limit(image: Any) -> Iterator[None]:
    """Pillow measures pictures by a limit of its own, which no option of ours would raise; ours is checked right afterwards."""
    with _LIMIT:
        theirs, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            image.MAX_IMAGE_PIXELS = theirs


def _frame(file: Path, place: str, opened: Any, options: PictureOptions) -> Picture:
    """The frame at which a file stands."""
    tile = opened.tile[0] if opened.tile else ("", None, 0, "")  # how its pixels lie in the file; loading forgets it
    stored = str(tile[3])
    picture = pillow().ImageOps.exif_transpose(opened)
    mode = picture.mode
    if (";16" in stored or (tile[0] == "ppm" and int(tile[3][1]) > 255)) and not mode.startswith("I"):
        raise InvalidInput(f"{place} has 16 bits for each colour, of which Pillow drops 8: convert it to 8 bits or 16-bit grey")
    if mode == "F":
        raise InvalidInput(
            f"{place} holds floats, whose range no file says: store integers, for instance "
            "Image.fromarray((x * 255).round().astype('uint8')) where x lies in 0 .. 1, or an .npz with `images` and `levels`"
        )
    if options.palette == "indices":
        if mode != "P":
            raise InvalidInput(f'{place} has no palette (its mode is {mode}), but palette="indices" asks for its indices')
        return Picture(file, place, np.asarray(picture).astype(np.int64), 0)
    clear = _clear(picture)
    if mode in ("1", "L") or mode.startswith("I"):
        return _grey(Picture(file, place, np.asarray(picture), clear=clear), mode, stored, tile[0] == "ppm")
    if mode in ("LA", "La"):
        return Picture(file, place, np.asarray(picture.convert("LA"))[:, :, 0], clear=clear)
    rgb = np.asarray(picture.convert("RGBA" if mode in ("RGBA", "RGBa", "PA") or clear is not None else "RGB"))[:, :, :3]
    if mode not in COLOURS or opened.format == "GIF":  # of a palette; a GIF's later frames come without one
        indices = np.asarray(picture) if mode == "P" else None
        grey = bool((rgb == rgb[:, :, :1]).all())
        rgb = rgb[:, :, 0] if grey else rgb
        same = opened.format == "GIF" or (grey and indices is not None and bool((rgb == indices).all()))
        return Picture(file, place, rgb, clear=clear, palette=not same)
    return Picture(file, place, rgb, clear=clear)


def _grey(picture: Picture, mode: str, stored: str, scaled: bool) -> Picture:
    """Grey pixels with their bits. Pillow widens 2 and 4 bits to bytes, and values of a PGM above 255 (`scaled`) to 16 bits."""
    pixels = picture.values
    few = re.fullmatch(r"L;([24])I?", stored)
    if mode == "1":
        return replace(picture, values=pixels.astype(np.uint8), bits=1)
    if few is not None and picture.clear is None:
        bits = int(few[1])
        return replace(picture, values=pixels // (255 // (2**bits - 1)), bits=bits)
    if mode == "L":
        return picture
    deep = scaled or mode != "I" or "I;16" in stored
    return replace(picture, values=pixels.astype(np.uint16 if deep else np.int64), bits=16 if deep else 0)


def _clear(picture: Any) -> np.ndarray | None:
    """How opaque each pixel is, uint8 (H, W), or None if all of them are."""
    if not (picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info):
        return None
    alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
    return None if (alpha == 255).all() else alpha


def on_background(picture: Picture, background: str | None) -> Picture:
    """The picture without transparency: round((a v + (255 - a) b) / 255) for a pixel v of opacity a before a colour b.

    Raises:
        InvalidInput: it is transparent somewhere and there is no background, or that is no colour.
    """
    if picture.clear is None:
        return picture
    if background is None:
        part = float((picture.clear < 255).mean())
        raise InvalidInput(
            f"{picture.place} is transparent in {part:.0%} of its pixels: say what stands behind them, for instance "
            'background="white" (--background white)'
        )
    if picture.bits != 8:
        raise InvalidInput(f"{picture.place} has transparent pixels and {picture.bits} bits: flatten it first")
    grey = picture.values.ndim == 2
    try:
        colour = np.asarray(pillow().ImageColor.getcolor(background, "L" if grey else "RGB"))
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInput(f"background={background!r} is no colour: write one like white, black or #ffcc00") from error
    opacity = picture.clear.astype(np.int64) if grey else picture.clear.astype(np.int64)[:, :, None]
    mixed = (2 * (opacity * picture.values + (255 - opacity) * colour) + 255) // 510
    return replace(picture, values=mixed.astype(np.uint8), clear=None)


def stacked(pictures: Sequence[Picture]) -> tuple[np.ndarray, int]:
    """Pictures of one size as one array (N, H, W) or (N, H, W, 3), and its bits: grey only where every picture is.

    Where some have more bits than others, up to 8, all become bytes.

    Raises:
        InvalidInput: two of them differ in size, or in bits where some have more than 8.
    """
    first = pictures[0]
    for picture in pictures:
        if picture.values.shape[:2] != first.values.shape[:2]:
            raise InvalidInput(
                f"{picture.place} is {picture.values.shape[:2]}, but {first.place} is {first.values.shape[:2]} (rows, columns)"
                ": resize or crop the pictures to one size first"
            )
    coloured = any(picture.values.ndim == 3 for picture in pictures)
    bits = first.bits if len({picture.bits for picture in pictures}) == 1 and not coloured else 8
    other = next((picture for picture in pictures if picture.bits not in (1, 2, 4, 8)), None)
    if other is not None and bits == 8:
        eight = next(picture for picture in pictures if picture.bits in (1, 2, 4, 8))
        raise InvalidInput(
            f"{other.place} has pixels of {other.bits or 'more than 16'} bits, but {eight.place} of {eight.bits}: convert the "
            "pictures to one depth first"
        )
    arrays = [widened(picture.values, picture.bits) if bits == 8 else picture.values for picture in pictures]
    if coloured:
        arrays = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, 2) for array in arrays]
    return np.stack(arrays), bits
