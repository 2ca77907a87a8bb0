"""Live leaves: at which elements of an expression each of its leaves counts.

Where a known mask chooses between two operands, what it does not choose is read and then thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.geometry import Rect
from ..ir.graph import FieldEdge, FieldSpec
from ..ir.program import Op


def live_leaves(leaves: Sequence[object], ops: Sequence[Op], fields: Sequence[FieldSpec], domain: Rect) -> list[np.ndarray]:
    """Where each leaf of an expression over a rectangle counts: bool, broadcast to (F, rows, cols)."""
    live = [np.zeros((1, 1, 1), dtype=bool) for _ in range(len(leaves) + len(ops))]
    live[-1] = ~live[-1]
    for index in reversed(range(len(ops))):
        op, own = ops[index], live[len(leaves) + index]
        condition = known(leaves[op.args[0]], fields, domain) if op.name == "where" and op.args[0] < len(leaves) else None
        for place, arg in enumerate(op.args):
            live[arg] = live[arg] | (own if condition is None or place == 0 else own & ((condition != 0) == (place == 1)))
    return live[: len(leaves)]


def known(leaf: object, fields: Sequence[FieldSpec], domain: Rect) -> np.ndarray | None:
    """The numbers of a leaf over a rectangle, broadcast to (F, rows, cols); None if the image or conditions decide them."""
    if isinstance(leaf, (float, np.ndarray)):
        return np.asarray(leaf).reshape(-1, 1, 1)
    if not isinstance(leaf, FieldEdge) or fields[leaf.field].value is None:
        return None
    spec = fields[leaf.field]
    assert spec.value is not None
    values = spec.value[0, :, :, leaf.channels]  # (F or 1, rows or 1, cols or 1)
    row, col = domain.row0 - spec.row0, domain.col0 - spec.col0
    rows, cols = domain.size
    values = values if values.shape[1] == 1 else values[:, row : row + rows]
    return np.asarray(values if values.shape[2] == 1 else values[:, :, col : col + cols])
