"""Check: is a model autoregressive, what does each pixel see, and what does sampling it cost?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from .arguments import head_of, module_of, order_of, shape_of
from .conditions import Conditions
from .ending import leaves_at_exit
from .errors import InvalidInput, NotAutoregressive, UnsupportedModel
from .heads import Head
from .order import RASTER
from .pipeline import analyse, compile_program
from .schedule.reach import ReceptiveField, receptive_field
from .trace.capture import frozen_copy


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
        if self.leak is None:
            lines.append("autoregressive: yes")
        else:
            lines.append(f"autoregressive: NO, {str(self.leak).removeprefix('not autoregressive: ')}")
        if self.unscheduled is not None:
            lines.append(f"fast sampling: no, {self.unscheduled}")
        if self.order != RASTER.name:
            lines.append(f"order of generation: {self.order}")
        if self.layout:
            lines.append(f"output layout: {self.layout}")
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


@leaves_at_exit
def check(
    model: nn.Module,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    *,
    cond: Any = None,
    order: str | None = None,
) -> Report:
    """Trace a model and report whether it is autoregressive, what its pixels see and what sampling costs.

    The arguments are those of `pixelfast.compile`.

    Raises:
        InvalidInput, UnsupportedModel, NumericalError: the model could not be traced; each says why.
    """
    module_of(model)
    size, distribution = shape_of(model, shape), head_of(model, head)
    drawn = order_of(model, order)
    name = type(model).__name__
    try:
        analysis = analyse(frozen_copy(model), size, distribution, Conditions.parse(cond), drawn)
    except NotAutoregressive as error:
        return Report(name, size, error, order=drawn.name)
    field = receptive_field(analysis.graph, size[1] // 2, size[2] // 2, drawn)
    known = {"layout": analysis.layout.text, "field": field, "dense_macs": analysis.graph.dense_macs, "order": drawn.name}
    try:
        program = compile_program(analysis, distribution).program
    except NotAutoregressive as error:
        return Report(name, size, error, **known)  # type: ignore[arg-type]
    except UnsupportedModel as error:
        return Report(name, size, None, error, **known)  # type: ignore[arg-type]
    busy = sum(1 for step in program.steps if step)
    steps = size[1] * size[2] * max(busy, 1)
    return Report(name, size, None, steps=steps, macs=program.macs, **known)  # type: ignore[arg-type]
