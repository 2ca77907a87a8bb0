"""Lower: from a schedule to a program: buffers, contiguous channel runs, and a list of instructions for each cadence.

A convolution that is computed pixel by pixel is split: taps on rows above are known when the row starts, so they are summed
for the whole row in one wide product; only taps on its own row are left to the pixel.

Where a node reads maps of a lower resolution, it reads nothing at most pixels: there it becomes one instruction for each
lattice on which it reads the same, with just those taps. So no instruction reads an element that does not exist, and a
strided layer costs what it costs in a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import lcm

import numpy as np

from ..distributions.base import Head
from ..host.forking import pause
from ..ir.expression import without_zeros
from ..ir.graph import Edge, FieldEdge, FieldSpec, Node
from ..ir.program import (  # fmt: skip
    Buffer,
    Encode,
    Field,
    FieldSlot,
    Instruction,
    Lattice,
    Lookup,
    Map,
    Norm,
    Pixel,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)
from ..ir.program import Leaf as ProgramLeaf
from ..ir.schedule import Piece, Schedule
from ..ops import CausalAttention, ChannelNorm, ChannelReduce, Gather, Input, Operand, Pointwise, Scan, TapConv
from .attention import lower_attention, lower_gather
from .channel_order import channel_orders
from .draws import head_name, lower_draws, mixture_of
from .ring_buffers import with_storage, without_unused_buffers
from .scan import lower_scan

WIDE_INPUT = 8
"""From this many features for each image channel on (one-hot, embeddings), looking sums up beats multiplying."""


@dataclass(frozen=True)
class _Run:
    """Consecutive channels of a buffer, and which of the reader's channels they are."""

    slot: Slot
    members: np.ndarray


@dataclass(frozen=True)
class _Weighted:
    """A source and what it is multiplied by: weights (count, out) for a slot, a table (K, out) for a pixel."""

    source: Slot | Pixel
    weights: np.ndarray


def lower(schedule: Schedule, head: Head) -> tuple[Program, tuple[FieldSpec, ...]]:
    """The program of a schedule, and for each of its fields where its numbers come from."""
    return Lowering(schedule, head).run()


class Lowering:
    def __init__(self, schedule: Schedule, head: Head) -> None:
        self.schedule, self.graph, self.head = schedule, schedule.graph, head
        self.head_name = head_name(head)
        self.channels = self.graph.shape[0]
        self.fields: list[tuple[int, int, int]] = []  # (spec, rows and columns that it is moved by)
        self.row: list[Instruction] = []
        self.steps: list[list[Instruction]] = [[] for _ in range(self.channels)]
        self.encodes: list[list[Encode]] = [[] for _ in range(self.channels)]
        self.order = channel_orders(schedule)
        # Where feature f of a node stands in the buffer of its piece.
        self.position = [np.zeros(node.features, dtype=np.int64) for node in self.graph.nodes]
        for number, piece in enumerate(schedule.pieces):
            self.position[piece.node][piece.features[self.order[number]]] = np.arange(len(piece.features))
        self.buffers = [
            Buffer(self.graph.nodes[p.node].name, len(p.features), 1, (p.domain.col0, p.domain.col1), p.domain)
            for p in schedule.pieces
        ]
        # At which running positions each piece has elements.
        self.lattices = [self.graph.nodes[p.node].lattice.shifted(p.row, p.col) for p in schedule.pieces]
        self.looked_up = self._looked_up_inputs()

    def run(self) -> tuple[Program, tuple[FieldSpec, ...]]:
        for number, piece in enumerate(self.schedule.pieces):
            pause()
            self.piece(number, piece, self.graph.nodes[piece.node])
        draws = lower_draws(self)
        program = Program(
            shape=self.graph.shape,
            levels=self.graph.levels,
            parameters=self.head.parameters,
            head=self.head_name,
            buffers=tuple(self.buffers),
            fields=tuple(_field(self.graph.fields[spec], row, col) for spec, row, col in self.fields),
            row=tuple(self.row),
            steps=tuple(map(tuple, self.steps)),
            draws=tuple(draws),
            encodes=tuple(map(tuple, self.encodes)),
            mixture=mixture_of(self.head),
        )
        specs = tuple(self.graph.fields[spec] for spec, _, _ in self.fields)
        return without_unused_buffers(with_storage(program)), specs

    # ---------------------------------------------------------------- reading

    def runs(self, edge: Edge, channels: np.ndarray, reader: Piece | None) -> list[_Run]:
        """Runs of consecutive buffer channels that hold `channels` (features of the edge's source), sorted by place."""
        owners = self.schedule.piece_of[edge.source][channels]
        found = []
        for number in np.unique(owners):
            members = np.flatnonzero(owners == number)
            places = self.position[edge.source][channels[members]]
            order = np.argsort(places, kind="stable")
            places, members = places[order], members[order]
            row, col = self.schedule.offset(edge, self.schedule.pieces[number], reader)
            for part in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
                slot = Slot(int(number), int(places[part[0]]), len(part), row, col)
                found.append(_Run(slot, members[part]))
        return found

    # ---------------------------------------------------------------- pieces

    def piece(self, number: int, piece: Piece, node: Node) -> None:
        match node:
            case Input():
                if piece.node not in self.looked_up:
                    self.encode(number, piece, node)
            case TapConv():
                self.convolution(number, piece, node)
            case Pointwise():
                for features, instructions in self.parts(number, piece):
                    instructions += self.maps(number, piece, node, features)
            case ChannelReduce():
                for _, instructions in self.parts(number, piece):
                    sources = [run.slot for edge in node.edges for run in self.runs(edge, edge.channels, piece)]
                    out, lattice = Slot(number, 0, 1), self.lattices[number]
                    body = Reduce(node.kind, tuple(sources), node.correction)
                    instructions.append(Instruction(out, body, piece.domain, node.layer or node.name, lattice))
            case ChannelNorm():
                self.norm(number, piece, node)
            case Gather():
                lower_gather(self, number, piece, node)
            case CausalAttention():
                lower_attention(self, number, piece, node)
            case Scan():
                lower_scan(self, number, piece, node)
            case _:
                raise AssertionError(f"unknown node {type(node).__name__}")

    def parts(self, number: int, piece: Piece) -> list[tuple[np.ndarray, list[Instruction]]]:
        """Features of a piece in buffer order, cut by the instruction list that computes them."""
        ordered = piece.features[self.order[number]]
        if piece.phase == "row":
            return [(ordered, self.row)]
        steps = piece.steps[self.order[number]]
        return [(ordered[steps == step], self.steps[step]) for step in np.unique(steps)]

    def encode(self, number: int, piece: Piece, node: Input) -> None:
        ordered = piece.features[self.order[number]]
        channels = node.channels[ordered]
        for run in np.split(np.arange(len(ordered)), np.flatnonzero(np.diff(channels)) + 1):
            table = np.ascontiguousarray(node.table[ordered[run]], dtype=np.float32)
            out = Slot(number, int(run[0]), len(run))
            self.encodes[int(channels[run[0]])].append(Encode(out, int(channels[run[0]]), table))

    def convolution(self, number: int, piece: Piece, node: TapConv) -> None:
        ordered = piece.features[self.order[number]]
        name = node.layer or node.name
        whole = Slot(number, 0, len(ordered))
        above, beside = self.taps(piece, node, ordered)
        if piece.phase == "row":
            self.product(self.row, whole, above + beside, node.bias[ordered], piece.domain, name)
            return
        parts = self.parts(number, piece)
        # Buffers are sorted by step, so the features of a step stand side by side.
        places = [self.position[piece.node][features] for features, _ in parts]
        split = bool(above) or any(not _live(beside, columns) for columns in places)
        if split:
            self.product(self.row, whole, above, node.bias[ordered], piece.domain, name)
        for (features, instructions), columns in zip(parts, places, strict=True):
            out = Slot(number, int(columns[0]), len(columns))
            taps = _live(beside, columns)
            if taps or not split:
                bias = None if split else node.bias[features]
                self.product(instructions, out, taps, bias, piece.domain, name)

    def taps(self, piece: Piece, node: TapConv, ordered: np.ndarray) -> tuple[list[_Weighted], list[_Weighted]]:
        """Taps with weights in buffer order: those known when a row starts, and those on the pixel's own row."""
        above: list[_Weighted] = []
        beside: list[_Weighted] = []
        for edge, matrix in node.taps:
            weights = matrix[:, ordered]
            if edge.source in self.looked_up:
                source = self.graph.nodes[edge.source]
                assert isinstance(source, Input)
                row, col = edge.row - piece.row, edge.col - piece.col
                channels = source.channels[edge.channels]
                for channel in np.unique(channels):
                    mine = channels == channel
                    table = source.table[edge.channels[mine]].T @ weights[mine].astype(np.float64)
                    item = _Weighted(Pixel(row, col, int(channel)), table.astype(np.float32))
                    (above if row < 0 else beside).append(item)
                continue
            live = np.flatnonzero(weights.any(1))
            for run in self.runs(edge, edge.channels[live], piece):
                source_piece = self.schedule.pieces[run.slot.buffer]
                known = run.slot.row < 0 or source_piece.phase == "row"
                (above if known else beside).append(_Weighted(run.slot, weights[live[run.members]]))
        return above, beside

    def product(
        self, instructions: list[Instruction], out: Slot, taps: Sequence[_Weighted], bias: np.ndarray | None, rect: Rect,
        layer: str,
    ) -> None:  # fmt: skip
        """A product over what there is everywhere, to which are added products over what there is on lattices only."""
        whole = self.lattices[out.buffer]
        lasting = [tap for tap in taps if isinstance(tap.source, Pixel) or self.reads(whole, tap.source) == whole]
        passing = [tap for tap in taps if not any(tap is other for other in lasting)]
        if lasting or not passing:
            self.product_on(whole, instructions, out, lasting, bias, rect, layer)
            bias = None
        for lattice, reads in self.classes(whole, rect, [tap.source for tap in passing if isinstance(tap.source, Slot)]):
            live = [tap for tap, read in zip(passing, reads, strict=True) if read]
            if live or bias is not None:
                self.product_on(lattice, instructions, out, live, bias, lattice.within(rect), layer)

    def reads(self, reader: Lattice, slot: Slot) -> Lattice | None:
        """On which part of a reader's lattice a slot holds elements; None if nowhere."""
        source = self.lattices[slot.buffer].shifted(-slot.row, -slot.col)
        if not source.meets(reader):
            return None
        steps = lcm(reader.row_step, source.row_step), lcm(reader.col_step, source.col_step)
        row = next(r for r in range(steps[0]) if reader.has_row(r) and source.has_row(r))
        col = next(c for c in reader.columns(0, steps[1]) if c in source.columns(0, steps[1]))
        return Lattice.through(row, col, steps)

    def classes(self, reader: Lattice, rect: Rect, slots: Sequence[Slot]) -> list[tuple[Lattice, list[bool]]]:
        """The lattices that make up a reader's, within `rect`, and for each of them which slots hold elements there."""
        parts = [self.reads(reader, slot) for slot in slots]
        rows, cols = reader.steps
        for part in parts:
            rows, cols = (rows, cols) if part is None else (lcm(rows, part.row_step), lcm(cols, part.col_step))
        found = []
        for row in reader.rows(rect.row0, min(rect.row1, rect.row0 + rows)):
            for col in reader.columns(rect.col0, min(rect.col1, rect.col0 + cols)):
                lattice = Lattice.through(row, col, (rows, cols))
                found.append((lattice, [part is not None and part.contains(lattice) for part in parts]))
        return found

    def product_on(
        self, lattice: Lattice, instructions: list[Instruction], out: Slot, taps: Sequence[_Weighted], bias: np.ndarray | None,
        rect: Rect, layer: str,
    ) -> None:  # fmt: skip
        """A product over buffers and a sum of looked-up rows."""
        slots = [tap for tap in taps if isinstance(tap.source, Slot)]
        pixels = [tap for tap in taps if isinstance(tap.source, Pixel)]
        if slots or bias is not None:
            weights = np.concatenate([tap.weights for tap in slots]) if slots else np.zeros((0, out.count), np.float32)
            vector = None if bias is None else np.ascontiguousarray(bias, dtype=np.float32)
            sources = tuple(tap.source for tap in slots if isinstance(tap.source, Slot))
            instructions.append(Instruction(out, Product(sources, np.ascontiguousarray(weights), vector), rect, layer, lattice))
        if pixels:
            places = tuple(tap.source for tap in pixels if isinstance(tap.source, Pixel))
            body = Lookup(places, np.stack([tap.weights for tap in pixels]))
            instructions.append(Instruction(out, body, rect, layer, lattice))

    def maps(self, number: int, piece: Piece, node: Pointwise, features: np.ndarray) -> list[Instruction]:
        """The expression over runs of features for which every leaf is one run of channels, or broadcast."""
        places, operands = self.position[piece.node][features], node.operands
        leaves = [self.leaf_places(leaf, features, piece) for leaf in operands]
        cuts = {0, len(features)}
        for keys in leaves:
            if keys is not None:
                cuts |= set((np.flatnonzero(~_continues(keys)) + 1).tolist())
        bounds = sorted(cuts)
        name = node.layer or node.name
        found: list[Instruction] = []
        for first, last in pairwise(bounds):
            part = features[first:last]
            out = Slot(number, int(places[first]), last - first)
            slots = [self.leaf(leaf, part, piece) for leaf in operands]
            sources = [leaf for leaf in slots if isinstance(leaf, Slot)]
            for lattice, reads in self.classes(self.lattices[number], piece.domain, sources):
                there = iter(reads)
                live = [0.0 if isinstance(leaf, Slot) and not next(there) else leaf for leaf in slots]
                expression = (tuple(live), node.ops) if all(reads) else without_zeros(live, node.ops)
                found.append(Instruction(out, Map(*expression), lattice.within(piece.domain), name, lattice))
        return found

    def leaf_places(self, leaf: Operand, features: np.ndarray, piece: Piece) -> np.ndarray | None:
        """(owner, channel) that a leaf reads for each feature: (features, 2); None if it is the same for all."""
        if isinstance(leaf, Edge):
            channels = _chosen(leaf.channels, features)
            owners = self.schedule.piece_of[leaf.source][channels]
            return np.stack([owners, self.position[leaf.source][channels]], 1)
        if isinstance(leaf, FieldEdge):
            channels = _chosen(leaf.channels, features)
            return np.stack([np.zeros_like(channels), channels], 1)
        return None

    def leaf(self, leaf: Operand, features: np.ndarray, piece: Piece) -> ProgramLeaf:
        if isinstance(leaf, Edge):
            channels = _chosen(leaf.channels, features)
            owner = int(self.schedule.piece_of[leaf.source][channels[0]])
            row, col = self.schedule.offset(leaf, self.schedule.pieces[owner], piece)
            places = self.position[leaf.source][channels]
            count = 1 if len(places) > 1 and places[0] == places[-1] else len(places)
            return Slot(owner, int(places[0]), count, row, col)
        if isinstance(leaf, FieldEdge):
            channels = _chosen(leaf.channels, features)
            count = 1 if len(channels) > 1 and channels[0] == channels[-1] else len(channels)
            return FieldSlot(self.field(leaf.field, piece), int(channels[0]), count)
        return np.ascontiguousarray(leaf[features], dtype=np.float32) if isinstance(leaf, np.ndarray) else float(leaf)

    def field(self, spec: int, piece: Piece) -> int:
        """The field of a spec, moved as the piece that reads it is."""
        key = (spec, piece.row, piece.col)
        if key not in self.fields:
            self.fields.append(key)
        return self.fields.index(key)

    def norm(self, number: int, piece: Piece, node: ChannelNorm) -> None:
        """Layer normalisation needs its channels side by side, in the order of its own buffer."""
        ordered = piece.features[self.order[number]]
        scale, shift = node.scale[ordered], node.shift[ordered]
        rect, name, lattice = piece.domain, node.layer or node.name, self.lattices[number]
        sources = np.concatenate([np.full(len(edge.channels), i) for i, edge in enumerate(node.edges)])
        channels = np.concatenate([edge.channels for edge in node.edges])
        for _, instructions in self.parts(number, piece):
            edge = node.edges[0]
            places = self.leaf_places(edge, ordered, piece) if len(node.edges) == 1 else None
            if places is not None and _continues(places).all():
                source = self.leaf(edge, ordered, piece)
                assert isinstance(source, Slot)
            else:
                # Gather the channels in the buffer of the result and normalise in place.
                for place, feature in enumerate(ordered):
                    edge = node.edges[sources[feature]]
                    slot = self.runs(edge, channels[feature : feature + 1], piece)[0].slot
                    instructions.append(Instruction(Slot(number, place, 1), Map((slot,), ()), rect, name, lattice))
                source = Slot(number, 0, len(ordered))
            out = Slot(number, 0, len(ordered))
            instructions.append(Instruction(out, Norm(source, scale, shift, node.eps), rect, name, lattice))

    def ordered_runs(self, edge: Edge, reader: Piece | None = None) -> list[Slot]:
        """Runs of consecutive channels in the edge's own order."""
        owners = self.schedule.piece_of[edge.source][edge.channels]
        places = self.position[edge.source][edge.channels]
        cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(owners) != 0)) + 1
        found = []
        for part in np.split(np.arange(len(places)), cuts):
            owner = int(owners[part[0]])
            row, col = self.schedule.offset(edge, self.schedule.pieces[owner], reader)
            found.append(Slot(owner, int(places[part[0]]), len(part), row, col))
        return found

    def _looked_up_inputs(self) -> frozenset[int]:
        """Inputs with many features for each channel that only convolutions read: they are looked up, never stored."""
        wide = {
            index
            for index, node in enumerate(self.graph.nodes)
            if isinstance(node, Input) and node.features >= WIDE_INPUT * len(np.unique(node.channels))
        }
        for node in self.graph.nodes:
            for edge in node.edges:
                domain = self.graph.nodes[edge.source].domain
                if not isinstance(node, TapConv) or edge.rect != domain or domain != self.graph.image:
                    wide.discard(edge.source)
        return frozenset(wide - {edge.source for edges in self.graph.outputs for edge in edges})


def _live(taps: Sequence[_Weighted], columns: np.ndarray) -> list[_Weighted]:
    """The taps that add something to some columns of the output, without the channels that add nothing."""
    found = []
    for tap in taps:
        weights = tap.weights[:, columns]
        if isinstance(tap.source, Pixel):
            if weights.any():
                found.append(_Weighted(tap.source, weights))
            continue
        used = np.flatnonzero(weights.any(1))
        if not len(used):
            continue
        for part in np.split(used, np.flatnonzero(np.diff(used) != 1) + 1):
            slot = replace(tap.source, channel=tap.source.channel + int(part[0]), count=len(part))
            found.append(_Weighted(slot, weights[part]))
    return found


def _chosen(channels: np.ndarray, features: np.ndarray) -> np.ndarray:
    return np.broadcast_to(channels, (len(features),)) if len(channels) == 1 else channels[features]


def _continues(keys: np.ndarray) -> np.ndarray:
    """Whether each (owner, channel) after the first goes on from the one before: the next channel, or a broadcast one."""
    same_owner = np.diff(keys[:, 0]) == 0
    step = np.diff(keys[:, 1])
    if len(step) and (step == 0).all():
        return same_owner
    return same_owner & (step == 1)


def _field(spec: FieldSpec, row: int, col: int) -> Field:
    _, rows, cols, features = spec.shape
    value = None if spec.value is None else np.ascontiguousarray(spec.value, dtype=np.float32)
    return Field(features, spec.row0 + row, spec.col0 + col, rows, cols, value)
