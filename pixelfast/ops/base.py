"""What every kind of node must answer: the passes ask the nodes, and know no kind by its name.

A kind is a class with a file of its own in this folder. One that lacks an answer fails where it is defined, when the package is
imported; a node of a class that is no kind fails in the first pass that meets it.

Letters: F features of a node, H rows and W columns of the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from ..ir.geometry import Lattice, Rect
from ..ir.graph import Edge, Graph, Node
from ..ir.scan_order import Order
from .evaluation import Evaluation
from .lowering_context import LoweringContext
from .times import Step, Times


class Demand(NamedTuple):
    """What an edge reads for its reader: channels of the source, from positions on a lattice within a rectangle."""

    channels: np.ndarray
    rect: Rect
    lattice: Lattice


@dataclass(frozen=True)
class Needs:
    """Which features of a node are computed, over which rectangle, and for that: what each edge reads."""

    kept: np.ndarray
    domain: Rect
    demands: tuple[Demand, ...]


class Marks(NamedTuple):
    """Positions from (row0, col0) on that read an edge: bool (rows, cols), or (channels of the edge, rows, cols)."""

    edge: Edge
    marks: np.ndarray
    row0: int
    col0: int


@dataclass(frozen=True)
class Operation(Node, ABC):
    """A kind of node: its fields, and all that the passes ask of it."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        """Refuse a kind that lacks an answer; what several kinds share is `abstract`."""
        super().__init_subclass__()
        missing = [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]
        missing += [name for name in Operation.__annotations__ if not hasattr(cls, name)]
        if missing and not abstract:
            raise TypeError(
                f"nodes of kind {cls.__name__} have no answer for {', '.join(missing)}: {__name__}.{Operation.__name__} says "
                "what every kind must answer"
            )

    chooses_pixels: ClassVar[bool]
    """Whether its elements look at lists of pixels, which `without_unread` makes shorter."""
    keeps_order: ClassVar[bool]
    """Whether its features stand in its buffer in the order of their numbers, whatever their readers want."""
    looks_up: ClassVar[bool]
    """Whether it can look values of the image up by itself, so that what it reads of an `Input` need not be stored."""

    @abstractmethod
    def check(self) -> None:
        """Assert what holds for the fields of its kind; what holds for all nodes is checked by `Graph.verify`."""

    @abstractmethod
    def evaluated(self, evaluation: Evaluation) -> Tensor:
        """The definition: its features on finished images, float64 (N, rows, cols, F) or what broadcasts to that."""

    # ---------------------------------------------------------------- causality

    @abstractmethod
    def times(self, graph: Graph, times: Sequence[Times]) -> Times:
        """Its times, from those of all nodes before it in the graph."""

    @abstractmethod
    def cause(self, graph: Graph, times: Sequence[Times], element: Step, limit: int) -> Step:
        """What an element of its own reads that has a time of at least `limit`."""

    @abstractmethod
    def without(self, graph: Graph, reader: Step, source: Step) -> Sequence[Node]:
        """The node without the one weight, tap or kind of pixel that lets `reader`, its own element, read `source`.

        Candidates, the mildest first; none where there is no single thing to take away.
        """

    @abstractmethod
    def reach(self, graph: Graph, marks: np.ndarray) -> Sequence[Marks]:
        """What marked elements, bool (F, rows, cols), read over nonzero weights: marks of channels of its edges."""

    # ---------------------------------------------------------------- passes

    @abstractmethod
    def needs(self, kept: np.ndarray, domain: Rect) -> Needs:
        """What must be computed, itself included, so that the features `kept` (F,) are there over a rectangle."""

    @abstractmethod
    def restricted(self, kept: np.ndarray, domain: Rect, edges: Sequence[Edge | None]) -> Node:
        """The node with the features that it needs, over that rectangle; an edge is None if it reads nothing."""

    @abstractmethod
    def reads(self, graph: Graph, read: np.ndarray) -> Sequence[Marks]:
        """Where its edges are read by those of its elements that are read, bool (rows, cols), unless a known 0 hides it."""

    @abstractmethod
    def without_unread(self, graph: Graph, read: np.ndarray) -> Node:
        """The node whose elements look at nothing where none reads them."""

    @abstractmethod
    def reordered(self, order: Order, height: int, width: int) -> Node:
        """The node in another order of drawing, whose edges, rectangle and lattice are reordered already.

        Raises:
            NotAutoregressive: it cannot run in that order.
        """

    @abstractmethod
    def lags(self, channels: int, lags: Sequence[np.ndarray]) -> np.ndarray:
        """The lag of each feature (`pixelfast.ops.lags`), from those of all nodes before it; C channels of the image."""

    # ---------------------------------------------------------------- lowering

    @abstractmethod
    def order_from(self) -> Edge | None:
        """The edge whose channels its features stand beside, so that its buffer takes their order; None: its own order."""

    @abstractmethod
    def order_for(self) -> Sequence[Edge]:
        """The edges whose sources should stand in the order in which its own features are wanted."""

    @abstractmethod
    def lower(self, at: LoweringContext) -> None:
        """Append the instructions that compute one of its pieces.

        Raises:
            UnsupportedModel: no instruction can.
        """


def operation(node: Node) -> Operation:
    """The node as one of a kind.

    Raises:
        TypeError: it is of none.
    """
    if not isinstance(node, Operation):
        raise TypeError(
            f"{node.name} is a {type(node).__name__}, which is no kind of node: kinds are classes under {__name__}.Operation"
        )
    return node


def operations(graph: Graph) -> list[Operation]:
    """The nodes of a graph, each of a kind.

    Raises:
        TypeError: one of them is of none.
    """
    return [operation(node) for node in graph.nodes]


def verify(graph: Graph) -> None:
    """Check the invariants that later stages rely on; an AssertionError here is a bug of pixelfast's."""
    graph.verify()
    for node in operations(graph):
        node.check()
