"""Lower a recurrence: no arithmetic of its own, but a product over its states before, and two expressions.

    sums  = product of the states at the taps            (4F: what they add to the gates o, f, i, g)
    cell  = sigmoid(f) . cell before + sigmoid(i) . tanh(g)
    state = sigmoid(o) . tanh(cell)

Taps on rows above are summed for the whole row when it starts. The rest runs column by column: where pixels are drawn that is
so anyway; in a row that is computed at once, it is a sweep. The first product is no part of it, so that two sweeps never meet.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..ir.program import Buffer, Instruction, Map, Op, Product, Slot
from ..ir.schedule import Piece
from ..ops import Scan

if TYPE_CHECKING:
    from .lower import Lowering

CELL = (
    Op("add", (0, 1)), Op("sigmoid", (7,)), Op("add", (2, 3)), Op("sigmoid", (9,)), Op("add", (4, 5)), Op("tanh", (11,)),
    Op("mul", (8, 6)), Op("mul", (10, 12)), Op("add", (13, 14)),
)  # fmt: skip
"""Of the gates f, i and g, each a sum of two leaves, and the cell before."""
STATE = (Op("add", (0, 1)), Op("sigmoid", (3,)), Op("tanh", (2,)), Op("mul", (4, 5)))
"""Of the gate o, a sum of two leaves, and the cell."""


def lower_scan(lowering: Lowering, number: int, piece: Piece, node: Scan) -> None:
    """Append a recurrence's instructions to those of a row and of the steps."""
    features, rect, name = node.features, piece.domain, node.layer or node.name
    sums, cells = len(lowering.buffers), len(lowering.buffers) + 1
    columns = (rect.col0, rect.col1)
    lowering.buffers.append(Buffer(f"{node.name}_sums", 4 * features, 1, columns, rect))
    lowering.buffers.append(Buffer(f"{node.name}_cells", features, 1, columns, rect))
    ordered = piece.features[lowering.order[number]]
    gates = (np.arange(4)[:, None] * features + ordered).reshape(-1)  # all gates in the order of the buffers
    slots = [Slot(number, 0, features, tap.row, tap.col) for tap in node.taps]
    weights = [tap.weights[ordered][:, gates] for tap in node.taps]
    whole = Slot(sums, 0, 4 * features)

    def product(above: bool, bias: np.ndarray | None) -> Instruction:
        chosen = [i for i, slot in enumerate(slots) if (slot.row < 0) == above]
        matrix = np.concatenate([np.zeros((0, 4 * features), np.float32), *(weights[i] for i in chosen)])
        return Instruction(whole, Product(tuple(slots[i] for i in chosen), np.ascontiguousarray(matrix), bias), rect, name)

    lowering.row.append(product(True, np.zeros(4 * features, np.float32)))
    parts = lowering.parts(number, piece)
    sweep = node.sweep if piece.phase == "row" else 0

    def add(instructions: list[Instruction], instruction: Instruction) -> None:
        instructions.append(replace(instruction, sweep=sweep))

    if any(slot.row == 0 for slot in slots):  # all states before are there in the first step of a pixel
        add(parts[0][1], product(False, None))
    for members, instructions in parts:
        for out, leaves in _runs(lowering, number, piece, node, members):
            added = [Slot(sums, gate * features + out.channel, out.count) for gate in range(4)]
            cell, before = replace(out, buffer=cells), Slot(cells, out.channel, out.count, *node.cell)
            paired = [slot for gate in (1, 2, 3) for slot in (leaves[gate], added[gate])]
            add(instructions, Instruction(cell, Map((*paired, before), CELL), rect, name))
            add(instructions, Instruction(out, Map((leaves[0], added[0], cell), STATE), rect, name))


def _runs(lowering: Lowering, number: int, piece: Piece, node: Scan, members: np.ndarray) -> list[tuple[Slot, list[Slot]]]:
    """Runs of states whose four gates each stand side by side in one buffer: where the states are, and their gates."""
    edge_of = np.concatenate([np.full(len(edge.channels), i) for i, edge in enumerate(node.edges)])
    channels = np.concatenate([edge.channels for edge in node.edges])
    keys = []  # of each gate: edge, buffer and channel (members, 3)
    for gate in range(4):
        index = gate * node.features + members
        sources = np.array([node.edges[i].source for i in edge_of[index]])
        owners = [lowering.schedule.piece_of[source][channel] for source, channel in zip(sources, channels[index], strict=True)]
        places = [lowering.position[source][channel] for source, channel in zip(sources, channels[index], strict=True)]
        keys.append(np.stack([edge_of[index], owners, places], 1))
    breaks = [np.flatnonzero((np.diff(key, axis=0) != (0, 0, 1)).any(1)) + 1 for key in keys]
    bounds = sorted({0, len(members), *np.concatenate(breaks).tolist()})
    found = []
    for first, last in pairwise(bounds):
        slots = []
        for key in keys:
            edge, owner, place = (int(value) for value in key[first])
            offset = lowering.schedule.offset(node.edges[edge], lowering.schedule.pieces[owner], piece)
            slots.append(Slot(owner, place, last - first, *offset))
        out = Slot(number, int(lowering.position[piece.node][members[first]]), last - first)
        found.append((out, slots))
    return found
