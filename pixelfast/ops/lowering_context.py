"""Lowering as a kind of node sees it: one piece of a node on its way to instructions.

`pixelfast.lowering.context` implements it. Lists of instructions are those of the program that is being made: what is appended
to them runs with the row, or in a step of each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..ir.geometry import Lattice, Rect
from ..ir.graph import Edge, FieldEdge, Node
from ..ir.program import Body, FieldSlot, Instruction, Slot
from ..ir.schedule import Piece


class Run(NamedTuple):
    """Consecutive channels of a buffer, and which of the reader's channels they are."""

    slot: Slot
    members: np.ndarray


class Part(NamedTuple):
    """Features of a piece that are computed in one list of instructions, and where they stand side by side in its buffer."""

    features: np.ndarray
    out: Slot
    instructions: list[Instruction]


class LoweringContext(Protocol):
    """A piece, its place in the program, and where what it reads stands."""

    @property
    def image(self) -> Rect: ...

    @property
    def piece(self) -> Piece: ...

    @property
    def lattice(self) -> Lattice:
        """The running positions at which the piece has elements."""

    @property
    def ordered(self) -> np.ndarray:
        """The piece's features in the order of its buffer."""

    @property
    def out(self) -> Slot:
        """All of the piece's buffer."""

    @property
    def row(self) -> list[Instruction]:
        """What is computed once for each row."""

    def parts(self) -> list[Part]:
        """The piece's features in the order of its buffer, cut by the list of instructions that computes them."""

    def instruction(self, out: Slot, body: Body, lattice: Lattice | None = None, sweep: int = 0) -> Instruction:
        """An instruction of the piece, on its own lattice if on no other."""

    def buffer(self, name: str, features: int) -> int:
        """One more buffer over the piece's rectangle."""

    def encode(self, channel: int, out: Slot, table: np.ndarray) -> None:
        """Let each value that is drawn for a channel of the image be looked up in a table (features of out, K)."""

    # ---------------------------------------------------------------- reading

    def runs(self, edge: Edge, channels: np.ndarray) -> list[Run]:
        """Runs of consecutive buffer channels that hold `channels` (features of the edge's source), sorted by place."""

    def ordered_runs(self, edge: Edge) -> list[Slot]:
        """Runs of consecutive channels in the edge's own order."""

    def places(self, edge: Edge, channels: np.ndarray) -> np.ndarray:
        """Where features of the edge's source stand: (channels, 2), the number of a buffer and a channel of it."""

    def slot(self, edge: Edge, channels: np.ndarray) -> Slot:
        """Features of the edge's source that stand side by side, or one that is read for all."""

    def field(self, edge: FieldEdge, channels: np.ndarray) -> FieldSlot:
        """Channels of a field that stand side by side, or one that is read for all."""

    def source(self, edge: Edge) -> tuple[int, Piece]:
        """The one piece of the edge's source, and the number of its buffer."""

    def looked_up(self, edge: Edge) -> Node | None:
        """The edge's source, if it is an input that is stored nowhere and is to be looked up where it is read."""

    def known_with_row(self, slot: Slot) -> bool:
        """Whether what stands there is known when its reader's row starts."""

    def everywhere(self, slot: Slot) -> bool:
        """Whether a slot holds an element wherever the piece has one."""

    def lattices(self, slots: Sequence[Slot]) -> list[tuple[Lattice, list[bool]]]:
        """The lattices that make up the piece's, within its rectangle, and for each of them which slots hold elements there."""


def looked_at(channels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Which of an operand's channels some features read: one for each, or the only one for all."""
    return np.broadcast_to(channels, (len(features),)) if len(channels) == 1 else channels[features]


def continues(places: np.ndarray) -> np.ndarray:
    """Whether each (buffer, channel) after the first goes on from the one before: the next channel, or a broadcast one."""
    same_buffer = np.diff(places[:, 0]) == 0
    step = np.diff(places[:, 1])
    if len(step) and (step == 0).all():
        return same_buffer
    return same_buffer & (step == 1)
