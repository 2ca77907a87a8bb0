"""Builds graph nodes from tensors of element numbers: one method for each kind of node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from ..errors import UnsupportedModel
from ..expression import evaluate
from ..graph import (
    CausalAttention,
    ChannelNorm,
    ChannelReduce,
    Edge,
    FieldEdge,
    FieldSpec,
    Gather,
    Input,
    Leaf,
    Node,
    Pointwise,
    Scan,
    StateTap,
    Tap,
    TapConv,
)
from ..program import Keys, Lattice, Op, Rect
from .elements import NEXT_IMAGE, ElementTable, Layout, Rectangle, Value, infer_layout, live_channels, stepped, written_out
from .phases import brought_together
from .values import shape_of

IMAGES = 2
Window = tuple[int, int, int, int]
"""Rows [0], [1] and columns [2], [3] of an array."""


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: its name in the traced graph and the user's submodule."""

    name: str
    layer: str

    def __str__(self) -> str:
        return f"{self.name} (layer {self.layer!r})" if self.layer else self.name


@dataclass(frozen=True)
class _Reads:
    """What one operand reads at each pixel of a layout: arrays (rows, cols, F), and per feature the edge it lies on."""

    known: np.ndarray
    edge: np.ndarray  # (F, 3): source node, row offset, column offset; -1 for features that read no node
    feature: np.ndarray  # (F,)


class _Assembly:
    """Puts an expression together whose operands are sums of several leaves.

    A place is a leaf's number, or ~i for operation i; operations come after all leaves, whose number is known at the end.
    """

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._ops: list[Op] = []
        self._operands: list[int] = []

    def leaf(self, leaf: Leaf) -> int:
        self._leaves.append(leaf)
        return len(self._leaves) - 1

    def op(self, name: str, *places: int) -> int:
        self._ops.append(Op(name, places))
        return ~(len(self._ops) - 1)

    def operand(self, parts: list[int]) -> None:
        """The next operand of the expression: the sum of at most two parts, 0 if there is none."""
        place = parts[0] if parts else self.leaf(0.0)
        self._operands.append(self.op("add", place, parts[1]) if len(parts) == 2 else place)

    def finish(self, ops: Sequence[Op]) -> tuple[tuple[Leaf, ...], tuple[Op, ...]]:
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


class GraphBuilder:
    """Collects nodes and fields; every method returns element numbers of the result's shape."""

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        self.shape, self.levels = shape, levels
        self.nodes: list[Node] = []
        self.fields: list[FieldSpec] = []
        self.outputs: list[fx.Node] = []
        self.table = ElementTable()
        self.dense_macs = 0
        self._last_reads: tuple[object, Tensor, _Reads | None] | None = None  # the tensor is held, so that its address stays

    @property
    def image(self) -> Rect:
        return Rect(0, self.shape[1], 0, self.shape[2])

    def add(self, node: Node) -> Tensor:
        """Append a node; element numbers (rows, cols, F) of the first image."""
        self.nodes.append(node)
        return self.table.add(node)

    def input(self, table: Tensor) -> Tensor:
        """The encoded image from its table (C, K): element numbers (2, C, H, W)."""
        channels = np.arange(self.shape[0])
        node = Input("image", "", len(channels), self.image, channels, table.double().numpy())
        return both_images(self.add(node)).permute(0, 3, 1, 2)

    def embedding(self, at: Origin, ids: Tensor, weight: Tensor) -> Tensor:
        """Rows of `weight` (rows, E) looked up by image values `ids`, written out: element numbers (*ids.shape, E)."""
        place = self.table.places(ids.numpy())
        result = torch.zeros((*ids.shape, weight.shape[1]), dtype=torch.int64)
        for number in np.unique(place.node[place.known]):
            source = self.nodes[number]
            if not isinstance(source, Input):
                raise UnsupportedModel(f"{at} looks up computed features in a table; only image values can be looked up")
            rows = torch.from_numpy(source.table).long()  # (F, K)
            if rows.min() < 0 or rows.max() >= len(weight):
                raise UnsupportedModel(
                    f"{at} looks up values {int(rows.min())} .. {int(rows.max())} in a table of {len(weight)} rows: the "
                    f"head has {self.levels} levels; check its number of levels and encode="
                )
            table = weight.detach().double()[rows].permute(0, 2, 1).reshape(-1, self.levels)  # (F * E, K)
            channels = np.repeat(source.channels, weight.shape[1])
            numbers = written_out(self.add(Input(at.name, at.layer, len(channels), self.image, channels, table.numpy())))
            numbers = numbers.reshape(*numbers.shape[:2], source.features, weight.shape[1])
            here = place.known & (place.node == number)
            looked_up = numbers[place.row[here], place.col[here], place.feature[here]]  # (found, E)
            result[torch.from_numpy(here)] = looked_up + torch.from_numpy(place.image[here] * NEXT_IMAGE)[:, None]
        return result

    # ---------------------------------------------------------------- pointwise

    def pointwise(self, at: Origin, operands: Sequence[Value | float], ops: Sequence[Op], force: bool = False) -> Tensor:
        """Element numbers of an expression over operands that broadcast against each other.

        Elements that no operand takes from the image stay 0, unless `force` makes nodes of them too.
        """
        shape = torch.broadcast_shapes(*(shape_of(operand) for operand in operands if isinstance(operand, Value)))
        numbers = [op.numbers.expand(shape) for op in operands if isinstance(op, Value) and op.numbers is not None]
        layout = infer_layout(self.table, numbers, str(at), size=self.shape[1:])
        maps = [self._map(at, op, layout, shape) for op in operands]
        wanted = layout.inside[0]
        if not force:
            wanted = wanted & np.logical_or.reduce([reads.known for reads in maps if isinstance(reads, _Reads)])
        signatures = np.concatenate([reads.edge for reads in maps if isinstance(reads, _Reads)], 1)  # (F, 3 * edges)
        groups = _groups(signatures)
        if len(groups) == 1 and wanted.all():
            result = self._pointwise_group(at, operands, ops, maps, layout, shape, groups[0], wanted)
            return layout.scatter(both_images(result), shape)
        result = torch.zeros(layout.size[1:], dtype=torch.int64)
        for group in groups:
            chosen = _features(wanted, group)
            if chosen.any():
                found = self._pointwise_group(at, operands, ops, maps, layout, shape, group, chosen)
                result[:, :, torch.from_numpy(group)] = written_out(found)
        return layout.scatter(both_images(result), shape)

    def _pointwise_group(
        self,
        at: Origin,
        operands: Sequence[Value | float],
        ops: Sequence[Op],
        maps: list[_Reads | float | None],
        layout: Layout,
        shape: torch.Size,
        group: np.ndarray,
        chosen: np.ndarray,
    ) -> Tensor:
        """One node for the features in `group`, which read the same edges; element numbers (rows, cols, len(group))."""
        row0, row1, col0, col1 = _hull(chosen)
        window = (slice(row0, row1), slice(col0, col1))
        domain = _placed((row0, row1, col0, col1), layout.row0, layout.col0, layout.steps)
        lattice = Lattice.through(domain.row0, domain.col0, layout.steps)
        assembly = _Assembly()
        for operand, reads in zip(operands, maps, strict=True):
            if isinstance(reads, float):
                assembly.operand([assembly.leaf(reads)])
                continue
            assert isinstance(operand, Value)
            parts: list[int] = []
            known = np.zeros(chosen[window].shape, dtype=bool)
            if reads is not None and reads.edge[group[0], 0] >= 0:
                known = _features(reads.known[window], group)
                edge, mask = _edge(reads, group, known, domain, layout.steps)
                parts.append(assembly.leaf(edge))
                if mask is not None:
                    kept = assembly.leaf(self._static(mask[None], domain, layout.steps))
                    parts = [assembly.op("mul", parts[0], kept)]
            field = self._constant_part(at, operand, layout, shape, window, group, known, domain)
            if field is not None:
                parts.append(assembly.leaf(field))
            assembly.operand(parts)
        leaves, expression = assembly.finish(ops)
        node = Pointwise(at.name, at.layer, len(group), domain, leaves, expression, lattice=lattice)
        folded = self._fold_input(node)
        if folded is None:
            found = self.add(node)
        else:
            table, (row, col) = folded
            rows = slice(domain.row0 + row, domain.row1 + row, layout.steps[0])
            cols = slice(domain.col0 + col, domain.col1 + col, layout.steps[1])
            found = self.add(table)[rows, cols]
        if chosen.all():
            return found
        numbers = torch.zeros(chosen.shape, dtype=torch.int64)
        numbers[window] = written_out(found)
        numbers[torch.from_numpy(~chosen)] = 0
        return numbers

    def _fold_input(self, node: Pointwise) -> tuple[Input, tuple[int, int]] | None:
        """The node as a table, if each of its features is a function of a single image value."""
        edges = [leaf for leaf in node.leaves if isinstance(leaf, Edge)]
        first = edges[0] if edges else None
        channels: np.ndarray | None = None
        tables: list[Tensor] = []
        for leaf in node.leaves:
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
                if not self.image.contains(node.domain.shifted(leaf.row, leaf.col)):
                    return None
                tables.append(torch.from_numpy(source.table[leaf.channels]).float())
            else:
                tables.append(torch.as_tensor(leaf, dtype=torch.float32).reshape(-1, 1))
        if first is None or channels is None:
            return None
        # In float32, as the module computes: `(x * 127).long()` must fall to the same side.
        table = evaluate(node.ops, tables).double().expand(node.features, self.levels).contiguous().numpy()
        return Input(node.name, node.layer, node.features, self.image, channels.copy(), table), (first.row, first.col)

    def _map(self, at: Origin, operand: Value | float, layout: Layout, shape: torch.Size) -> _Reads | float | None:
        if not isinstance(operand, Value):
            return float(operand)
        if operand.numbers is None:
            return None
        maps = layout.gather(operand.numbers.expand(shape))
        settled = self.settled(at, maps, layout.row0, layout.col0, layout.steps)
        return self._reads(at, settled, layout.row0, layout.col0, layout.steps)

    def settled(self, at: Origin, maps: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        """Maps (images, rows, cols, F) whose channels each read one channel at one offset, by a new node if need be."""
        live = live_channels(maps)
        if self._rectangle(maps if live is None else maps[..., live], steps) is not None:
            return maps
        if self._written_reads(at, maps, row0, col0, steps) is not None:
            return maps
        found = brought_together(self, at, maps, row0, col0, steps)
        return maps if found is None else found

    def _rectangle(self, ids: Tensor, steps: tuple[int, int]) -> Rectangle | None:
        """The rectangle that maps in these steps hold, if it is one (`ElementTable.rectangle`)."""
        plain = self.table.rectangle(ids)
        if plain is None:
            return None
        rows = plain.row1 - plain.row0 == 1 or plain.row_step == steps[0]
        cols = plain.col1 - plain.col0 == 1 or plain.col_step == steps[1]
        return plain if rows and cols else None

    def _reads(self, at: Origin, ids: Tensor, row0: int, col0: int, steps: tuple[int, int] = (1, 1)) -> _Reads:
        """What element numbers (images, rows, cols, F) read, relative to pixel (row0 + i * steps[0], col0 + j * steps[1])."""
        live = live_channels(ids)
        plain = self._rectangle(ids if live is None else ids[..., live], steps)
        if plain is not None:
            known = np.zeros(tuple(ids.shape[1:]), dtype=bool)
            here = slice(None) if live is None else live.numpy()
            known[plain.row0 : plain.row1, plain.col0 : plain.col1, here] = True
            corner = plain.corner
            offsets = [corner.node, corner.row - plain.row0 * steps[0] - row0, corner.col - plain.col0 * steps[1] - col0]
            edge, feature = np.full((known.shape[2], 3), -1, dtype=np.int64), np.full(known.shape[2], -1, dtype=np.int64)
            edge[here], feature[here] = np.stack(offsets, 1), corner.feature
            return _Reads(known, edge, feature)
        reads = self._written_reads(at, ids, row0, col0, steps)
        if reads is None:
            raise UnsupportedModel(
                f"{at} reads, along one channel, elements of several channels or at several offsets: rows or columns are "
                "mixed with channels, which cannot be computed pixel by pixel"
            )
        return reads

    def _written_reads(self, at: Origin, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> _Reads | None:
        """See `_reads`; None if some channel reads elements of several channels or at several offsets."""
        # An operation asks several times what the same tensor reads.
        key = (ids.data_ptr(), ids.storage_offset(), ids.shape, ids.stride(), row0, col0, steps)
        if self._last_reads is None or self._last_reads[0] != key or self._last_reads[1].is_meta != ids.is_meta:
            self._last_reads = key, ids, self._find_reads(at, ids, row0, col0, steps)
        return self._last_reads[2]

    def _find_reads(self, at: Origin, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> _Reads | None:
        """See `_written_reads`."""
        numbers = written_out(ids).numpy()
        if len(numbers) > 1 and not np.array_equal(
            np.where(numbers[1] > 0, numbers[1] - NEXT_IMAGE, 0), np.where(numbers[0] > 0, numbers[0], 0)
        ):
            raise UnsupportedModel(f"{at} mixes images of the batch: each image must be computed by itself")
        place = self.table.places(numbers[0])
        rows = np.arange(numbers.shape[1])[:, None, None] * steps[0] + row0
        cols = np.arange(numbers.shape[2])[None, :, None] * steps[1] + col0
        columns = np.stack([place.node, place.row - rows, place.col - cols, place.feature])  # (4, rows, cols, F)
        flat = columns.reshape(4, -1, numbers.shape[3])
        known = place.known.reshape(-1, numbers.shape[3])
        low = np.where(known, flat, np.iinfo(np.int64).max).min(1)
        high = np.where(known, flat, np.iinfo(np.int64).min).max(1)
        reads_any = known.any(0)
        if (low[:, reads_any] != high[:, reads_any]).any():
            return None
        low = np.where(reads_any, low, -1)
        return _Reads(place.known, low[:3].T, low[3])

    # ---------------------------------------------------------------- constants

    def _constant_part(
        self,
        at: Origin,
        operand: Value,
        layout: Layout,
        shape: torch.Size,
        window: tuple[slice, slice],
        group: np.ndarray,
        known: np.ndarray,
        domain: Rect,
    ) -> Leaf | None:
        """The operand's elements that are no elements of nodes, as a leaf; None if they are all zero."""
        if operand.const is None or known.all():
            return None
        hidden = known | ~_features(layout.inside[0][window], group)

        def gathered(tensor: Tensor, blank: int) -> np.ndarray:  # (images, rows or 1, cols or 1, F)
            values = _features(layout.gather(tensor.expand(shape)).numpy()[:, window[0], window[1]], group)
            return _compress(np.where(hidden, blank, values) if hidden.any() else values)

        if operand.dynamic is None:
            values = gathered(operand.const.detach().to(torch.float32), 0)
            if not values.any() and known.any():
                return None
            if not np.array_equal(values[0], values[-1], equal_nan=True):
                raise UnsupportedModel(f"{at} treats the images of a batch differently: each image must be computed by itself")
            return self._static(values[:1], domain, layout.steps)
        positions = torch.arange(operand.const.numel()).view(operand.const.shape)
        return self._dynamic(operand.dynamic, gathered(positions, -1), domain, layout.steps)

    def _static(self, values: np.ndarray, domain: Rect, steps: tuple[int, int]) -> Leaf:
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

    # ---------------------------------------------------------------- products, reductions

    def conv(
        self,
        at: Origin,
        ids: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        row0: int = 0,
        col0: int = 0,
        steps: tuple[int, int] = (1, 1),
        stride: Sequence[int] = (1, 1),
    ) -> Tensor:
        """A convolution over element numbers (images, rows, cols, I) in steps; weight (O, I / groups, kh, kw).

        Elements 0 count as zeros. Returns element numbers (rows', cols', O) of the first image.
        """
        matrix = _dense_weight(weight, groups)  # (O, I, kh, kw)
        reach = [dilation[d] * (matrix.shape[2 + d] - 1) for d in range(2)]
        rows, cols = ((ids.shape[1 + d] + 2 * padding[d] - reach[d] - 1) // stride[d] + 1 for d in range(2))
        self.dense_macs += rows * cols * weight.numel()
        # Centre the kernel: an output stands where its middle tap reads.
        middle = (reach[0] // 2, reach[1] // 2)
        offsets = [[(a * dilation[d] - middle[d]) * steps[d] for a in range(matrix.shape[2 + d])] for d in range(2)]
        top, left = row0 + (middle[0] - padding[0]) * steps[0], col0 + (middle[1] - padding[1]) * steps[1]
        wide = (steps[0] * stride[0], steps[1] * stride[1])
        domain = _placed((0, rows, 0, cols), top, left, wide)
        reads = self._reads(at, ids, row0, col0, steps)
        return self._tap_conv(at, reads, matrix, bias, offsets, (row0, col0, steps), domain, wide)

    def conv_transposed(
        self,
        at: Origin,
        ids: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        row0: int,
        col0: int,
        steps: tuple[int, int],
    ) -> Tensor:
        """A transposed convolution over (images, rows, cols, I); the stride divides the steps; weight (I, O / groups, kh, kw).

        Input i stands where output i * stride does. An output reads, at constant offsets, the taps whose inputs exist: the
        others lie between the elements of what it reads.
        """
        matrix = _dense_weight_transposed(weight, groups)  # (O, I, kh, kw)
        fine = (steps[0] // stride[0], steps[1] // stride[1])
        reach = [dilation[d] * (matrix.shape[2 + d] - 1) for d in range(2)]
        rows, cols = (
            (ids.shape[1 + d] - 1) * stride[d] - 2 * padding[d] + reach[d] + output_padding[d] + 1 for d in range(2)
        )
        self.dense_macs += ids.shape[1] * ids.shape[2] * weight.numel()
        offsets = [[(padding[d] - a * dilation[d]) * fine[d] for a in range(matrix.shape[2 + d])] for d in range(2)]
        reads = self._reads(at, self._own_copy(at, ids, row0, col0, steps), row0, col0, steps)
        domain = _placed((0, rows, 0, cols), row0, col0, fine)
        return self._tap_conv(at, reads, matrix, bias, offsets, (row0, col0, steps), domain, fine)

    def _tap_conv(
        self,
        at: Origin,
        reads: _Reads,
        matrix: np.ndarray,
        bias: Tensor | None,
        offsets: list[list[int]],
        origin: tuple[int, int, tuple[int, int]],
        domain: Rect,
        steps: tuple[int, int],
    ) -> Tensor:
        """One node over a domain in steps, for a matrix (O, I, kh, kw) whose taps lie at row and column offsets in pixels."""
        taps: list[Tap] = []
        for group in _groups(reads.edge):
            source, row, col = (int(v) for v in reads.edge[group[0]])
            if source < 0:
                continue
            rect = _placed(self._full_rect(at, reads, group), *origin).shifted(row, col)
            for a, down in enumerate(offsets[0]):
                for b, right in enumerate(offsets[1]):
                    block = np.ascontiguousarray(matrix[:, group, a, b].T)  # (I', O)
                    if block.any():
                        taps.append(Tap(Edge(source, down + row, right + col, reads.feature[group], rect), block))
        vector = np.zeros(len(matrix), np.float32) if bias is None else bias.detach().float().numpy().copy()
        lattice = Lattice.through(domain.row0, domain.col0, steps)
        return self.add(TapConv(at.name, at.layer, len(matrix), domain, tuple(taps), vector, lattice=lattice))

    def _own_copy(self, at: Origin, ids: Tensor, row0: int, col0: int, steps: tuple[int, int]) -> Tensor:
        """Maps (images, rows, cols, F) from nodes that have no elements between those of the maps, copied if need be."""
        reads = self._reads(at, ids, row0, col0, steps)
        result = written_out(ids).clone()
        copied = False
        for group in _groups(reads.edge):
            source, row, col = (int(v) for v in reads.edge[group[0]])
            if source < 0:
                continue
            window = self._full_rect(at, reads, group)
            domain = _placed(window, row0, col0, steps)
            lattice = Lattice.through(domain.row0, domain.col0, steps)
            if lattice.shifted(row, col).contains(self.nodes[source].lattice):
                continue
            edge = Edge(source, row, col, reads.feature[group], domain.shifted(row, col))
            numbers = both_images(self.add(Pointwise(at.name, at.layer, len(group), domain, (edge,), (), lattice=lattice)))
            result[:, window[0] : window[1], window[2] : window[3], torch.from_numpy(group)] = written_out(numbers)
            copied = True
        return result if copied else ids

    def is_regular(self, at: Origin, ids: Tensor, row0: int = 0, col0: int = 0, steps: tuple[int, int] = (1, 1)) -> bool:
        """Whether each channel of (images, rows, cols, F) is a full rectangle of one node's feature, or constant."""
        reads = self._reads(at, ids, row0, col0, steps)
        for group in _groups(reads.edge):
            known = _features(reads.known, group)
            if reads.edge[group[0], 0] >= 0 and not _is_full(known):
                return False
        return True

    def _full_rect(self, at: Origin, reads: _Reads, group: np.ndarray) -> Window:
        known = _features(reads.known, group)
        if not _is_full(known):
            raise UnsupportedModel(
                f"{at} reads elements whose places in the image form no rectangle (a sequence of pixels that is shifted by one "
                "wraps around at the end of each row): these cannot be computed pixel by pixel"
            )
        return _hull(known)

    def reduce(
        self, at: Origin, ids: Tensor, kind: str, correction: float, row0: int, col0: int, steps: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """A reduction over all features of element numbers (images, rows, cols, F); returns (rows, cols, 1)."""
        edges, domain = self._edges(at, ids, row0, col0, steps)
        lattice = Lattice.through(row0, col0, steps)
        return self.add(ChannelReduce(at.name, at.layer, 1, domain, edges, kind, correction, lattice=lattice))

    def norm(
        self,
        at: Origin,
        ids: Tensor,
        scale: np.ndarray,
        shift: np.ndarray,
        eps: float,
        row0: int,
        col0: int,
        steps: tuple[int, int] = (1, 1),
    ) -> Tensor:
        """Layer normalisation over all features of (images, rows, cols, F); returns (rows, cols, F)."""
        edges, domain = self._edges(at, ids, row0, col0, steps)
        lattice = Lattice.through(row0, col0, steps)
        return self.add(ChannelNorm(at.name, at.layer, len(scale), domain, edges, scale, shift, eps, lattice=lattice))

    def attention(
        self, at: Origin, parts: Sequence[Tensor], heads: int, scale: float, seen: Keys, bias: np.ndarray | None, refusal: str
    ) -> Tensor:
        """Attention of queries to keys with values, maps (images, H, W, F) each; returns (H, W, heads * D).

        Keys and values are gathered in one node: they are kept for as long.
        """
        query, keys, values = (self._edges(at, part, 0, 0)[0] for part in parts)
        asking, cache = self._gather(at, "query", query), self._gather(at, "cache", (*keys, *values))
        latest = seen.latest_offset(self.shape[1], self.shape[2])
        features = parts[2].shape[3]
        self.dense_macs += (parts[0].shape[3] + features) * (self.image.row1 * self.image.col1) ** 2
        cached = Edge(cache, *latest, np.arange(self.nodes[cache].features), self.image)
        asked = Edge(asking, 0, 0, np.arange(self.nodes[asking].features), self.image)
        return self.add(
            CausalAttention(at.name, at.layer, features, self.image, asked, cached, heads, scale, seen, bias, refusal)
        )

    def _gather(self, at: Origin, what: str, edges: tuple[Edge, ...]) -> int:
        """The channels of all edges side by side; the number of their node."""
        features = sum(len(edge.channels) for edge in edges)
        self.add(Gather(f"{at.name}_{what}", at.layer, features, self.image, edges))
        return len(self.nodes) - 1

    def scan(
        self, at: Origin, ids: Tensor, taps: Sequence[StateTap], cell: tuple[int, int], sweep: int, row0: int, col0: int
    ) -> Tensor:
        """The states of an LSTM over gates (images, rows, cols, 4F); returns (rows, cols, F)."""
        edges, domain = self._edges(at, ids, row0, col0)
        self.dense_macs += ids.shape[1] * ids.shape[2] * sum(tap.weights.size for tap in taps)
        return self.add(Scan(at.name, at.layer, ids.shape[3] // 4, domain, edges, tuple(taps), cell, sweep))

    def _edges(
        self, at: Origin, ids: Tensor, row0: int, col0: int, steps: tuple[int, int] = (1, 1)
    ) -> tuple[tuple[Edge, ...], Rect]:
        """Edges that together hold all features in order; every element must be one of a node."""
        reads = self._reads(at, self.settled(at, ids, row0, col0, steps), row0, col0, steps)
        domain = _placed((0, ids.shape[1], 0, ids.shape[2]), row0, col0, steps)
        edges = []
        for run in _runs(reads.edge):
            source, row, col = (int(v) for v in reads.edge[run[0]])
            edges.append(Edge(source, row, col, reads.feature[run], domain.shifted(row, col)))
        return tuple(edges), domain

    def edge_runs(self, at: Origin, ids: Tensor, row0: int, col0: int) -> tuple[Edge, ...]:
        """The edges that hold the features of (images, rows, cols, F) in order, for the graph's outputs."""
        return self._edges(at, ids, row0, col0)[0]


def both_images(numbers: Tensor) -> Tensor:
    """Element numbers of the first image as those of both: (rows, cols, F) -> (images, rows, cols, F)."""
    if numbers.is_meta:
        return stepped(int(numbers.storage_offset()), (IMAGES, *numbers.shape), (NEXT_IMAGE, *numbers.stride()))
    return torch.stack([torch.where(numbers > 0, numbers + n * NEXT_IMAGE, 0) for n in range(IMAGES)])


def _groups(signatures: np.ndarray) -> list[np.ndarray]:
    """Indices of equal rows, in the order of their first appearance."""
    _, first, inverse = np.unique(signatures, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    return [np.flatnonzero(inverse == group) for group in np.argsort(first)]


def _runs(signatures: np.ndarray) -> list[np.ndarray]:
    """Indices of consecutive equal rows."""
    breaks = np.flatnonzero((signatures[1:] != signatures[:-1]).any(1)) + 1
    return np.split(np.arange(len(signatures)), breaks)


def _hull(mask: np.ndarray) -> Window:
    """Rows [row0, row1) and columns [col0, col1) that hold all True entries of a mask (rows, cols, F)."""
    rows, cols = np.flatnonzero(mask.any((1, 2))), np.flatnonzero(mask.any((0, 2)))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def _is_full(known: np.ndarray) -> bool:
    row0, row1, col0, col1 = _hull(known)
    return bool(known[row0:row1, col0:col1].all())


def _placed(window: Window, row0: int, col0: int, steps: tuple[int, int]) -> Rect:
    """The pixels of positions [window[0], window[1]) x [window[2], window[3]) in steps from (row0, col0)."""
    rows, cols = (row0, window[0], window[1], steps[0]), (col0, window[2], window[3], steps[1])
    (top, bottom), (left, right) = ((start + a * step, start + (b - 1) * step + 1) for start, a, b, step in (rows, cols))
    return Rect(top, bottom, left, right)


def _spread(array: np.ndarray, steps: tuple[int, int], blank: int) -> np.ndarray:
    """(images, rows or 1, cols or 1, F) in steps as numbers for every pixel, `blank` between."""
    images, rows, cols, features = array.shape
    if steps == (1, 1) or (rows, cols) == (1, 1):
        return array
    spread = np.full((images, (rows - 1) * steps[0] + 1, (cols - 1) * steps[1] + 1, features), blank, array.dtype)
    spread[:, :: steps[0], :: steps[1]] = array
    return spread


def _edge(
    reads: _Reads, group: np.ndarray, known: np.ndarray, domain: Rect, steps: tuple[int, int]
) -> tuple[Edge, np.ndarray | None]:
    """The edge of a group of features, and a mask (rows, cols, F) if it does not read a full rectangle."""
    source, row, col = (int(v) for v in reads.edge[group[0]])
    row0, row1, col0, col1 = _hull(known)
    rect = _placed((row0, row1, col0, col1), domain.row0 + row, domain.col0 + col, steps)
    edge = Edge(source, row, col, reads.feature[group], rect)
    return edge, None if known[row0:row1, col0:col1].all() else known


def _features(maps: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The features in `group` (ascending) of maps (..., F); the maps themselves if these are all."""
    return maps if len(group) == maps.shape[-1] else maps[..., group]


def _compress(array: np.ndarray) -> np.ndarray:
    """(images, rows, cols, F) with rows and columns of size 1 where nothing changes along them."""
    if array.strides[1] == 0 or (array == array[:, :1]).all():
        array = array[:, :1]
    if array.strides[2] == 0 or (array == array[:, :, :1]).all():
        array = array[:, :, :1]
    return np.ascontiguousarray(array)


def _dense_weight_transposed(weight: Tensor, groups: int) -> np.ndarray:
    """(I, O / groups, kh, kw) as (O, I, kh, kw), with zeros between groups."""
    outputs = weight.shape[1]
    parts = weight.detach().reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)  # (groups, O / groups, I / groups, kh, kw)
    return _dense_weight(parts.reshape(groups * outputs, -1, *weight.shape[2:]), groups)


def _dense_weight(weight: Tensor, groups: int) -> np.ndarray:
    """(O, I / groups, kh, kw) as (O, I, kh, kw), with zeros between groups."""
    array = weight.detach().float().numpy()
    if groups == 1:
        return array
    outputs, inputs = array.shape[0] // groups, array.shape[1]
    dense = np.zeros((array.shape[0], inputs * groups, *array.shape[2:]), np.float32)
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * inputs : (g + 1) * inputs] = array[rows]
    return dense
