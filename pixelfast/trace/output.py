"""Output layouts: where in a model's output tensor the parameters of each sub-pixel stand.

A layout is written as a string over N (images), K (parameters of one sub-pixel), C (channels), H (rows), W (columns), with
brackets around axes that are flattened into one: "N(KC)HW" is (N, K*C, H, W) whose channel index is k*C + c. Without C,
there is one channel, or all channels of a pixel share its parameters (`Head.shared`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..distributions.base import Head
from ..errors import AmbiguousLayout, InvalidInput, UnsupportedModel
from ..ir.graph import Graph
from ..ir.scan_order import RASTER
from .convert import Converted
from .index import IMAGES, Places, all_elements, written_out
from .layout_types import PlainLayout
from .nodes.base import Provenance
from .values import Value, constants

LAYOUTS = (
    "NKCHW", "NCHWK", "NCKHW", "NHWCK", "NHWKC", "N(KC)HW", "N(CK)HW", "NHW(CK)", "NHW(KC)", "NKC(HW)", "NCK(HW)",
    "NK(CHW)", "NK(HWC)", "N(KC)(HW)", "N(CK)(HW)", "N(HW)(CK)", "N(HW)(KC)", "N(HWC)K", "N(CHW)K", "(NHW)(CK)",
    "(NHW)(KC)", "(NHW)CK", "(NHW)KC", "(NHWC)K", "(NCHW)K", "NKHW", "NCHW", "NHWK", "NHWC",
    "NHW", "N(CHW)", "N(HWC)", "NK(HW)", "N(HW)K", "(NHW)K",
)  # fmt: skip
"""Layouts that are tried when none is given."""


@dataclass(frozen=True)
class OutputLayout:
    """A layout string with its sizes: reads the parameters (N, H, W, C, P) out of a model's output."""

    text: str
    channels: int
    height: int
    width: int
    parameters: int

    def axes(self) -> list[str]:
        """Groups of letters, one for each axis of the output."""
        return parse(self.text)

    def sizes(self, images: int) -> dict[str, int]:
        return {"N": images, "K": self.parameters, "C": self.channels, "H": self.height, "W": self.width}

    def shape(self, images: int) -> tuple[int, ...]:
        sizes = self.sizes(images)
        return tuple(int(np.prod([sizes[letter] for letter in axis])) for axis in self.axes())

    def read(self, output: Tensor, images: int) -> Tensor:
        """The parameters of every sub-pixel: (N, H, W, C, P), a view where possible; shared ones stand there C times.

        Raises:
            InvalidInput: the output has another shape.
        """
        if tuple(output.shape) != self.shape(images):
            raise InvalidInput(
                f"the model gave an output of shape {tuple(output.shape)} for {images} images; the layout {self.text!r} "
                f"needs {self.shape(images)}"
            )
        sizes = self.sizes(images)
        letters = [letter for axis in self.axes() for letter in axis]
        full = output.reshape([sizes[letter] for letter in letters])
        missing = [letter for letter in "NHWCK" if letter not in letters]
        full = full.reshape(*full.shape, *([1] * len(missing)))
        letters += missing
        return full.permute([letters.index(letter) for letter in "NHWCK"]).expand(-1, -1, -1, self.channels, -1)


def parse(text: str) -> list[str]:
    """Axes of a layout string.

    Raises:
        InvalidInput: the string is no layout.
    """
    axes, group, inside = [], "", False
    for letter in text if isinstance(text, str) else "?":
        if letter == "(" and not inside:
            inside, group = True, ""
        elif letter == ")" and inside and group:
            inside = False
            axes.append(group)
        elif letter in "NKCHW":
            if inside:
                group += letter
            else:
                axes.append(letter)
        else:
            axes = []
            break
    letters = "".join(axes)
    if inside or not axes or len(set(letters)) != len(letters) or not {"N", "H", "W"} <= set(letters):
        raise InvalidInput(
            f"layout {text!r} cannot be read: write one letter for each axis, N images, K parameters, C channels, H rows, W "
            'columns, with brackets around flattened ones, for instance "N(KC)HW"'
        )
    return axes


def candidates(output_shape: tuple[int, ...], images: int, shape: tuple[int, int, int], head: Head) -> list[OutputLayout]:
    """The layouts that fit an output's shape, without those that read the same numbers.

    Raises:
        InvalidInput: none fits.
    """
    channels, height, width = shape
    texts = LAYOUTS if head.layout is None else (head.layout,)
    result: list[OutputLayout] = []
    seen: set[tuple[int, ...]] = set()
    for text in texts:
        layout = OutputLayout(text, channels, height, width, head.parameters)
        letters = "".join(layout.axes())
        if "K" not in letters and head.parameters > 1:
            continue
        if "C" in letters if head.shared else "C" not in letters and channels > 1:
            continue
        if layout.shape(images) != output_shape:
            continue
        view = layout.read(torch.empty(output_shape, device="meta"), images)
        key = tuple(stride for stride, length in zip(view.stride(), view.shape, strict=True) if length > 1)
        if key not in seen:
            seen.add(key)
            result.append(layout)
    if not result:
        asked = f" as the layout {head.layout!r}" if head.layout is not None else ""
        values = int(np.prod(output_shape))
        places, place = (1, "pixel") if head.shared else (channels, "sub-pixel")
        places *= images * height * width
        hint = (
            f"{values} numbers for {places} {place}s make {values // places} parameters each: does the head need "
            f"{f'{values // places} levels' if head.parameters in (1, head.levels) else 'other arguments'}?"
            if values % places == 0 and values // places != head.parameters
            else "check shape= and head="
        )
        raise InvalidInput(
            f"the model's output of shape {output_shape} for {images} images of shape {shape} cannot be read{asked} with "
            f"{head.parameters} parameters for each {place} ({type(head).__name__} head): {hint}"
        )
    return result


def ambiguous(shape: tuple[int, ...], layouts: Sequence[OutputLayout], reason: str) -> AmbiguousLayout:
    """The error for an output that can be read in several layouts."""
    texts = tuple(layout.text for layout in layouts)
    names = " or ".join(f'layout="{text}"' for text in texts)
    return AmbiguousLayout(
        f"the model's output of shape {shape} can be read in {len(texts)} ways, {reason}: pass {names} to the head (N images, "
        "K parameters, C channels, H rows, W columns; brackets join axes that are flattened into one, the slower first). "
        "`pixelfast.check(..., data=images)` scores them",
        texts,
    )


def bind(converted: Converted, layout: OutputLayout) -> Graph:
    """The graph whose outputs are the parameters in a layout.

    Raises:
        UnsupportedModel: the output is no feature map in this layout.
    """
    builder = converted.builder
    output = converted.output

    at = Provenance("output", "")
    if output.numbers is None:  # as in an image of one pixel
        assert output.const is not None
        places = torch.arange(output.const.numel()).view(output.const.shape)
        known = _maps(converted, layout, output.const if output.dynamic is None else places)
        ids = builder.known(at, known, output.dynamic)
    else:
        ids = _maps(converted, layout, output.ids)
    if output.numbers is not None and not all_elements(output.numbers):
        if output.dynamic is not None:
            raise UnsupportedModel("parts of the output depend on the conditions alone, not on the image; not supported")
        const = _maps(converted, layout, constants(output))
        ids = builder.pointwise(at, [Value(ids, const)], [], force=True, layout=PlainLayout(tuple(ids.shape), (0, 1, 2), 0, 0))
    if builder.table.rectangle(ids) is None and _mixes_images(builder.table.places(written_out(ids).numpy())):
        raise UnsupportedModel(f"the layout {layout.text!r} mixes images")
    size = layout.parameters
    outputs = tuple(
        builder.edge_runs(at, ids[..., channel * size : (channel + 1) * size], 0, 0) for channel in range(layout.channels)
    )
    return replace(unbound(converted), outputs=outputs)


def unbound(converted: Converted) -> Graph:
    """The graph without outputs."""
    builder = converted.builder
    return Graph(builder.shape, builder.levels, tuple(builder.nodes), tuple(builder.fields), (), builder.dense_macs)


def elements(converted: Converted, layout: OutputLayout) -> Places | None:
    """The elements (images, rows, cols, C * P) that a layout reads, even where no edges hold them; None: it mixes images."""
    ids = _maps(converted, layout, converted.output.ids)
    places = converted.builder.table.places(written_out(ids).numpy())
    return None if _mixes_images(places) else places


def _maps(converted: Converted, layout: OutputLayout, tensor: Tensor) -> Tensor:
    """A tensor like the output as (images, rows, cols, C * P) of the reordered image."""
    read = layout.read(tensor, IMAGES)
    if converted.order != RASTER:
        read = torch.from_numpy(converted.order.reordered(read.numpy(), 1).copy())
    return read.reshape(*read.shape[:3], layout.channels * layout.parameters)


def _mixes_images(places: Places) -> bool:
    return bool((places.known & (places.image != np.arange(IMAGES).reshape(-1, 1, 1, 1))).any())
