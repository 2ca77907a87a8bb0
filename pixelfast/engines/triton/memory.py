"""What the Triton engine holds on a device: one arena of float32 for buffers, fields and vectors, packed weights, and operands.

`pixelfast.kernels.operand` says what an operand is. This file alone knows where things lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ir.program import FieldSlot, Instruction, Leaf, Map, Product, Program, Slot
from ...kernels.operand import ALIGNMENT, move

Row = list[int]
HALVES = 2 * ALIGNMENT
"""float16 numbers in the widest load."""
NO_HALF = float(np.array(0x7E007E00, np.uint32).view(np.float32))
"""The float32 number whose two halves are NaN in float16."""
TABLE = 2048
"""Operands that are stored together."""
NEVER = 1 << 30
"""Rows of a ring that never comes round, as a field's."""
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""The types of the weights of products, and of what they are multiplied with."""
SMALLEST, LARGEST = 6e-5, 65504.0
"""Weights that float16 holds: below, it has few digits left, beyond, none."""


class Memory:
    """Storage of one program for n images on one device.

    Args:
        field_shapes: of the numbers that come with each call: (N or 1, rows or 1, cols or 1, F).
        halves: buffers that hold float16 numbers, two in the place of one; their operands count these.
    """

    def __init__(
        self, program: Program, images: int, field_shapes: Sequence[tuple[int, ...]], device: torch.device,
        halves: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.program, self.images, self.device, self.halves = program, images, device, halves
        self._size = 0
        self._tables: list[Tensor] = []
        self._used = 0
        self.grown = False
        self._constants: dict[int, int] = {}
        self._arrays: list[tuple[int, np.ndarray]] = []
        self._buffers = [
            self._place(b.rows * (b.columns[1] - b.columns[0]) * images * self._features(i))
            for i, b in enumerate(program.buffers)
        ]
        self._state = self._size
        self._field_shapes = [(*shape[:3], _padded(shape[3])) for shape in field_shapes]
        self._fields = [self._place(int(np.prod(shape))) for shape in self._field_shapes]
        self._collect()
        self.arena = torch.zeros(max(self._size, 1), dtype=torch.float32, device=device)
        for start, array in self._arrays:
            flat = torch.from_numpy(np.ascontiguousarray(array, np.float32).reshape(-1))
            self.arena[start : start + flat.numel()] = flat.to(device)

    def _place(self, size: int) -> int:
        start = self._size
        self._size += -(-size // ALIGNMENT) * ALIGNMENT
        return start

    def _features(self, buffer: int) -> int:
        """Floats in the place of one pixel of one image."""
        features = self.program.buffers[buffer].features
        return -(-features // HALVES) * ALIGNMENT if buffer in self.halves else _padded(features)

    def _collect(self) -> None:
        """Give every vector and table of the program its place."""
        for instruction in self.program.instructions():
            body = instruction.body
            for array in body.arrays():
                if not isinstance(body, Product) or array is not body.weights:  # those are packed
                    self._constant(array, array)
        for encodes in self.program.encodes:
            for encode in encodes:
                self._constant(encode.table, encode.table.T)  # (K, features): a value's features side by side

    def _constant(self, key: np.ndarray, array: np.ndarray) -> None:
        if id(key) not in self._constants:
            self._constants[id(key)] = self._place(array.size)
            self._arrays.append((self._constants[id(key)], array))

    def start(self, fields: Sequence[np.ndarray]) -> None:
        """Empty buffers, and the fields of a call."""
        self.arena[: self._state].zero_()
        for place, shape, numbers in zip(self._fields, self._field_shapes, fields, strict=True):
            whole = self.arena[place : place + int(np.prod(shape))].view(shape)
            whole[..., : numbers.shape[3]].copy_(torch.from_numpy(np.ascontiguousarray(numbers)))

    # Operands.

    def slot(self, slot: Slot, part: int = 0, count: int | None = None) -> Row:
        """Channels of a slot from `part` on, as many as `count` says."""
        buffer, per_float = self.program.buffers[slot.buffer], 2 if slot.buffer in self.halves else 1
        features = self._features(slot.buffer) * per_float
        col_stride = self.images * features
        row_stride = (buffer.columns[1] - buffer.columns[0]) * col_stride
        start = self._buffers[slot.buffer] * per_float + (slot.col - buffer.columns[0]) * col_stride + slot.channel + part
        return [0, col_stride, features, count or slot.count, start, buffer.rows, slot.row, row_stride]

    def whole(self, buffer: int) -> Row:
        """All of a buffer, as float32 whatever it holds."""
        if buffer not in self.halves:
            return self.slot(Slot(buffer, 0, self.program.buffers[buffer].features))
        row = self.slot(Slot(buffer, 0, self._features(buffer)))
        return [n // 2 if i in (1, 2, 4, 7) else n for i, n in enumerate(row)]

    def field(self, slot: FieldSlot) -> Row:
        field, (images, rows, cols, features) = self.program.fields[slot.field], self._field_shapes[slot.field]
        image_stride = rows * cols * features if images > 1 else 0
        row_stride = cols * features if rows > 1 else 0
        col_stride = features if cols > 1 else 0
        start = self._fields[slot.field] - (field.col0 * col_stride) + slot.channel
        return [0, col_stride, image_stride, slot.count, start, NEVER, -field.row0 if rows > 1 else NEVER // 2, row_stride]

    def vector(self, array: np.ndarray) -> Row:
        """A vector or table of the program."""
        return [0, 0, 0, array.size, self._constants[id(array)], 1, 0, 0]

    def leaf(self, leaf: Leaf) -> Row:
        if isinstance(leaf, Slot):
            return self.slot(leaf)
        if isinstance(leaf, FieldSlot):
            return self.field(leaf)
        assert isinstance(leaf, np.ndarray)
        return self.vector(leaf)

    def table(self, rows: Sequence[Row]) -> Tensor:
        """Operands on the device, int64 (operands, 8), where `move` finds them: after a move, all but new ones are in place."""
        if not self._tables or self._used + len(rows) > len(self._tables[-1]):
            # Ring 1, so that what is not used yet divides nothing by zero.
            blank = torch.tensor([[0, 0, 0, 0, 0, 1, 0, 0]], dtype=torch.int64)
            self._tables.append(blank.repeat(max(TABLE, len(rows)), 1).to(self.device))
            self._used = 0
        part = self._tables[-1][self._used : self._used + len(rows)]
        part.copy_(torch.tensor(rows, dtype=torch.int64))
        self._used += len(rows)
        self.grown = True
        return part

    def move(self, position: Tensor, row: int, col: int) -> None:
        """Go to a row, and a column from which launches count theirs."""
        for table in self._tables:
            move(table, position, row, col)
        self.grown = False

    def runs(self, slots: Sequence[Slot], most: int) -> list[Row]:
        """Slots cut into runs of at most so many features: the chunks of a product or of a reduction."""
        return [self.slot(slot, part, min(most, slot.count - part)) for slot in slots for part in range(0, slot.count, most)]


def alignment(rows: Sequence[Row], most: int = ALIGNMENT, counts: bool = False) -> int:
    """What every address of these operands is a multiple of, in numbers, and with `counts` how many there are: `most` or 1."""
    numbers = (row[i] for row in rows for i in (1, 2, 4, 7, *([3] if counts else [])))
    return most if all(n % most == 0 for n in numbers) else 1


def halves(program: Program, precision: str) -> frozenset[int]:
    """Buffers that hold float16 in this precision: those that only attention reads, as caches, and only copies write."""
    if precision != "fp16":
        return frozenset()
    instructions = program.instructions()
    caches = [{cache.buffer for cache in instruction.body.caches()} for instruction in instructions]
    others = {slot.buffer for instruction in instructions for slot in instruction.body.slots()}
    others |= {draw.source.buffer for draw in program.draws}
    others |= {encode.out.buffer for encodes in program.encodes for encode in encodes}
    others |= {instruction.out.buffer for instruction in instructions if not _copies(instruction)}
    # Keys and values of one attention are read by one kernel, as numbers of one type.
    while mixed := [pair for pair in caches if pair & others and pair - others]:
        others |= set().union(*mixed)
    return frozenset(set().union(*caches) - others)


def _copies(instruction: Instruction) -> bool:
    body = instruction.body
    if not isinstance(body, Map) or body.ops:
        return False
    (leaf,) = body.leaves
    return isinstance(leaf, (Slot, FieldSlot)) and leaf.count == instruction.out.count


def chunk_of(product: Product) -> int:
    """How many features of a tap are multiplied at a time."""
    most = max((tap.count for tap in product.taps), default=1)
    return 64 if most > 32 else 32 if most > 16 else 16


def pack(product: Product, chunk: int, parts: int, block: int, precision: str) -> Tensor:
    """Weights as the kernels read them: (chunks x chunk, parts x width), zeros where there is no feature."""
    features = product.weights.shape[1] // parts
    width = -(-features // block) * block
    blocks, first = [], 0
    for tap in product.taps:
        for begin in range(first, first + tap.count, chunk):
            end = min(begin + chunk, first + tap.count)
            packed = np.zeros((chunk, parts, width), np.float32)
            packed[: end - begin, :, :features] = product.weights[begin:end].reshape(end - begin, parts, features)
            blocks.append(packed.reshape(chunk, parts * width))
        first += tap.count
    whole = np.concatenate(blocks) if blocks else np.zeros((chunk, parts * width), np.float32)
    low = TYPES[precision]
    return torch.from_numpy(whole).to(torch.float32 if low is torch.float16 and not _fits_float16(product) else low)


def _fits_float16(product: Product) -> bool:
    """Whether no weight overflows, and each output keeps weights that are not among the smallest."""
    if not product.weights.size:
        return False
    sizes = np.abs(product.weights)
    largest = sizes.max(0)
    return bool(sizes.max() <= LARGEST and ((largest >= SMALLEST) | (largest == 0)).all())


def _padded(features: int) -> int:
    return -(-features // ALIGNMENT) * ALIGNMENT
