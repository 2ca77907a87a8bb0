"""What every builder of nodes has: the nodes so far, the numbers of their elements, and where a node comes from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from ...ir.graph import FieldSpec, Node
from ...ir.program import Rect
from ..index import ElementTable


@dataclass(frozen=True)
class Provenance:
    """Where a node comes from: its name in the traced graph, the user's submodule, and whether that computes in float64."""

    name: str
    layer: str
    wide: bool = False

    def __str__(self) -> str:
        return f"{self.name} (layer {self.layer!r})" if self.layer else self.name


class NodeBuilder:
    """Collects nodes and fields."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        self.shape, self.levels = shape, levels
        self.nodes: list[Node] = []
        self.fields: list[FieldSpec] = []
        self.outputs: list[fx.Node] = []
        self.table = ElementTable()
        self.dense_macs = 0

    @property
    def image(self) -> Rect:
        return Rect(0, self.shape[1], 0, self.shape[2])

    def add(self, node: Node) -> Tensor:
        """Append a node; element numbers (rows, cols, F) of the first image."""
        self.nodes.append(node)
        return self.table.add(node)
