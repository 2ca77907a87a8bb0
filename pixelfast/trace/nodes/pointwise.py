"""Builds pointwise nodes: an expression over edges, fields and numbers, one node for the features that read alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx

from ...errors import UnsupportedModel
from ...ir.expression import evaluate
from ...ir.graph import Edge, FieldEdge, FieldSpec
from ...ir.program import Lattice, Op, Rect
from ...ops import Input, Operand, Pointwise
from ..index import both_images, written_out
from ..layout_types import Layout
from ..layouts import infer_layout
from ..values import Value, shape_of
from .base import Provenance
from .reads import ReadingBuilder, Reads, equal_rows, hull_of, of_group, placed


class _Assembly:
    """Puts an expression together whose operands are sums of several leaves.

    A place is a leaf's number, or ~i for operation i; operations come after all leaves, whose number is known at the end.
    """

    def __init__(self) -> None:
        self._leaves: list[Operand] = []
        self._ops: list[Op] = []
        self._operands: list[int] = []

    def leaf(self, leaf: Operand) -> int:
        self._leaves.append(leaf)
        return len(self._leaves) - 1

    def op(self, name: str, *places: int) -> int:
        self._ops.append(Op(name, places))
        return ~(len(self._ops) - 1)

    def operand(self, parts: list[int], mask: Operand | None = None) -> None:
        """The next operand of the expression: the sum of at most two parts, 0 if there is none; with a mask, one of the two."""
        place = parts[0] if parts else self.leaf(0.0)
        if mask is not None:
            place = self.op("where", self.leaf(mask), place, parts[1] if len(parts) == 2 else self.leaf(0.0))
        elif len(parts) == 2:
            place = self.op("add", place, parts[1])
        self._operands.append(place)

    def finish(self, ops: Sequence[Op]) -> tuple[tuple[Operand, ...], tuple[Op, ...]]:
        """Leaves and operations, with the arguments of `ops` counted over operands, then operations."""
        count = len(self._leaves)

        def index(place: int) -> int:
            return place if place >= 0 else count + ~place

        prepared = [Op(op.name, tuple(map(index, op.args))) for op in self._ops]
        later = count + len(prepared) - len(self._operands)
        main = [
            Op(op.name, tuple(index(self._operands[a]) if a < len(self._operands) else a + later for a in op.args))
            for op in ops
        ]
        return tuple(self._leaves), (*prepared, *main)


class PointwiseBuilder(ReadingBuilder):
    """Nodes for expressions; what does not depend on the image becomes numbers and fields."""

    def pointwise(
        self, at: Provenance, operands: Sequence[Value | float], ops: Sequence[Op], force: bool = False,
        layout: Layout | None = None,
    ) -> Tensor:  # fmt: skip
        """Element numbers of an expression over operands that broadcast against each other.

        Elements that no operand takes from the image stay 0, unless `force` makes nodes of them too, wherever the layout has a
        place for them. The layout is that of the operands' elements if none is given.
        """
        shape = torch.broadcast_shapes(*(shape_of(operand) for operand in operands if isinstance(operand, Value)))
        if layout is None:
            numbers = [op.numbers.expand(shape) for op in operands if isinstance(op, Value) and op.numbers is not None]
            layout = infer_layout(self.table, numbers, str(at), size=self.shape[1:])
        maps = [self._map(at, op, layout, shape) for op in operands]
        wanted = layout.inside[0]
        if not force:
            wanted = wanted & np.logical_or.reduce([reads.known for reads in maps if isinstance(reads, Reads)])
        edges = [reads.edge for reads in maps if isinstance(reads, Reads)]
        signatures = np.concatenate(edges or [np.zeros((layout.size[3], 1))], 1)  # (F, 3 * edges)
        groups = equal_rows(signatures)
        if len(groups) == 1 and wanted.all():
            result = self._pointwise_group(at, operands, ops, maps, layout, shape, groups[0], wanted)
            return layout.scatter(both_images(result), shape)
        result = torch.zeros(layout.size[1:], dtype=torch.int64)
        for group in groups:
            chosen = of_group(wanted, group)
            if chosen.any():
                found = self._pointwise_group(at, operands, ops, maps, layout, shape, group, chosen)
                result[:, :, torch.from_numpy(group)] = written_out(found)
        return layout.scatter(both_images(result), shape)

    def _pointwise_group(
        self,
        at: Provenance,
        operands: Sequence[Value | float],
        ops: Sequence[Op],
        maps: list[Reads | float | None],
        layout: Layout,
        shape: torch.Size,
        group: np.ndarray,
        chosen: np.ndarray,
    ) -> Tensor:
        """One node for the features in `group`, which read the same edges; element numbers (rows, cols, len(group))."""
        row0, row1, col0, col1 = hull_of(chosen)
        window = (slice(row0, row1), slice(col0, col1))
        domain = placed((row0, row1, col0, col1), layout.row0, layout.col0, layout.steps)
        lattice = Lattice.through(domain.row0, domain.col0, layout.steps)
        assembly = _Assembly()
        for operand, reads in zip(operands, maps, strict=True):
            if isinstance(reads, float):
                assembly.operand([assembly.leaf(reads)])
                continue
            assert isinstance(operand, Value)
            known = np.zeros(chosen[window].shape, dtype=bool)
            parts, mask = [], None
            if reads is not None and reads.edge[group[0], 0] >= 0:
                known = of_group(reads.known[window], group)
                edge, mask = _edge(reads, group, known, domain, layout.steps)
                parts.append(assembly.leaf(edge))
            field = self._constant_part(at, operand, layout, shape, window, group, known, domain)
            if field is not None:
                parts.append(assembly.leaf(field))
            # An edge is zero outside its rectangle. Within, what takes its place is chosen: a product with 0 would keep NaN.
            assembly.operand(parts, None if mask is None else self._static(mask[None], domain, layout.steps))
        leaves, expression = assembly.finish(ops)
        node = Pointwise.of(at.name, at.layer, len(group), domain, leaves, expression, lattice)
        folded = self._fold_input(node, torch.float64 if at.wide else torch.float32)
        if folded is None:
            result = self.add(node)
        else:
            table, (row, col) = folded
            rows = slice(domain.row0 + row, domain.row1 + row, layout.steps[0])
            cols = slice(domain.col0 + col, domain.col1 + col, layout.steps[1])
            result = self.add(table)[rows, cols]
        if chosen.all():
            return result
        numbers = torch.zeros(chosen.shape, dtype=torch.int64)
        numbers[window] = written_out(result)
        numbers[torch.from_numpy(~chosen)] = 0
        return numbers

    def _fold_input(self, node: Pointwise, dtype: torch.dtype) -> tuple[Input, tuple[int, int]] | None:
        """The node as a table, computed in a type, if each of its features is a function of a single image value."""
        edges = [leaf for leaf in node.operands if isinstance(leaf, Edge)]
        first = edges[0] if edges else None
        channels: np.ndarray | None = None
        tables: list[Tensor] = []
        for leaf in node.operands:
            if isinstance(leaf, FieldEdge):
                return None
            if isinstance(leaf, Edge):
                source = self.nodes[leaf.source]
                assert first is not None
                if not isinstance(source, Input) or (leaf.row, leaf.col) != (first.row, first.col):
                    return None
                reads = np.broadcast_to(source.channels[leaf.channels], (node.features,))
                if channels is not None and (channels != reads).any():
                    return None
                channels = reads
                if not self.image.contains(there := node.domain.shifted(leaf.row, leaf.col)) or not leaf.rect.contains(there):
                    return None
                tables.append(torch.from_numpy(source.table[leaf.channels]).to(dtype))
            else:
                tables.append(torch.as_tensor(leaf, dtype=dtype).reshape(-1, 1))
        if first is None or channels is None:
            return None
        # As the module computes: `(x * 127).long()` must fall to the same side.
        table = evaluate(node.ops, tables).double().expand(node.features, self.levels).contiguous().numpy()
        result = Input(node.name, node.layer, node.features, self.image, (), channels.copy(), table)
        return result, (first.row, first.col)

    def _map(self, at: Provenance, operand: Value | float, layout: Layout, shape: torch.Size) -> Reads | float | None:
        if not isinstance(operand, Value):
            return float(operand)
        if operand.numbers is None:
            return None
        maps = layout.gather(operand.numbers.expand(shape))
        settled = self.settled(at, maps, layout.row0, layout.col0, layout.steps)
        return self._reads(at, settled, layout.row0, layout.col0, layout.steps)

    # ---------------------------------------------------------------- constants

    def _constant_part(
        self,
        at: Provenance,
        operand: Value,
        layout: Layout,
        shape: torch.Size,
        window: tuple[slice, slice],
        group: np.ndarray,
        known: np.ndarray,
        domain: Rect,
    ) -> Operand | None:
        """The operand's elements that are no elements of nodes, as a leaf; None if they are all zero."""
        if operand.const is None or known.all():
            return None
        hidden = known | ~of_group(layout.inside[0][window], group)

        def gathered(tensor: Tensor, blank: int) -> np.ndarray:  # (images, rows or 1, cols or 1, F)
            values = of_group(layout.gather(tensor.expand(shape)).numpy()[:, window[0], window[1]], group)
            return _compress(np.where(hidden, blank, values) if hidden.any() else values)

        if operand.dynamic is None:
            values = gathered(operand.const.detach().to(torch.float32), 0)
            if not values.any() and known.any():
                return None
            return self._static(_of_each_image(at, values), domain, layout.steps)
        positions = torch.arange(operand.const.numel()).view(operand.const.shape)
        return self._dynamic(operand.dynamic, gathered(positions, -1), domain, layout.steps)

    def known(self, at: Provenance, maps: Tensor, dynamic: fx.Node | None) -> Tensor:
        """One node that holds maps (images, H, W, F) of numbers, or of places in what a node of the condition graph gives."""
        array = maps.detach().numpy()
        leaf: Operand
        if dynamic is None:
            leaf = self._static(_of_each_image(at, array), self.image, (1, 1))
        else:
            leaf = self._dynamic(dynamic, array, self.image, (1, 1))
        return both_images(self.add(Pointwise.of(at.name, at.layer, array.shape[3], self.image, (leaf,), ())))

    def _static(self, values: np.ndarray, domain: Rect, steps: tuple[int, int]) -> Operand:
        """A leaf for values (1, rows or 1, cols or 1, F): a number, a vector, or a field."""
        values = _compress(values).astype(np.float32)
        if values.shape[1:3] == (1, 1):
            vector = values[0, 0, 0]
            if (vector == vector[0]).all():
                return float(vector[0])
            return vector.copy()
        values = _spread(values, steps, 0)
        self.fields.append(FieldSpec(domain.row0, domain.col0, values))
        return FieldEdge(len(self.fields) - 1, np.arange(values.shape[3]))

    def _dynamic(self, node: fx.Node, index: np.ndarray, domain: Rect, steps: tuple[int, int]) -> FieldEdge:
        if node not in self.outputs:
            self.outputs.append(node)
        if np.array_equal(index[0], index[-1]):
            index = index[:1]
        index = _spread(index, steps, -1)
        spec = FieldSpec(domain.row0, domain.col0, None, self.outputs.index(node), index)
        self.fields.append(spec)
        return FieldEdge(len(self.fields) - 1, np.arange(index.shape[3]))


def _of_each_image(at: Provenance, values: np.ndarray) -> np.ndarray:
    """Known numbers (images, rows, cols, F) as those of one: PyTorch may sum the rows of a product in different orders."""
    if not np.allclose(values[0], values[-1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UnsupportedModel(f"{at} treats the images of a batch differently: each image must be computed by itself")
    return values[:1]


def _spread(array: np.ndarray, steps: tuple[int, int], blank: int) -> np.ndarray:
    """(images, rows or 1, cols or 1, F) in steps as numbers for every pixel, `blank` between."""
    images, rows, cols, features = array.shape
    if steps == (1, 1) or (rows, cols) == (1, 1):
        return array
    spread = np.full((images, (rows - 1) * steps[0] + 1, (cols - 1) * steps[1] + 1, features), blank, array.dtype)
    spread[:, :: steps[0], :: steps[1]] = array
    return spread


def _edge(
    reads: Reads, group: np.ndarray, known: np.ndarray, domain: Rect, steps: tuple[int, int]
) -> tuple[Edge, np.ndarray | None]:
    """The edge of a group of features, and a mask (rows, cols, F) if it does not read a full rectangle."""
    source, row, col = (int(v) for v in reads.edge[group[0]])
    row0, row1, col0, col1 = hull_of(known)
    rect = placed((row0, row1, col0, col1), domain.row0 + row, domain.col0 + col, steps)
    edge = Edge(source, row, col, reads.feature[group], rect)
    return edge, None if known[row0:row1, col0:col1].all() else known


def _compress(array: np.ndarray) -> np.ndarray:
    """(images, rows, cols, F) with rows and columns of size 1 where nothing changes along them."""
    if array.strides[1] == 0 or (array == array[:, :1]).all():
        array = array[:, :1]
    if array.strides[2] == 0 or (array == array[:, :, :1]).all():
        array = array[:, :, :1]
    return np.ascontiguousarray(array)
