"""Lower: from a schedule to a program: buffers, contiguous channel runs, and a list of instructions for each cadence.

Each kind of node lowers its own pieces (`pixelfast.ops`). A convolution that is computed pixel by pixel is split: taps on rows
above are known when the row starts, so they are summed for the whole row in one wide product; only taps on its own row are left
to the pixel.
"""

from __future__ import annotations

import numpy as np

from ..distributions.base import Head
from ..host.forking import pause
from ..ir.graph import FieldSpec
from ..ir.program import Field, Program
from ..ir.schedule import Schedule
from .context import Lowering, PieceLowering
from .draws import head_name, lower_draws, mixture_of
from .ring_buffers import with_storage, without_unused_buffers


def lower(schedule: Schedule, head: Head) -> tuple[Program, tuple[FieldSpec, ...]]:
    """The program of a schedule, and for each of its fields where its numbers come from."""
    lowering, graph = Lowering(schedule), schedule.graph
    for number, piece in enumerate(schedule.pieces):
        pause()
        lowering.nodes[piece.node].lower(PieceLowering(lowering, number))
    draws = lower_draws(lowering, head)
    program = Program(
        shape=graph.shape,
        levels=graph.levels,
        parameters=head.parameters,
        head=head_name(head),
        buffers=tuple(lowering.buffers),
        fields=tuple(_field(graph.fields[spec], row, col) for spec, row, col in lowering.fields),
        row=tuple(lowering.row),
        steps=tuple(map(tuple, lowering.steps)),
        draws=tuple(draws),
        encodes=tuple(map(tuple, lowering.encodes)),
        mixture=mixture_of(head),
    )
    specs = tuple(graph.fields[spec] for spec, _, _ in lowering.fields)
    return without_unused_buffers(with_storage(program)), specs


def _field(spec: FieldSpec, row: int, col: int) -> Field:
    _, rows, cols, features = spec.shape
    value = None if spec.value is None else np.ascontiguousarray(spec.value, dtype=np.float32)
    return Field(features, spec.row0 + row, spec.col0 + col, rows, cols, value)
