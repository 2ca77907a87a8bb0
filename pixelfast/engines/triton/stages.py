"""Stages: which instructions of a pixel step the Triton engine runs in one launch.

A launch ends when a program needs what another one computed. After a product, that is the next product; expressions and layer
norms that go on with its result element by element stay in registers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ...ir.program import Instruction, Map, Norm, Product, Program, Slot
from ...lowering.ring_buffers import adds, caches_read, slots_read

MOST_NORMALISED = 256
"""Features of a layer norm inside a stage: one program holds them all."""


@dataclass(frozen=True)
class Stage:
    """A product, of which a program computes the same `features` of each part, and what follows it.

    Values have names: y0, y1 for the parts, z0, z1, ... for the results of `tail`.

    Attributes:
        parts: the parts of product.out.
        registers: for each instruction of the tail, the name of the value that each leaf (or the norm's source) is, or None if
            the leaf comes from memory.
        stored: names of the values that something else reads.
    """

    product: Product
    parts: tuple[Slot, ...]
    tail: tuple[Map | Norm, ...]
    registers: tuple[tuple[str | None, ...], ...]
    stored: tuple[str, ...]

    @property
    def features(self) -> int:
        return self.parts[0].count


def stages(
    program: Program, instructions: Sequence[Instruction], alone: Collection[int] = ()
) -> list[Stage | Instruction]:
    """The instructions of a step in their order, grouped; what is written to the buffers `alone` is no part of a group."""
    found: list[Stage | Instruction] = []
    index = 0
    while index < len(instructions):
        instruction = instructions[index]
        if isinstance(instruction, Product):
            following = takewhile(lambda other: other.out.buffer not in alone, instructions[index + 1 :])
            stage = _longest(program, instruction, list(following))
            found.append(stage)
            index += 1 + len(stage.tail)
        else:
            found.append(instruction)
            index += 1
    return found


def _longest(program: Program, product: Product, following: Sequence[Instruction]) -> Stage:
    out = product.out
    parts: tuple[Slot, ...] = (out,)
    if following and isinstance(following[0], Map) and 2 * following[0].out.count == out.count > 2:
        half = out.count // 2
        halves = (replace(out, count=half), replace(out, channel=out.channel + half, count=half))
        if _Group(product, halves).accepts(following[0]):
            parts = halves
    group = _Group(product, parts)
    for instruction in following:
        if not isinstance(instruction, (Map, Norm)) or not group.accepts(instruction):
            break
        group.append(instruction)
    return group.stage(program)


class _Group:
    """A stage while it grows."""

    def __init__(self, product: Product, parts: tuple[Slot, ...]) -> None:
        self.product, self.parts = product, parts
        self.tail: list[Map | Norm] = []
        self.registers: list[tuple[str | None, ...]] = []
        self.loaded: list[Slot] = [tap for tap in product.taps if _here(tap)]
        self.values = {part: f"y{i}" for i, part in enumerate(parts)}  # where a value belongs, and the last one for it

    def accepts(self, instruction: Map | Norm) -> bool:
        """Whether each leaf is a value of the group, or something that the group does not write."""
        count = self.parts[0].count
        if (instruction.rect, instruction.lattice) != (self.product.rect, self.product.lattice):
            return False
        if instruction.out.count != count or not _here(instruction.out):
            return False
        if isinstance(instruction, Norm):
            if len(self.parts) > 1 or count > MOST_NORMALISED or instruction.source not in self.values:
                return False
            loaded: list[Slot] = []
        else:
            loaded = [leaf for leaf in instruction.leaves if isinstance(leaf, Slot) and leaf not in self.values]
        if any(_here(leaf) and _overlap(leaf, written) for leaf in loaded for written in self.values):
            return False
        # Another program may not have read yet what this one would write.
        if any(_overlap(instruction.out, leaf) for leaf in (*self.loaded, *filter(_here, loaded))):
            return False
        return all(instruction.out == written or not _overlap(instruction.out, written) for written in self.values)

    def append(self, instruction: Map | Norm) -> None:
        leaves = [instruction.source] if isinstance(instruction, Norm) else instruction.leaves
        names = tuple(self.values.get(leaf) if isinstance(leaf, Slot) else None for leaf in leaves)
        self.loaded += [
            leaf for leaf, name in zip(leaves, names, strict=True) if isinstance(leaf, Slot) and name is None and _here(leaf)
        ]
        self.values[instruction.out] = f"z{len(self.tail)}"
        self.tail.append(instruction)
        self.registers.append(names)

    def stage(self, program: Program) -> Stage:
        read = list(self._read_from_memory(program))
        stored = [name for slot, name in self.values.items() if any(_overlap(slot, other) for other in read)]
        return Stage(self.product, self.parts, tuple(self.tail), tuple(self.registers), tuple(sorted(stored)))

    def _read_from_memory(self, program: Program) -> Iterable[Slot]:
        """Every slot that is read anywhere, except by this group's tail at its own place."""
        members = {id(instruction) for instruction in self.tail}
        for instruction in program.instructions():
            for slot in slots_read(instruction):
                if id(instruction) not in members or not _here(slot):
                    yield slot
            for cache in caches_read(instruction):
                yield Slot(cache.buffer, cache.channel, cache.count)
            if adds(instruction) and instruction is not self.product:
                yield instruction.out
        for draw in program.draws:
            yield draw.source


def _here(slot: Slot) -> bool:
    """Whether a slot lies at the running position."""
    return slot.row == 0 and slot.col == 0


def _overlap(a: Slot, b: Slot) -> bool:
    """Whether two slots share channels of a buffer."""
    return a.buffer == b.buffer and a.channel < b.channel + b.count and b.channel < a.channel + a.count
