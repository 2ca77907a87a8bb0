"""Ring buffers: which rows and columns of each buffer a program needs, and which buffers it needs at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ..ir.program import Instruction, Place, Program, Rect


def with_storage(program: Program) -> Program:
    """Give each buffer the ring rows and columns that its readers reach; a cache keeps all rows that run."""
    rows: dict[int, int] = defaultdict(lambda: 1)
    low = {i: b.columns[0] for i, b in enumerate(program.buffers)}
    high = {i: b.columns[1] for i, b in enumerate(program.buffers)}
    reads = [(slot, instruction.rect) for instruction in program.instructions() for slot in instruction.body.slots()]
    reads += [(draw.source, Rect(0, program.shape[1], 0, program.shape[2])) for draw in program.draws]
    for slot, rect in reads:
        assert slot.row <= 0, f"buffer {program.buffers[slot.buffer].name} is read below the running row"
        rows[slot.buffer] = max(rows[slot.buffer], 1 - slot.row)
        low[slot.buffer] = min(low[slot.buffer], rect.col0 + slot.col)
        high[slot.buffer] = max(high[slot.buffer], rect.col1 + slot.col)
    for instruction in program.instructions():
        for cache in instruction.body.caches():
            rows[cache.buffer] = max(rows[cache.buffer], program.shape[1] - program.buffers[cache.buffer].domain.row0)
    buffers = tuple(replace(b, rows=rows[i], columns=(low[i], high[i])) for i, b in enumerate(program.buffers))
    macs = sum(each.body.macs(each.lattice.count(each.rect)) for each in program.instructions())
    return replace(program, buffers=buffers, macs=macs)


def with_rows(program: Program, more: int) -> Program:
    """The program with so many more ring rows in every buffer, for as many rows in flight at a time."""
    return replace(program, buffers=tuple(replace(buffer, rows=buffer.rows + more) for buffer in program.buffers))


def without_unused_buffers(program: Program) -> Program:
    """Drop buffers that nothing touches, and number the others anew."""
    used: set[int] = set()
    for instruction in program.instructions():
        used |= {instruction.out.buffer, *instruction.body.buffers()}
    used |= {draw.source.buffer for draw in program.draws}
    used |= {encode.out.buffer for encodes in program.encodes for encode in encodes}
    number = {old: new for new, old in enumerate(sorted(used))}

    def moved(old: Place) -> Place:
        return replace(old, buffer=number[old.buffer])

    def renumber(instruction: Instruction) -> Instruction:
        return replace(instruction, out=moved(instruction.out), body=instruction.body.with_slots(moved))

    return replace(
        program,
        buffers=tuple(program.buffers[old] for old in sorted(used)),
        row=tuple(map(renumber, program.row)),
        steps=tuple(tuple(map(renumber, step)) for step in program.steps),
        draws=tuple(replace(draw, source=moved(draw.source)) for draw in program.draws),
        encodes=tuple(tuple(replace(e, out=moved(e.out)) for e in encodes) for encodes in program.encodes),
    )
