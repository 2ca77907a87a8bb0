"""The reference interpreter: a `Program` run by plain PyTorch, on any device. The definition of every instruction.

Every instruction works on a run of columns [c0, c1) of row R: one column inside a pixel step, many otherwise. What it
reads has the shape (columns, N, features). `poison` fills what is not computed yet with NaN: a wrong schedule shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import EngineUnavailable
from ..host.forking import pause, refuse_half_way
from ..ir.expression import evaluate
from ..ir.program import (
    CUSTOM,
    HEADS,
    Attention,
    Cache,
    Encode,
    FieldSlot,
    Instruction,
    Leaf,
    Lookup,
    Map,
    Norm,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
    unknown_body,
)
from ..lowering.draws import head_of
from ..lowering.given_rows import Item, known_order
from ..lowering.ring_buffers import with_rows
from ..lowering.wavefront import Wave, Work
from .base import Capabilities, Request, Result, check, numerical_error, why_not

CAPABILITIES = Capabilities(
    bodies=(Product, Lookup, Map, Reduce, Norm, Attention), heads=(*HEADS, CUSTOM), lattices=True, sweeps=True
)

Columns = tuple[int, int] | tuple[int, int, int]
"""Columns [first, last), or every step-th of them."""


def run(
    program: Program,
    request: Request,
    *,
    poison: bool = False,
    device: str | torch.device = "cpu",
    wave: Wave | None = None,
    weights: dict[int, Tensor] | None = None,
) -> Result:
    """Sample by interpreting ``program``, row by row or, with ``wave``, several rows at a time.

    Args:
        device: any of PyTorch's. What it has no float64 for is computed in float32, layer norms, or on the processor, draws.
        weights: those of the program on the device, kept from call to call.

    Raises:
        InvalidInput: the request does not fit the program.
        NumericalError: parameters that describe no distribution; ``position`` is (image, row, col, channel).
    """
    check(program, request)
    refuse_half_way()
    with torch.no_grad():
        if wave is not None:
            machine = _Machine(with_rows(program, wave.rows_in_flight), request, poison, torch.device(device), {})
            for work in wave.order():
                machine.run_work(wave, work)
            return machine.result()
        machine = _Machine(program, request, poison, torch.device(device), {} if weights is None else weights)
        for row in program.rows:
            machine.run_row(row)
            if row >= 0 and request.on_row is not None:
                request.on_row(row, machine.numpy_values())
        return machine.result()


class ReferenceEngine:
    """The interpreter as an engine.

    Raises:
        EngineUnavailable: the program is none that the interpreter defines.
    """

    def __init__(self, program: Program, device: torch.device | None = None) -> None:
        if (reason := why_not(program, CAPABILITIES)) is not None:
            raise EngineUnavailable(f"the reference interpreter cannot run this: {reason}")
        self.program, self.device = program, device or torch.device("cpu")
        self._weights: dict[int, Tensor] = {}

    def run(self, request: Request) -> Result:
        return run(self.program, request, device=self.device, weights=self._weights)


@cache
def has_float64(device: torch.device) -> bool:
    """Whether a device adds and multiplies in float64; Apple's GPUs and some of Intel's do not."""
    try:
        return float((torch.full((2,), 0.5, dtype=torch.float64, device=device) * 3).sum()) == 3.0
    except (TypeError, RuntimeError):
        return False


class _Machine:
    def __init__(
        self, program: Program, request: Request, poison: bool, device: torch.device, weights: dict[int, Tensor]
    ) -> None:
        self.program, self.request, self.poison, self.device, self.arrays = program, request, poison, device, weights
        wide = has_float64(device)
        self.norm_dtype = torch.float64 if wide else torch.float32
        # Draws are in float64. A head's own functions take what the naive loop gives them, which is on the processor.
        self.draws_on = device if wide and program.head != CUSTOM else torch.device("cpu")
        self.noise = torch.tensor(request.noise, device=self.draws_on)  # (N, H, W, C)
        images, height, width, channels = self.noise.shape
        self.images, self.height, self.width, self.channels = images, height, width, channels
        unknown = np.full(request.noise.shape, -1, np.int32)
        self.values = self.tensor(unknown if request.given is None else request.given).long()
        self.given = (self.values >= 0).to(self.draws_on)
        self.fields = [self.tensor(field) for field in request.fields]
        self.buffers = [self.allocate(b.rows, b.columns, b.features) for b in program.buffers]
        self.known_order = known_order(program)
        self.head = head_of(program, request.head)
        self.log_prob = torch.zeros(images, dtype=torch.float64, device=self.draws_on)
        size = (images, height, width, channels, program.parameters)
        self.parameters = torch.zeros(size, dtype=torch.float32, device=device) if request.want_parameters else None

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def allocate(self, rows: int, columns: Columns, features: int) -> Tensor:
        return torch.zeros(rows, columns[1] - columns[0], self.images, features, dtype=torch.float32, device=self.device)

    def constant(self, array: np.ndarray) -> Tensor:
        """A weight of the program on the device, copied once."""
        if id(array) not in self.arrays:
            self.arrays[id(array)] = self.tensor(array).float()
        return self.arrays[id(array)]

    # Time.

    def run_row(self, row: int) -> None:
        everywhere = self.program.columns
        self.begin_row(row)
        for sweep, group in groupby(self.program.row, lambda instruction: instruction.sweep):
            together = list(group)
            for columns in [(col, col + 1) for col in range(*everywhere)[::sweep]] if sweep else [everywhere]:
                self.execute(together, row, columns)
        known = row < 0 or bool(self.given[:, row].all())
        if known and self.known_order is not None:
            self.run_known_row(self.known_order, row, everywhere)
            return
        for col in range(*everywhere):
            self.run_pixel(row, col)

    def run_pixel(self, row: int, col: int) -> None:
        for step, instructions in enumerate(self.program.steps):
            self.execute(instructions, row, (col, col + 1))
            if row >= 0 and 0 <= col < self.width:
                self.draw(step, row, col)
                self.encode(self.program.encodes[step], row, (col, col + 1))

    def run_work(self, wave: Wave, work: Work) -> None:
        """A part of a wave: see `wavefront`."""
        if work.pixel:
            self.run_pixel(work.row, work.col)
            return
        if work.first:
            self.begin_row(work.row)
        for instruction, lead in zip(self.program.row, wave.front.leads, strict=True):
            self.execute((instruction,), work.row, (work.col + lead, work.col + lead + wave.chunk))

    def run_known_row(self, order: Sequence[Item], row: int, everywhere: Columns) -> None:
        """Every value of the row is known, or there is none: each instruction runs over all columns at once."""
        if row >= 0:
            for encodes in self.program.encodes:
                self.encode(encodes, row, (0, self.width))
        for step, index in order:
            self.execute(self.program.steps[step][index : index + 1], row, everywhere)
            if row >= 0 and index == len(self.program.steps[step]):
                self.record(step, row, (0, self.width))

    def begin_row(self, row: int) -> None:
        """Zero the slot of a row outside the domain; poison what this row has still to compute."""
        for buffer, storage in zip(self.program.buffers, self.buffers, strict=True):
            slot, domain = storage[row % buffer.rows], buffer.domain
            inside = domain.row0 <= row < domain.row1
            if not inside or self.poison:
                slot.zero_()
            if inside and self.poison:
                slot[domain.col0 - buffer.columns[0] : domain.col1 - buffer.columns[0]] = math.nan

    def execute(self, instructions: Sequence[Instruction], row: int, columns: Columns) -> None:
        for instruction in instructions:
            pause()
            rect = instruction.rect
            first, last = max(rect.col0, columns[0]), min(rect.col1, columns[1])
            there = instruction.lattice.columns(first, last)
            if rect.row0 <= row < rect.row1 and instruction.lattice.has_row(row) and there:
                clipped = (there[0], there[-1] + 1, there.step)
                self.write(instruction.out, row, clipped, self.evaluate(instruction, row, clipped))

    # Space.

    def view(self, slot: Slot, row: int, columns: Columns) -> Tensor:
        """The storage behind a slot: (columns, N, count)."""
        buffer = self.program.buffers[slot.buffer]
        first, last = columns[0] + slot.col - buffer.columns[0], columns[1] + slot.col - buffer.columns[0]
        if first < 0 or last > buffer.columns[1] - buffer.columns[0] or not -buffer.rows < slot.row <= 0:
            raise IndexError(f"{slot} at row {row}, columns {columns} lies outside what {buffer} stores")
        storage = self.buffers[slot.buffer][(row + slot.row) % buffer.rows]
        return storage[first : last : _step(columns), :, slot.channel : slot.channel + slot.count]

    def write(self, slot: Slot, row: int, columns: Columns, value: Tensor) -> None:
        self.view(slot, row, columns).copy_(value)

    def read(self, leaf: Leaf, row: int, columns: Columns) -> Tensor:
        """A leaf of an expression, shaped so that it broadcasts to (columns, N, count)."""
        if isinstance(leaf, Slot):
            return self.view(leaf, row, columns)
        if isinstance(leaf, FieldSlot):
            return self.read_field(leaf, row, columns)
        if isinstance(leaf, np.ndarray):
            return self.constant(leaf)
        return torch.tensor(float(leaf), dtype=torch.float32, device=self.device)

    def read_field(self, slot: FieldSlot, row: int, columns: Columns) -> Tensor:
        field, numbers = self.program.fields[slot.field], self.fields[slot.field]  # (N or 1, rows or 1, cols or 1, F)
        numbers = numbers[:, 0 if numbers.shape[1] == 1 else row - field.row0]
        if numbers.shape[1] > 1:
            numbers = numbers[:, columns[0] - field.col0 : columns[1] - field.col0 : _step(columns)]
        return numbers[:, :, slot.channel : slot.channel + slot.count].transpose(0, 1)

    # Instructions: (columns, N, out.count), or something that broadcasts to it.

    def evaluate(self, instruction: Instruction, row: int, columns: Columns) -> Tensor:
        match instruction.body:
            case Product() as body:
                return self.product(body, instruction.out, row, columns)
            case Lookup() as body:
                return self.lookup(body, instruction.out, row, columns)
            case Map() as body:
                return self.map(body, row, columns)
            case Reduce() as body:
                return self.reduce(body, row, columns)
            case Norm() as body:
                return self.norm(body, row, columns)
            case Attention() as body:
                return self.attention(body, instruction.rect, row, columns)
            case body:
                raise unknown_body(body, "the reference interpreter")

    def product(self, product: Product, out: Slot, row: int, columns: Columns) -> Tensor:
        start = self.view(out, row, columns) if product.bias is None else self.constant(product.bias)
        if not product.taps:
            return start
        sources = torch.cat([self.view(tap, row, columns) for tap in product.taps], -1)
        return sources @ self.constant(product.weights) + start

    def lookup(self, lookup: Lookup, out: Slot, row: int, columns: Columns) -> Tensor:
        total = self.view(out, row, columns).clone()
        tables, step = self.constant(lookup.tables), _step(columns)  # (taps, K, out.count)
        for tap, table in zip(lookup.taps, tables, strict=True):
            start = columns[0] + tap.col
            first, last = start + max(-(start // step), 0) * step, min(columns[1] + tap.col, self.width)
            if 0 <= row + tap.row < self.height and first < last:
                values = self.values[:, row + tap.row, first:last:step, tap.channel]  # (N, columns)
                if bool((values < 0).any()):
                    raise IndexError(f"{tap} at row {row}, columns {columns} is not drawn yet")
                place = (first - start) // step
                total[place : place + values.shape[1]] += table[values.T]
        return total

    def map(self, map: Map, row: int, columns: Columns) -> Tensor:
        return evaluate(map.ops, [self.read(leaf, row, columns) for leaf in map.leaves])

    def reduce(self, reduce: Reduce, row: int, columns: Columns) -> Tensor:
        x = torch.cat([self.view(source, row, columns) for source in reduce.sources], -1)
        if reduce.kind == "var":
            return x.var(-1, correction=reduce.correction, keepdim=True)
        return _REDUCTIONS[reduce.kind](x, -1, True)

    def norm(self, norm: Norm, row: int, columns: Columns) -> Tensor:
        x = self.view(norm.source, row, columns)
        x, scale, shift = (t.to(self.norm_dtype) for t in (x, self.constant(norm.scale), self.constant(norm.shift)))
        return F.layer_norm(x, x.shape[-1:], scale, shift, norm.eps).float()  # numbers may hardly differ

    def attention(self, attention: Attention, rect: Rect, row: int, columns: Columns) -> Tensor:
        heads = attention.heads
        queries = self.view(attention.query, row, columns).unflatten(-1, (heads, -1))  # (columns, N, heads, E)
        result = []
        for col, query in zip(range(*columns), queries, strict=True):
            element = (row - rect.row0) * (rect.col1 - rect.col0) + col - rect.col0
            if attention.masks == 1:
                result.append(self.mixed(attention, query, element, row, slice(0, heads)))
                continue
            parts = [
                self.mixed(attention, query, head * attention.elements + element, row, slice(head, head + 1))
                for head in range(heads)
            ]
            result.append(torch.cat(parts, 1))
        return torch.stack(result).flatten(2)

    def mixed(self, attention: Attention, query: Tensor, index: int, row: int, heads: slice) -> Tensor:
        """What some heads of one pixel find at the pixels of one list: (N, heads, D)."""
        pixels = attention.seen[index]
        values = self.cached(attention.values, pixels, row).unflatten(-1, (attention.heads, -1))[:, :, heads]
        if not len(pixels):
            return values.sum(0)
        keys = self.cached(attention.keys, pixels, row).unflatten(-1, (attention.heads, -1))[:, :, heads]
        scores = torch.einsum("nhe,knhe->knh", query[:, heads], keys) * attention.scale
        if attention.bias is not None:
            first = attention.seen.counts()[:index].sum()
            scores = scores + self.constant(attention.bias)[:, first : first + len(pixels)].T[:, None]
        return torch.einsum("knh,knhd->nhd", scores.softmax(0), values)

    def cached(self, cache: Cache, pixels: np.ndarray, row: int) -> Tensor:
        """Channels of a cache at some pixels: (pixels, N, count)."""
        buffer = self.program.buffers[cache.buffer]
        rows, cols = pixels // self.width + cache.row, pixels % self.width + cache.col - buffer.columns[0]
        if len(pixels) and int(rows.max()) > row:
            raise IndexError(f"{cache} is read on row {int(rows.max())} while row {row} runs")
        result = self.buffers[cache.buffer][self.tensor(rows % buffer.rows), self.tensor(cols)]
        return result[:, :, cache.channel : cache.channel + cache.count]

    # Values.

    def encode(self, encodes: Sequence[Encode], row: int, columns: Columns) -> None:
        for encode in encodes:
            domain = self.program.buffers[encode.out.buffer].domain
            clipped = max(domain.col0, columns[0]), min(domain.col1, columns[1])
            if domain.row0 <= row < domain.row1 and clipped[0] < clipped[1]:
                values = self.values[:, row, clipped[0] : clipped[1], encode.channel]  # (N, columns)
                self.write(encode.out, row, clipped, self.constant(encode.table).T[values.T])

    def record(self, step: int, row: int, columns: Columns) -> Tensor:
        """The parameters of the sub-pixel that a step draws: (columns, N, P)."""
        draw = self.program.draws[step]
        parameters = self.view(draw.source, row, columns)
        if self.parameters is not None:
            self.parameters[:, row, columns[0] : columns[1], draw.channel] = parameters.transpose(0, 1)
        return parameters

    def draw(self, step: int, row: int, col: int) -> None:
        channel = self.program.draws[step].channel
        parameters = self.record(step, row, (col, col + 1))[0].to(self.draws_on)  # (N, P)
        unknown = ~self.given[:, row, col, channel]
        invalid = unknown & ~self.head.describes_distribution(parameters)
        if bool(invalid.any()):
            raise numerical_error(int(invalid.nonzero()[0]), row, col, channel)
        if not bool(unknown.any()):
            return
        earlier = self.values[:, row, col, :channel].to(self.draws_on)
        own = self.head.conditional(parameters[unknown], earlier[unknown])
        if (broken := own.isnan().any(-1)).any():
            raise numerical_error(int(unknown.nonzero()[broken][0]), row, col, channel)
        values = self.head.draw(own, self.noise[unknown, row, col, channel], self.request.temperature)
        self.values[unknown.to(self.device), row, col, channel] = values.to(self.device)
        self.log_prob[unknown] += self.head.log_prob(own, values, self.request.temperature)

    def numpy_values(self) -> np.ndarray:
        return self.values.cpu().numpy().astype(np.int32)

    def result(self) -> Result:
        log_prob = self.log_prob.cpu().numpy() if self.request.want_log_prob else None
        parameters = None if self.parameters is None else self.parameters.cpu().numpy()
        return Result(self.numpy_values(), log_prob, parameters)


def _step(columns: Columns) -> int:
    return columns[2] if len(columns) == 3 else 1


_REDUCTIONS: dict[str, Callable[[Tensor, int, bool], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "logsumexp": torch.logsumexp,
}
