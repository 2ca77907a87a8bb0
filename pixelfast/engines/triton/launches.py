"""From instructions to launches of kernels: one function for each, for one column or for all columns of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...ir.program import (
    Attention,
    Cache,
    Draw,
    Encode,
    Instruction,
    Lookup,
    Map,
    Norm,
    Product,
    Program,
    Reduce,
    Slot,
    unknown_body,
)
from ...kernels import attention, draw, lookup, norm, pixel_stage, pointwise, row_products
from ...kernels.launch import Launch, power_of_two
from ...kernels.operand import ALIGNMENT
from .memory import HALVES, NO_HALF, Memory, Row, alignment, chunk_of, pack
from .stages import Stage

REDUCED = 128
"""Features that a reduction reads at a time."""


@dataclass(frozen=True)
class State:
    """What a call changes besides the arena: tensors on the device that captured launches refer to.

    Attributes:
        position: int32 (2,): the running row, and the column from which launches count theirs.
        noise, values: (N, H, W, C).
        parameters: (N, H, W, C, P), or None if nobody wants them.
        log_prob: float64 (N,).
        temperature: float64 (1,).
        status: int64 (1,): see `kernels.draw`.
    """

    position: Tensor
    noise: Tensor
    values: Tensor
    parameters: Tensor | None
    log_prob: Tensor
    temperature: Tensor
    status: Tensor

    @staticmethod
    def make(program: Program, images: int, want_parameters: bool, device: torch.device) -> State:
        channels, height, width = program.shape
        shape = (images, height, width, channels)
        return State(
            position=torch.zeros(2, dtype=torch.int32, device=device),
            noise=torch.zeros(shape, dtype=torch.float32, device=device),
            values=torch.zeros(shape, dtype=torch.int32, device=device),
            parameters=torch.zeros(*shape, program.parameters, dtype=torch.float32, device=device) if want_parameters else None,
            log_prob=torch.zeros(images, dtype=torch.float64, device=device),
            temperature=torch.ones(1, dtype=torch.float64, device=device),
            status=torch.zeros(1, dtype=torch.int64, device=device),
        )


class Launches:
    """Makes the launches of one program in one memory.

    Args:
        weights: packed weights that other memories of the same program and device may already have.
        own: how many images a program of a persistent kernel owns, which runs what `pixel` gives; 0: it is launched.
    """

    def __init__(
        self, memory: Memory, state: State, precision: str, weights: dict[tuple[object, ...], Tensor], own: int = 0
    ) -> None:
        self.memory, self.state, self.precision, self.weights, self.own = memory, state, precision, weights, own
        self.program = memory.program

    def whole_row(self, instruction: Instruction) -> Launch:
        """Over all columns of the instruction's rectangle."""
        return self.instruction(instruction, instruction.rect.col1 - instruction.rect.col0)

    def pixel(self, work: Stage | Instruction) -> Launch:
        """At one column."""
        return self.stage(work) if isinstance(work, Stage) else self.instruction(work, 1)

    def _own(self, columns: int) -> int:
        """Several columns at once are always a launch of their own."""
        return self.own if columns == 1 else 0

    def instruction(self, instruction: Instruction, columns: int) -> Launch:
        out = instruction.out
        match instruction.body:
            case Product() as body:
                return self.product(out, body, columns)
            case Lookup() as body:
                return self.lookup(out, body, columns)
            case Map() as body:
                return self.map(out, body, columns)
            case Reduce() as body:
                return self.reduce(out, body, columns)
            case Norm() as body:
                return self.norm(out, body, columns)
            case Attention() as body:
                return self.attention(instruction, body, columns)
            case body:
                raise unknown_body(body, "the Triton engine")

    def product(self, out: Slot, product: Product, columns: int) -> Launch:
        memory, add = self.memory, product.bias is None
        most = max((tap.count for tap in product.taps), default=1)
        _, features, chunk = row_products.tile(columns * memory.images, most)
        block = min(features, max(16, power_of_two(out.count)))
        written = memory.slot(out)
        taps = memory.runs(product.taps, chunk)
        rows = [written, written if product.bias is None else memory.vector(product.bias), *taps]
        return row_products.row_products(
            memory.arena, self.packed(product, chunk, 1, block), memory.table(rows), self.state.position, add=add,
            columns=columns, images=memory.images, features=out.count, chunk=chunk, align=alignment([written]),
            taps=alignment(taps, counts=True),
        )  # fmt: skip

    def stage(self, stage: Stage) -> Launch:
        memory, product = self.memory, stage.product
        count, add = len(stage.parts), product.bias is None
        rows = [memory.slot(part) for part in stage.parts]
        used = [*rows]  # with their strides, while of vectors only the start is
        for part in stage.parts:
            bias = rows[0] if product.bias is None else memory.vector(product.bias)
            rows.append([*bias[:4], bias[4] + part.channel - stage.start.out.channel, *bias[5:]])
        steps: list[pixel_stage.Step] = []
        for index, ((out, body), names) in enumerate(zip(stage.tail, stage.registers, strict=True)):
            if isinstance(body, Norm):
                assert names[0] is not None
                steps.append(pixel_stage.NormStep(names[0], body.eps))
                rows += [memory.vector(body.scale), memory.vector(body.shift)]
            else:
                steps.append(pixel_stage.MapStep(_leaves(out, body, names), body.ops))
                read = [memory.leaf(x) for x, name in zip(body.leaves, names, strict=True) if _operand(x, name)]
                rows, used = rows + read, used + read
            if f"z{index}" in stage.stored:
                rows.append(memory.slot(out))
                used.append(rows[-1])
        chunk, block = chunk_of(product), pixel_stage.feature_block(stage.features, steps, self.own)
        taps = memory.runs(product.taps, chunk)
        return pixel_stage.pixel_stage(
            memory.arena, self.packed(product, chunk, count, block), memory.table(rows + taps), self.state.position,
            pixel_stage.Ending(count, add, tuple(steps), stage.stored), images=memory.images, features=stage.features,
            block=block, chunk=chunk, align=alignment(used), taps=alignment(taps, counts=True), own=self.own,
        )  # fmt: skip

    def packed(self, product: Product, chunk: int, parts: int, block: int) -> Tensor:
        key = (id(product), chunk, parts, block, str(self.memory.device))
        if key not in self.weights:
            self.weights[key] = pack(product, chunk, parts, block, self.precision).to(self.memory.device)
        return self.weights[key]

    def map(self, out: Slot, map: Map, columns: int) -> Launch:
        rows = [self.memory.slot(out), *(self.memory.leaf(leaf) for leaf in map.leaves if _operand(leaf))]
        if out.buffer in self.memory.halves:
            return attention.keep(
                self.memory.arena, self.memory.arena.view(torch.float16), self.memory.table(rows), self.state.position,
                columns=columns, images=self.memory.images, features=out.count,
            )  # fmt: skip
        return self.pointwise(out, map, rows, columns)

    def pointwise(self, out: Slot, map: Map, rows: Sequence[Row], columns: int) -> Launch:
        leaves = [_broadcast(leaf, out.count) if _operand(leaf) else leaf for leaf in map.leaves]
        return pointwise.pointwise(
            self.memory.arena, self.memory.table(rows), self.state.position, leaves, map.ops, columns=columns,  # type: ignore[arg-type]
            images=self.memory.images, features=out.count, align=alignment(rows), own=self._own(columns),
        )  # fmt: skip

    def clear(self, buffer: int, poison: bool, columns: int) -> Launch:
        """Zeros, or NaN, everywhere in some columns of a buffer."""
        row = self.memory.whole(buffer)
        value = 0.0 if not poison else NO_HALF if buffer in self.memory.halves else float("nan")
        return self.pointwise(Slot(buffer, 0, row[3]), Map((value,), ()), [row], columns)

    def lookup(self, out: Slot, lookup_: Lookup, columns: int) -> Launch:
        memory, (_, levels, features) = self.memory, lookup_.tables.shape
        start = memory.vector(lookup_.tables)[4]
        places = [[tap.row, tap.col, tap.channel, start + i * levels * features] for i, tap in enumerate(lookup_.taps)]
        written = memory.slot(out)
        return lookup.lookup(
            memory.arena, self.state.values, torch.tensor(places).to(memory.device), memory.table([written]),
            self.state.position, columns=columns, images=memory.images, features=features, align=alignment([written]),
            own=self._own(columns),
        )  # fmt: skip

    def norm(self, out: Slot, norm_: Norm, columns: int) -> Launch:
        memory = self.memory
        rows = [memory.slot(out), memory.slot(norm_.source), memory.vector(norm_.scale), memory.vector(norm_.shift)]
        return norm.norm(
            memory.arena, memory.table(rows), self.state.position, norm_.eps, columns=columns, images=memory.images,
            features=out.count, align=alignment(rows[:2]), own=self._own(columns),
        )  # fmt: skip

    def reduce(self, out: Slot, reduce: Reduce, columns: int) -> Launch:
        memory, count = self.memory, sum(source.count for source in reduce.sources)
        width = min(REDUCED, power_of_two(max(source.count for source in reduce.sources)))
        rows = [memory.slot(out), *memory.runs(reduce.sources, width)]
        return norm.reduce(
            memory.arena, memory.table(rows), self.state.position, reduce.kind, reduce.correction, columns=columns,
            images=memory.images, features=count, width=width, align=alignment(rows), own=self._own(columns),
        )  # fmt: skip

    def attention(self, instruction: Instruction, attention_: Attention, columns: int) -> Launch:
        memory, seen, bias, heads = self.memory, attention_.seen, attention_.bias, attention_.heads
        low = attention_.keys.buffer in memory.halves
        caches = [memory.slot(_standing(cache)) for cache in (attention_.keys, attention_.values)]
        out = memory.slot(instruction.out)
        rows = [out, memory.slot(attention_.query), *caches, out if bias is None else memory.vector(bias)]
        most, sizes = HALVES if low else ALIGNMENT, (attention_.keys.count // heads, attention_.values.count // heads)
        align = alignment(caches, most) if all(size % most == 0 for size in sizes) else 1
        lengths = seen.runs[:, 1] - seen.runs[:, 0]
        # Where each run's first pixel stands in the bias: that has the pixels of all lists one after another.
        places = np.column_stack([seen.runs, np.cumsum(lengths) - lengths])
        lists, runs = (torch.from_numpy(array.astype(np.int64)).to(memory.device) for array in (seen.offsets, places))
        return attention.attention(
            memory.arena, memory.arena.view(torch.float16) if low else memory.arena, lists, runs, memory.table(rows),
            self.state.position, columns=columns, images=memory.images, width=self.program.shape[2], heads=heads, sizes=sizes,
            rect=instruction.rect, masked=attention_.elements if attention_.masks > 1 else 0,
            biased=bias.shape[1] if bias is not None and len(bias) > 1 else 0, scale=attention_.scale, bias=bias is not None,
            longest=int(lengths.max(initial=1)), align=align,
        )  # fmt: skip

    # Values.

    def draw(self, drawn: Draw, encodes: Sequence[Encode]) -> Launch:
        """One sub-pixel, and what the network reads of it: `encodes`."""
        memory, state, program = self.memory, self.state, self.program
        rows = [memory.slot(drawn.source)]
        for encode in encodes:
            rows += [memory.slot(encode.out), memory.vector(encode.table)]
        return draw.draw(
            memory.arena, memory.table(rows), state.position, state.noise, state.values, state.parameters, state.log_prob,
            state.temperature, state.status, head=program.head, channel=drawn.channel, levels=program.levels,
            count=drawn.source.count, encoded=[encode.out.count for encode in encodes], mixture=program.mixture, own=self.own,
        )  # fmt: skip

    def encode(self, encode: Encode, columns: int) -> Launch:
        rows = [self.memory.slot(encode.out), self.memory.vector(encode.table)]
        return draw.encode(
            self.memory.arena, self.memory.table(rows), self.state.position, self.state.values, channel=encode.channel,
            columns=columns, features=encode.out.count,
        )  # fmt: skip

    def record(self, drawn: Draw) -> Launch | None:
        """The parameters of a whole row of known values, if anybody wants them."""
        if self.state.parameters is None:
            return None
        return draw.record(
            self.memory.arena, self.memory.table([self.memory.slot(drawn.source)]), self.state.position,
            self.state.parameters, channel=drawn.channel, columns=self.program.shape[2],
        )  # fmt: skip


def _standing(cache: Cache) -> Slot:
    """A cache as a slot of which only where it begins, and its strides, are read."""
    return Slot(cache.buffer, cache.channel, cache.count, cache.row, cache.col)


def _operand(leaf: object, name: str | None = None) -> bool:
    """Whether a leaf comes from memory."""
    return name is None and not isinstance(leaf, (int, float))


def _broadcast(leaf: object, features: int) -> bool:
    count = leaf.size if isinstance(leaf, np.ndarray) else getattr(leaf, "count", 1)
    return count == 1 and features > 1


def _leaves(out: Slot, map: Map, names: Sequence[str | None]) -> tuple[str | bool | float, ...]:
    """The leaves of an expression inside a stage: names, literals, or whether an operand is broadcast."""
    result: list[str | bool | float] = []
    for leaf, name in zip(map.leaves, names, strict=True):
        if name is not None:
            result.append(name)
        elif _operand(leaf):
            result.append(_broadcast(leaf, out.count))
        else:
            assert isinstance(leaf, (int, float))
            result.append(float(leaf))
    return tuple(result)
