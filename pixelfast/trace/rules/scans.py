"""Rules for recurrences over pixels, which a module gives as one operation (`pixelfast.ops.recurrence`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import NotAutoregressive, UnsupportedModel
from ...ops import StateTap
from ...ops.recurrence import direction
from ..constants import known_tensor
from ..context import Context, rule
from ..index import all_elements, both_images
from ..values import Value
from .products import placed


@rule("lstm_scan")
def lstm_scan(c: Context, target: Any, gates: Value, weights: Value, offsets: list[int], cell: list[int]) -> Value:
    places = list(zip(offsets[::2], offsets[1::2], strict=True))
    before = (cell[0], cell[1])
    sweep = direction([*places, before])
    if sweep is None:
        raise _no_order(c, places, before)
    matrices = known_tensor(c, weights, "a weight", "belongs to a recurrence")
    maps, origin = placed(c, gates)
    if not all_elements(maps) or not c.builder.is_regular(c.at, maps, *origin):
        gates = c.regular(gates)
        maps, origin = placed(c, gates)
    row0, col0, steps = origin
    if steps != (1, 1):
        raise UnsupportedModel(
            f"{c.at}: a recurrence over a map with an element at every {steps[0]} x {steps[1]} pixels only is not supported; "
            'engine="naive" samples such a model, slowly'
        )
    arrays = np.ascontiguousarray(matrices.float().numpy())  # (T, F, 4F)
    taps = [StateTap(row, col, matrix) for (row, col), matrix in zip(places, arrays, strict=True)]
    return Value(both_images(c.builder.scan(c.at, maps, taps, before, sweep, row0, col0)).permute(0, 3, 1, 2))


def _no_order(c: Context, places: list[tuple[int, int]], cell: tuple[int, int]) -> NotAutoregressive:
    late = next((offset for offset in [*places, cell] if offset >= (0, 0)), cell)
    return NotAutoregressive(
        f"not autoregressive: the recurrence at {c.at} reads its own states at the offsets {places} and its cell at {cell} "
        "(rows, columns), of which some are not there yet: rows come from the top, and a row from one side. Read states of "
        "rows above, and of one side of the own row only",
        layer=c.at.layer,
        node=c.at.name,
        offset=late,
    )
