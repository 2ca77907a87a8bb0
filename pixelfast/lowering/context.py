"""The state of lowering: what has become of a schedule so far, and where a piece finds what it reads.

Where a node reads maps of a lower resolution, it reads nothing at most pixels: there it becomes one instruction for each
lattice on which it reads the same, with just what holds elements. So no instruction reads an element that does not exist, and a
strided layer costs what it costs in a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import numpy as np

from ..ir.geometry import Lattice, Rect
from ..ir.graph import Edge, FieldEdge, Node
from ..ir.program import Body, Buffer, Encode, FieldSlot, Instruction, Slot
from ..ir.schedule import Piece, Schedule
from ..ops import Input, operations
from ..ops.lowering_context import Part, Run
from .channel_order import channel_orders

WIDE_INPUT = 8
"""From this many features for each image channel on (one-hot, embeddings), looking sums up beats multiplying."""


class Lowering:
    """The lists of a program in the making."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.graph = schedule, schedule.graph
        self.nodes = operations(schedule.graph)
        self.fields: list[tuple[int, int, int]] = []  # (spec, rows and columns that it is moved by)
        self.row: list[Instruction] = []
        self.steps: list[list[Instruction]] = [[] for _ in range(self.graph.shape[0])]
        self.encodes: list[list[Encode]] = [[] for _ in range(self.graph.shape[0])]
        self.order = channel_orders(schedule)
        # Where feature f of a node stands in the buffer of its piece.
        self.position = [np.zeros(node.features, dtype=np.int64) for node in self.nodes]
        for piece, order in zip(schedule.pieces, self.order, strict=True):
            self.position[piece.node][piece.features[order]] = np.arange(len(piece.features))
        self.buffers = [
            Buffer(self.nodes[p.node].name, len(p.features), 1, (p.domain.col0, p.domain.col1), p.domain)
            for p in schedule.pieces
        ]
        # At which running positions each piece has elements.
        self.lattices = [self.nodes[p.node].lattice.shifted(p.row, p.col) for p in schedule.pieces]
        self.looked_up = self._looked_up_inputs()

    def _looked_up_inputs(self) -> frozenset[int]:
        """Inputs with many features for each channel that are only read where they can be looked up: they are never stored."""
        wide = {
            index
            for index, node in enumerate(self.nodes)
            if isinstance(node, Input) and node.features >= WIDE_INPUT * len(np.unique(node.channels))
        }
        for node in self.nodes:
            for edge in node.edges:
                domain = self.nodes[edge.source].domain
                if not node.looks_up or edge.rect != domain or domain != self.graph.image:
                    wide.discard(edge.source)
        return frozenset(wide - {edge.source for edges in self.graph.outputs for edge in edges})

    def add_buffer(self, name: str, features: int, domain: Rect) -> int:
        self.buffers.append(Buffer(name, features, 1, (domain.col0, domain.col1), domain))
        return len(self.buffers) - 1


class Reader:
    """Where a piece, or a draw (None), finds what it reads."""

    def __init__(self, lowering: Lowering, piece: Piece | None) -> None:
        self._lowering, self._reader = lowering, piece

    def _slot(self, edge: Edge, owner: int, channel: int, count: int) -> Slot:
        lowering = self._lowering
        row, col = lowering.schedule.offset(edge, lowering.schedule.pieces[owner], self._reader)
        return Slot(owner, channel, count, row, col)

    def _placed(self, edge: Edge, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The piece that computes each of some features, and the place in its buffer."""
        return self._lowering.schedule.piece_of[edge.source][channels], self._lowering.position[edge.source][channels]

    def places(self, edge: Edge, channels: np.ndarray) -> np.ndarray:
        return np.stack(self._placed(edge, channels), 1)

    def slot(self, edge: Edge, channels: np.ndarray) -> Slot:
        owners, places = self._placed(edge, channels)
        first, last = int(places[0]), int(places[-1])
        return self._slot(edge, int(owners[0]), first, 1 if first == last else len(places))

    def runs(self, edge: Edge, channels: np.ndarray) -> list[Run]:
        owners, positions = self._placed(edge, channels)
        result = []
        for number in np.unique(owners):
            members = np.flatnonzero(owners == number)
            places = positions[members]
            order = np.argsort(places, kind="stable")
            places, members = places[order], members[order]
            for part in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
                result.append(Run(self._slot(edge, int(number), int(places[part[0]]), len(part)), members[part]))
        return result

    def ordered_runs(self, edge: Edge) -> list[Slot]:
        owners, places = self._placed(edge, edge.channels)
        cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(owners) != 0)) + 1
        parts = np.split(np.arange(len(places)), cuts)
        return [self._slot(edge, int(owners[part[0]]), int(places[part[0]]), len(part)) for part in parts]


class PieceLowering(Reader):
    """A piece on its way to instructions (`pixelfast.ops.lowering_context.LoweringContext`)."""

    def __init__(self, lowering: Lowering, number: int) -> None:
        self.piece = lowering.schedule.pieces[number]
        super().__init__(lowering, self.piece)
        self.number, self.node = number, lowering.nodes[self.piece.node]
        self.image, self.row, self.lattice = lowering.graph.image, lowering.row, lowering.lattices[number]
        self.ordered = self.piece.features[lowering.order[number]]
        self.out = Slot(number, 0, len(self.ordered))

    def parts(self) -> list[Part]:
        if self.piece.phase == "row":
            return [Part(self.ordered, self.out, self.row)]
        steps = self.piece.steps[self._lowering.order[self.number]]  # ascending
        result = []
        for step in np.unique(steps):
            here = np.flatnonzero(steps == step)
            out = Slot(self.number, int(here[0]), len(here))
            result.append(Part(self.ordered[here], out, self._lowering.steps[step]))
        return result

    def instruction(self, out: Slot, body: Body, lattice: Lattice | None = None, sweep: int = 0) -> Instruction:
        lattice = self.lattice if lattice is None else lattice
        layer = self.node.layer or self.node.name
        return Instruction(out, body, lattice.within(self.piece.domain), layer, lattice, sweep)

    def buffer(self, name: str, features: int) -> int:
        return self._lowering.add_buffer(name, features, self.piece.domain)

    def encode(self, channel: int, out: Slot, table: np.ndarray) -> None:
        if self.piece.node not in self._lowering.looked_up:
            self._lowering.encodes[channel].append(Encode(out, channel, table))

    def field(self, edge: FieldEdge, channels: np.ndarray) -> FieldSlot:
        key = (edge.field, self.piece.row, self.piece.col)  # a field moves as the piece that reads it does
        if key not in self._lowering.fields:
            self._lowering.fields.append(key)
        count = 1 if channels[0] == channels[-1] else len(channels)
        return FieldSlot(self._lowering.fields.index(key), int(channels[0]), count)

    def source(self, edge: Edge) -> tuple[int, Piece]:
        (number,) = np.unique(self._lowering.schedule.piece_of[edge.source])
        return int(number), self._lowering.schedule.pieces[number]

    def looked_up(self, edge: Edge) -> Node | None:
        return self._lowering.nodes[edge.source] if edge.source in self._lowering.looked_up else None

    def known_with_row(self, slot: Slot) -> bool:
        return slot.row < 0 or self._lowering.schedule.pieces[slot.buffer].phase == "row"

    def everywhere(self, slot: Slot) -> bool:
        return self._holding(slot) == self.lattice

    def _holding(self, slot: Slot) -> Lattice | None:
        """On which part of the piece's lattice a slot holds elements; None if nowhere."""
        reader, source = self.lattice, self._lowering.lattices[slot.buffer].shifted(-slot.row, -slot.col)
        if not source.meets(reader):
            return None
        steps = lcm(reader.row_step, source.row_step), lcm(reader.col_step, source.col_step)
        row = next(r for r in range(steps[0]) if reader.has_row(r) and source.has_row(r))
        col = next(c for c in reader.columns(0, steps[1]) if c in source.columns(0, steps[1]))
        return Lattice.through(row, col, steps)

    def lattices(self, slots: Sequence[Slot]) -> list[tuple[Lattice, list[bool]]]:
        reader, rect = self.lattice, self.piece.domain
        parts = [self._holding(slot) for slot in slots]
        rows, cols = reader.steps
        for part in parts:
            rows, cols = (rows, cols) if part is None else (lcm(rows, part.row_step), lcm(cols, part.col_step))
        result = []
        for row in reader.rows(rect.row0, min(rect.row1, rect.row0 + rows)):
            for col in reader.columns(rect.col0, min(rect.col1, rect.col0 + cols)):
                lattice = Lattice.through(row, col, (rows, cols))
                result.append((lattice, [part is not None and part.contains(lattice) for part in parts]))
        return result
