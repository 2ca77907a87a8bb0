"""Check: is a model autoregressive, what does each pixel see, what does sampling cost, and is it fed as it was trained?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .causality.receptive_field import ReceptiveField, receptive_field
from .distributions.base import Head
from .distributions.encoding import Assumed
from .errors import InvalidInput, NotAutoregressive, UnsupportedModel
from .host.boundary import public
from .inputs.arguments import head_of, module_of, order_of, shape_of, values_of
from .inputs.conditions import Conditions
from .ir.scan_order import RASTER, Order
from .pipeline import Analysis, analyse, compile_program
from .readings import Reading, score, text_of, with_reading
from .trace.capture import accepted_reading, frozen_copy

SHOWN = 10
"""Readings that a report prints."""


@dataclass(frozen=True)
class Report:
    """What `check` found; print it to read it.

    Attributes:
        name: class of the model.
        shape: (C, H, W).
        leak: the error that names where the model sees what it predicts; None if it is autoregressive.
        unscheduled: why an autoregressive model still cannot be sampled fast; None if it can.
        layout: how the output was read; "" if tracing did not get that far.
        field: the receptive field of a pixel in the middle; None if tracing did not get that far.
        steps: how many dependent steps an image takes; 0 if it cannot be sampled.
        macs: multiply-adds of sampling one image.
        dense_macs: multiply-adds of one forward of the module over one image.
        order: of generation.
        encode: how values enter, for reading; "" if tracing did not get that far.
        assumed: nobody said how values enter.
        levels: K.
        readings: with ``data=``, all ways to feed and to read the model that run and are autoregressive, with their bits/dim on
            these images, the best one first.
    """

    name: str
    shape: tuple[int, int, int]
    leak: NotAutoregressive | None
    unscheduled: UnsupportedModel | None = None
    layout: str = ""
    field: ReceptiveField | None = None
    steps: int = 0
    macs: int = 0
    dense_macs: int = 0
    order: str = RASTER.name
    encode: str = ""
    assumed: bool = False
    levels: int = 0
    readings: tuple[Reading, ...] = ()

    @property
    def best(self) -> Reading | None:
        """The way to feed and to read the model that scores best: pass its `encode` and `layout` to the head."""
        return self.readings[0] if self.readings else None

    @property
    def used(self) -> Reading | None:
        """What the head says, or what is assumed where it says nothing; None if the model does not run so."""
        return next((reading for reading in self.readings if reading.in_use), None)

    @property
    def misread(self) -> bool:
        """Whether another way clearly scores better than the one in use, or that one does not even run."""
        if not self.readings:
            return False
        return self.used is None or self.readings[0].clearly_better(self.used)

    @property
    def autoregressive(self) -> bool:
        return self.leak is None

    @property
    def blind_spot(self) -> np.ndarray:
        """Earlier pixels within the receptive field's extent that the middle pixel does not see: bool (H, W)."""
        return np.zeros(self.shape[1:], dtype=bool) if self.field is None else self.field.blind_spot

    def picture(self, scale: int = 8) -> np.ndarray:
        """The receptive field as an RGB image, uint8 (H * scale, W * scale, 3).

        Red: the predicted pixel; blue: what it sees; orange: its blind spot; grey: the rest.
        """
        if self.field is None:
            raise InvalidInput("there is no receptive field to draw: the model could not be traced")
        grid = np.full((*self.shape[1:], 3), 225, dtype=np.uint8)
        grid[self.field.pixels] = (70, 120, 200)
        grid[self.blind_spot] = (240, 150, 40)
        grid[self.field.row, self.field.col] = (200, 40, 40)
        big = grid.repeat(scale, 0).repeat(scale, 1)
        if scale > 2:
            big[::scale], big[:, ::scale] = 255, 255
        return big

    def __str__(self) -> str:
        channels, height, width = self.shape
        lines = [f"{self.name} over {channels} x {height} x {width} images"]
        if self.leak is None and self.field is None:
            lines.append("autoregressive: not proven; other values of later sub-pixels changed no prediction in a few trials")
        elif self.leak is None:
            lines.append("autoregressive: yes")
        else:
            lines.append(f"autoregressive: NO, {str(self.leak).removeprefix('not autoregressive: ')}")
        if self.unscheduled is not None:
            lines.append(f"fast sampling: no, {self.unscheduled}")
        if self.order != RASTER.name:
            lines.append(f"order of generation: {self.order}")
        if self.layout:
            lines.append(f"output layout: {self.layout}")
        if self.assumed and not self.readings:
            lines.append(
                f"values enter as encode={self.encode}, which was assumed: data= (--data) scores all encodings on images"
            )
        if self.readings:
            lines += self._scores()
        if self.macs:
            share = self.macs / max(self.dense_macs, 1)
            lines.append(f"steps: {self.steps} for an image")
            lines.append(f"multiply-adds for an image: {self.macs:,} ({share:.2f} of the {self.dense_macs:,} of one forward)")
        if self.field is not None:
            up, left, right = self.field.extent
            blind = int(self.blind_spot.sum())
            down = f", {self.field.down} down" if self.field.down else ""
            lines.append(f"receptive field: {up} rows up{down}, {left} columns to the left, {right} to the right")
            lines.append(f"blind spot: {f'{blind} pixels' if blind else 'none'}")
            lines.append(f"what pixel ({self.field.row}, {self.field.col}) sees (@ itself, # seen, o blind spot):")
            lines.append(self.field.picture())
        return "\n".join(lines)

    def _scores(self) -> list[str]:
        """The table of readings, and what follows from it."""
        best, used, knows_nothing = self.readings[0], self.used, math.log2(self.levels)
        source = "was assumed" if self.assumed else "the head says"
        shown = [*self.readings[:SHOWN], *([used] if used is not None and used not in self.readings[:SHOWN] else [])]
        lines = [f"bits/dim on {len(best.each)} images, by how values enter and how the output is read:"]
        lines += [
            f"{reading.bits:10.4f}  encode={reading.text}, layout {reading.layout}" + f" <- what {source}" * reading.in_use
            for reading in shown
        ]
        left = len(self.readings) - len(shown)
        lines += [f"            and {left} others that score worse"] if left else []
        if used is None:
            lines.append(f"encode={self.encode}, which {source}, does not run or leaks: pass encode={best.text} to the head")
        elif self.misread:
            lines.append(
                f"encode={best.text}, layout {best.layout} scores clearly better than what {source}, encode={used.text}, "
                f"layout {used.layout}: pass it to the head, or images are wrong"
                + ("" if self.assumed else ", unless it was trained so and is not done yet")
            )
        else:
            lines.append(f"none scores clearly better than what {source}, encode={used.text}")
        if best.bits >= knows_nothing:
            lines.append(
                f"but a model that knows nothing has {knows_nothing:.4f}: this one is not trained, or on other images, "
                "or takes its inputs in a way that is not listed"
            )
        return lines


@public
def check(
    model: nn.Module,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    *,
    cond: Any = None,
    order: str | None = None,
    data: Tensor | np.ndarray | None = None,
) -> Report:
    """Trace a model and report whether it is autoregressive, what its pixels see and what sampling costs.

    Args:
        data: integer images (N, C, H, W) such as the model was trained on. The first of them, 64 at most, are scored in
            bits/dim with every encoding and every layout in which the model runs and is autoregressive: a trained model
            finds its images far more probable if they enter as they did in training. ``cond`` then belongs to these images. A
            model that cannot be traced, and is sampled by the naive engine, is scored as well.
        shape: as that of `pixelfast.compile`; of a model that does not say it, that of ``data``.
        model, head, cond, order: as those of `pixelfast.compile`.

    Returns:
        A `Report`; print it to read it. A model that leaks is no error here: the report says where.

    Raises:
        InvalidInput, UnsupportedModel, NumericalError: the model could not be traced; each says why.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> report = pixelfast.check(model)
        >>> report.autoregressive, report.steps, report.layout
        (True, 35, 'NKCHW')
    """
    module_of(model)
    if shape is None and getattr(model, "shape", None) is None and len(getattr(data, "shape", ())) == 4:
        shape = tuple(data.shape[1:])  # type: ignore[union-attr,assignment]
    size, distribution = shape_of(model, shape), head_of(model, head)
    drawn = order_of(model, order)
    distribution.table(size)  # refuses a wrong encoding before anything else happens
    values = None if data is None else torch.from_numpy(values_of("data", data, size, distribution.levels)).long()
    module = frozen_copy(model)
    meant = Conditions.parse(cond).readings(None if values is None else len(values))
    conditions = meant[accepted_reading(module, distribution, size, meant)]
    known: dict[str, Any] = {"order": drawn.name, "assumed": isinstance(distribution.encode, Assumed)}
    known |= {"encode": text_of(distribution.encode), "levels": distribution.levels}
    readings: tuple[Reading, ...] = ()
    if values is not None:
        if not len(values):
            raise InvalidInput("data= holds no images")
        conditions.check(len(values))
        readings = score(module, size, distribution, conditions, drawn, values)
    report = partial(Report, type(model).__name__, size, readings=readings)
    try:
        analysis, distribution = _analysed(module, size, distribution, conditions, drawn, readings)
    except NotAutoregressive as error:
        return report(error, **known)
    except UnsupportedModel as error:
        if not readings:
            raise
        return report(None, error, **known)
    field = receptive_field(analysis.graph, size[1] // 2, size[2] // 2, drawn)
    known |= {"layout": analysis.layout.text, "field": field, "dense_macs": analysis.graph.dense_macs}
    try:
        program = compile_program(analysis, distribution).program
    except NotAutoregressive as error:
        return report(error, **known)
    except UnsupportedModel as error:
        return report(None, error, **known)
    busy = sum(1 for step in program.steps if step)
    return report(None, steps=size[1] * size[2] * max(busy, 1), macs=program.macs, **known)


def _analysed(
    module: nn.Module,
    shape: tuple[int, int, int],
    head: Head,
    conditions: Conditions,
    order: Order,
    readings: tuple[Reading, ...],
) -> tuple[Analysis, Head]:
    """The analysis, and its head: the given one, or where that leaves something open, as the reading in use or the best is."""
    try:
        return analyse(module, shape, head, conditions, order), head
    except (InvalidInput, UnsupportedModel):
        if not readings:
            raise
    head = with_reading(head, next((reading for reading in readings if reading.in_use), readings[0]))
    return analyse(module, shape, head, conditions, order), head
