"""Recurrences: an LSTM over the pixels of an image, each state from states of pixels before it, as one operation.

    o, f, i, g = gates + sum over taps of weights[tap]^T · state[tap],   sigmoid(o, f, i), tanh(g)
    cell = f . cell[before] + i . g,   state = o . tanh(cell)

Taps, and the cell before, stand at (row, column) offsets from the pixel; outside the image states and cells are 0. Rows come
from the top. Offsets on rows above leave all columns of a row independent; an offset (0, -1) makes the row run from left to
right, (0, +1) from right to left.

A Python loop over pixels unrolls into thousands of operations when a model is traced, and nothing says that they are one
recurrence. While a module is exported, `lstm_scan` is therefore a single operator, which the tracer knows.

Letters: N images, F states of a pixel, T taps, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, library
from torch.nn import functional as F

from ..errors import InvalidInput

Offset = tuple[int, int]


def lstm_scan(gates: Tensor, weights: Tensor, offsets: Sequence[Offset], cell: Offset) -> Tensor:
    """The states (N, F, H, W) of an LSTM over pixels; gradients flow to gates and weights.

    Args:
        gates: what the input gives to the gates o, f, i, g, in this order: (N, 4F, H, W).
        weights: of the taps: (T, F, 4F), from state to gates.
        offsets: (row, column) of the T taps, seen from the pixel.
        cell: (row, column) of the cell before.

    Raises:
        InvalidInput: the shapes do not fit, or no order of the pixels computes each state after those that it reads.

    Example:
        >>> gates, weights = torch.randn(2, 4 * 3, 7, 5), torch.randn(2, 3, 4 * 3)
        >>> pixelfast.lstm_scan(gates, weights, offsets=[(-1, 0), (0, -1)], cell=(0, -1)).shape
        torch.Size([2, 3, 7, 5])
    """
    features = gates.shape[1] // 4
    if gates.dim() != 4 or weights.shape != (len(offsets), features, 4 * features) or gates.shape[1] != 4 * features:
        raise InvalidInput(
            f"lstm_scan needs gates (N, 4F, H, W) and weights (T, F, 4F) for T offsets: got {tuple(gates.shape)}, "
            f"{tuple(weights.shape)} and {len(offsets)} offsets"
        )
    if torch.compiler.is_exporting():
        flat = [number for offset in offsets for number in offset]
        return _operator(gates, weights, flat, list(cell))
    if direction([*offsets, cell]) is None:
        raise InvalidInput(
            f"lstm_scan cannot read states at the offsets {list(map(tuple, offsets))} and the cell at {tuple(cell)}: rows come "
            "from the top, so that a state may read rows above and one side of its own row: (row, column) with row < 0, or "
            "(0, column) with all columns below 0 or all above. Flip the image for another order"
        )
    return _scan(gates, weights, offsets, cell)


def direction(offsets: Sequence[Offset]) -> int | None:
    """The order of a row's columns: 0: any, 1: from the left, -1: from the right; None: what is read is not there yet."""
    beside = {1 if col < 0 else -1 if col > 0 else 0 for row, col in offsets if row == 0}
    if any(row > 0 for row, _ in offsets) or 0 in beside or len(beside) > 1:
        return None
    return beside.pop() if beside else 0


@library.custom_op("pixelfast::lstm_scan", mutates_args=())
def _operator(gates: Tensor, weights: Tensor, offsets: Sequence[int], cell: Sequence[int]) -> Tensor:
    """`lstm_scan` with the offsets one after another: row, column, row, column, .."""
    return _scan(gates, weights, list(zip(offsets[::2], offsets[1::2], strict=True)), (cell[0], cell[1]))


@_operator.register_fake
def _(gates: Tensor, weights: Tensor, offsets: Sequence[int], cell: Sequence[int]) -> Tensor:
    return gates.new_empty(gates.shape[0], gates.shape[1] // 4, *gates.shape[2:])


OPERATOR = torch.ops.pixelfast.lstm_scan.default
"""What an exported graph calls."""


def _scan(gates: Tensor, weights: Tensor, offsets: Sequence[Offset], cell: Offset) -> Tensor:
    """Row by row; all columns of a row at once, where none waits for another."""
    taps = list(zip(offsets, weights.unbind(0), strict=True))
    sweep = direction([*offsets, cell])
    blank = gates.new_zeros(gates.shape[0], gates.shape[1] // 4, gates.shape[3])  # (N, F, W)
    states: list[Tensor] = []
    cells: list[Tensor] = []
    for row, total in enumerate(gates.unbind(2)):  # (N, 4F, W)
        for (up, col), matrix in taps:
            if up < 0 and row + up >= 0:
                total = total + torch.einsum("nfw,fg->ngw", _moved(states[row + up], col), matrix)
        before = _moved(cells[row + cell[0]], cell[1]) if cell[0] < 0 and row + cell[0] >= 0 else blank
        own = [(col, matrix) for (up, col), matrix in taps if up == 0]
        state, known = _row(total, before, own, cell, sweep) if sweep else _lstm(total, before)
        states.append(state)
        cells.append(known)
    return torch.stack(states, 2)


def _row(
    total: Tensor, before: Tensor, taps: Sequence[tuple[int, Tensor]], cell: Offset, sweep: int
) -> tuple[Tensor, Tensor]:
    """States and cells (N, F, W) of a row whose columns come one after another; ``before``: cells of rows above."""
    states: dict[int, Tensor] = {}
    cells: dict[int, Tensor] = {}
    width = total.shape[2]
    for col in range(width)[::sweep]:
        gates = total[..., col]
        for offset, matrix in taps:
            if col + offset in states:
                gates = gates + states[col + offset] @ matrix
        kept = cells.get(col + cell[1], torch.zeros_like(before[..., col])) if cell[0] == 0 else before[..., col]
        states[col], cells[col] = _lstm(gates, kept)
    return torch.stack([states[col] for col in range(width)], 2), torch.stack([cells[col] for col in range(width)], 2)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    out, forget, take, new = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _moved(row: Tensor, cols: int) -> Tensor:
    """(N, F, W) read ``cols`` columns to the right, 0 outside."""
    return F.pad(row, (-cols, cols)) if abs(cols) < row.shape[2] else torch.zeros_like(row)
