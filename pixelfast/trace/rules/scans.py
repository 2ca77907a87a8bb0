"""Rules for recurrences over pixels, which a module gives as one operation (`pixelfast.ops.recurrence`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from ...errors import NotAutoregressive, UnsupportedModel
from ...ops import StateTap
from ...ops.recurrence import direction
from ..constants import known_tensor
from ..index import all_elements, both_images
from ..values import Value
from .products import placed

if TYPE_CHECKING:
    from ..convert import Converter


def lstm_scan(c: Converter, target: Any, gates: Value, weights: Value, offsets: list[int], cell: list[int]) -> Value:
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


def refuse_loops(c: Converter, node: fx.Node) -> None:
    """Refuse what PyTorch's recurrent layers become when they are traced, at the first operation that the image enters.

    Each of their steps is traced by itself, at an element of its own: thousands of operations, of which none says that they are
    one recurrence. A cell that is called once is no loop.
    """
    for call, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        module, _, name = str(kind).rpartition(".")
        if module == "torch.nn.modules.rnn" and (name in ("RNN", "LSTM", "GRU") or "@" in call):
            layer = path.removeprefix("module").removeprefix(".")
            raise UnsupportedModel(
                f"the layer {layer!r} (nn.{name}) runs over the pixels step by step, which is not supported: "
                'write an LSTM over pixels with pixelfast.lstm_scan, which is one operation; engine="naive" samples it, slowly'
            )


def _no_order(c: Converter, places: list[tuple[int, int]], cell: tuple[int, int]) -> NotAutoregressive:
    late = next((offset for offset in [*places, cell] if offset >= (0, 0)), cell)
    return NotAutoregressive(
        f"not autoregressive: the recurrence at {c.at} reads its own states at the offsets {places} and its cell at {cell} "
        "(rows, columns), of which some are not there yet: rows come from the top, and a row from one side. Read states of "
        "rows above, and of one side of the own row only",
        layer=c.at.layer,
        node=c.at.name,
        offset=late,
    )
