"""Given rows: the order in which a row runs whose values are all known, or which lies above the image.

Nothing waits for a draw there, so each instruction can run once over all columns instead of once at each. But an
instruction of step 0 may read, at the column before, what a later step writes there: pixel by pixel that has long
happened. So the steps' instructions are sorted by what they need.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass

from ..ir.program import Attention, Instruction, Program, Slot, unknown_body

Item = tuple[int, int]
"""(step, index of an instruction); the index after the last one stands for reading the parameters of the step's draw."""


@dataclass(frozen=True)
class _Access:
    """Channels [first, last) of a buffer, at a column from the running one."""

    buffer: int
    first: int
    last: int
    col: int

    def overlaps(self, other: _Access) -> bool:
        return self.buffer == other.buffer and self.first < other.last and other.first < self.last


def known_order(program: Program) -> tuple[Item, ...] | None:
    """All instructions and draws of the steps, sorted; None if there is no such order: then the row runs column by column.

    What one column reads of itself keeps the order of the steps; what it reads of a column to its left must be final.
    """
    items = [(step, index) for step, listed in enumerate(program.steps) for index in range(len(listed) + 1)]
    reads: list[list[_Access]] = []
    writers: dict[int, list[tuple[int, _Access]]] = defaultdict(list)
    for position, (step, index) in enumerate(items):
        if index == len(program.steps[step]):
            reads.append(_accesses([program.draws[step].source]))
            continue
        instruction = program.steps[step][index]
        reads.append(_accesses([*_sources(instruction), *_cached(instruction, program.shape[2])]))
        (out,) = _accesses([instruction.out])
        writers[out.buffer].append((position, out))
    return _sorted(items, _constraints(reads, writers))


def _accesses(slots: list[Slot]) -> list[_Access]:
    """Slots on the running row; rows above are finished."""
    return [_Access(s.buffer, s.channel, s.channel + s.count, s.col) for s in slots if s.row == 0]


def _sources(instruction: Instruction) -> list[Slot]:
    """What an instruction reads, its own output included where it adds to it."""
    return [*instruction.body.slots(), *([instruction.out] if instruction.body.adds else [])]


def _cached(instruction: Instruction, width: int) -> list[Slot]:
    """What attention sees on the running row, to the left of the running column and there."""
    body = instruction.body
    if not body.caches():
        return []
    if not isinstance(body, Attention):
        raise unknown_body(body, "the order of given rows, which asks where caches are read,")
    if (reach := body.reach_in_row(instruction.rect, width)) is None:
        return []
    columns = [-1] if reach < 0 else [-1, reach]
    return [Slot(c.buffer, c.channel, c.count, 0, col) for c in body.caches() for col in columns]


def _constraints(reads: list[list[_Access]], writers: dict[int, list[tuple[int, _Access]]]) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of positions."""
    pairs = set()
    for reader, accesses in enumerate(reads):
        for access in accesses:
            for writer, out in writers[access.buffer]:
                # What reads its own output further left waits for itself: there is no order.
                if (writer != reader or access.col < 0) and access.overlaps(out):
                    pairs.add((writer, reader) if writer < reader or access.col < 0 else (reader, writer))
    for outs in writers.values():
        for i, (earlier, out) in enumerate(outs):
            pairs |= {(earlier, later) for later, other in outs[i + 1 :] if out.overlaps(other)}
    return pairs


def _sorted(items: list[Item], pairs: set[tuple[int, int]]) -> tuple[Item, ...] | None:
    """Topologically, and otherwise in the order of the steps."""
    followers: dict[int, list[int]] = defaultdict(list)
    missing = [0] * len(items)
    for earlier, later in pairs:
        followers[earlier].append(later)
        missing[later] += 1
    ready = [position for position, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        position = heapq.heappop(ready)
        order.append(items[position])
        for later in followers[position]:
            missing[later] -= 1
            if missing[later] == 0:
                heapq.heappush(ready, later)
    return tuple(order) if len(order) == len(items) else None
