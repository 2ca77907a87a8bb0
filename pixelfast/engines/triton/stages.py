"""Stages: which instructions of a pixel step the Triton engine runs in one launch.

A launch ends when a program needs what another one computed. After a product, that is the next product; expressions and layer
norms that go on with its result element by element stay in registers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ...ir.program import Instruction, Map, Norm, Product, Program, Slot

MOST_NORMALISED = 256
"""Features of a layer norm inside a stage: one program holds them all."""


@dataclass(frozen=True)
class Stage:
    """A product, of which a program computes the same `features` of each part, and what follows it.

    Values have names: y0, y1 for the parts, z0, z1, ... for the results of `tail`.

    Attributes:
        start: the instruction whose body is the product.
        parts: the parts of where it writes.
        tail: what goes on with it: where each result belongs, and what it is.
        registers: for each of the tail, the name of the value that each leaf (or the norm's source) is, or None if
            the leaf comes from memory.
        stored: names of the values that something else reads.
    """

    start: Instruction
    product: Product
    parts: tuple[Slot, ...]
    tail: tuple[tuple[Slot, Map | Norm], ...]
    registers: tuple[tuple[str | None, ...], ...]
    stored: tuple[str, ...]

    @property
    def features(self) -> int:
        return self.parts[0].count


def stages(program: Program, instructions: Sequence[Instruction], alone: Collection[int] = ()) -> list[Stage | Instruction]:
    """The instructions of a step in their order, grouped; what is written to the buffers `alone` is no part of a group."""
    result: list[Stage | Instruction] = []
    index = 0
    while index < len(instructions):
        instruction = instructions[index]
        if isinstance(instruction.body, Product):
            following = takewhile(lambda other: other.out.buffer not in alone, instructions[index + 1 :])
            stage = _longest(program, instruction, instruction.body, list(following))
            result.append(stage)
            index += 1 + len(stage.tail)
        else:
            result.append(instruction)
            index += 1
    return result


def _longest(program: Program, start: Instruction, product: Product, following: Sequence[Instruction]) -> Stage:
    out = start.out
    parts: tuple[Slot, ...] = (out,)
    if following and isinstance(following[0].body, Map) and 2 * following[0].out.count == out.count > 2:
        half = out.count // 2
        halves = (replace(out, count=half), replace(out, channel=out.channel + half, count=half))
        if _Group(start, product, halves).takes(following[0]):
            parts = halves
    group = _Group(start, product, parts)
    for instruction in following:
        if not group.takes(instruction):
            break
    return group.stage(program)


class _Group:
    """A stage while it grows."""

    def __init__(self, start: Instruction, product: Product, parts: tuple[Slot, ...]) -> None:
        self.start, self.product, self.parts = start, product, parts
        self.members: list[Instruction] = []
        self.tail: list[tuple[Slot, Map | Norm]] = []
        self.registers: list[tuple[str | None, ...]] = []
        self.loaded: list[Slot] = [tap for tap in product.taps if _here(tap)]
        self.values = {part: f"y{i}" for i, part in enumerate(parts)}  # where a value belongs, and the last one for it

    def takes(self, instruction: Instruction) -> bool:
        """Append an instruction if its kind is one of a tail's, and the group accepts it."""
        body = instruction.body
        if not isinstance(body, (Map, Norm)) or not self._accepts(instruction, body):
            return False
        self._append(instruction, body)
        return True

    def _accepts(self, instruction: Instruction, body: Map | Norm) -> bool:
        """Whether each leaf is a value of the group, or something that the group does not write."""
        count = self.parts[0].count
        if (instruction.rect, instruction.lattice) != (self.start.rect, self.start.lattice):
            return False
        if instruction.out.count != count or not _here(instruction.out):
            return False
        if isinstance(body, Norm) and (len(self.parts) > 1 or count > MOST_NORMALISED or body.source not in self.values):
            return False
        loaded = [slot for slot in body.slots() if slot not in self.values]
        if any(_here(leaf) and _overlap(leaf, written) for leaf in loaded for written in self.values):
            return False
        # Another program may not have read yet what this one would write.
        if any(_overlap(instruction.out, leaf) for leaf in (*self.loaded, *filter(_here, loaded))):
            return False
        return all(instruction.out == written or not _overlap(instruction.out, written) for written in self.values)

    def _append(self, instruction: Instruction, body: Map | Norm) -> None:
        leaves = (body.source,) if isinstance(body, Norm) else body.leaves
        names = tuple(self.values.get(leaf) if isinstance(leaf, Slot) else None for leaf in leaves)
        self.loaded += [slot for slot in body.slots() if slot not in self.values and _here(slot)]
        self.values[instruction.out] = f"z{len(self.tail)}"
        self.members.append(instruction)
        self.tail.append((instruction.out, body))
        self.registers.append(names)

    def stage(self, program: Program) -> Stage:
        read = list(self._read_from_memory(program))
        stored = [name for slot, name in self.values.items() if any(_overlap(slot, other) for other in read)]
        return Stage(self.start, self.product, self.parts, tuple(self.tail), tuple(self.registers), tuple(sorted(stored)))

    def _read_from_memory(self, program: Program) -> Iterable[Slot]:
        """Every slot that is read anywhere, except by this group's tail at its own place."""
        members = {id(instruction) for instruction in self.members}
        for instruction in program.instructions():
            for slot in instruction.body.slots():
                if id(instruction) not in members or not _here(slot):
                    yield slot
            for cache in instruction.body.caches():
                yield Slot(cache.buffer, cache.channel, cache.count)
            if instruction.body.adds and instruction is not self.start:
                yield instruction.out
        for draw in program.draws:
            yield draw.source


def _here(slot: Slot) -> bool:
    """Whether a slot lies at the running position."""
    return slot.row == 0 and slot.col == 0


def _overlap(a: Slot, b: Slot) -> bool:
    """Whether two slots share channels of a buffer."""
    return a.buffer == b.buffer and a.channel < b.channel + b.count and b.channel < a.channel + a.count
