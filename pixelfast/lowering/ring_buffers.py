"""Storage: which rows and columns of each buffer a program needs, and which buffers it needs at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ..ir.program import Attention, Cache, Instruction, Lookup, Map, Norm, Product, Program, Rect, Reduce, Slot


def slots_read(instruction: Instruction) -> list[Slot]:
    """The slots that an instruction reads."""
    match instruction:
        case Product():
            return list(instruction.taps)
        case Map():
            return [leaf for leaf in instruction.leaves if isinstance(leaf, Slot)]
        case Reduce():
            return list(instruction.sources)
        case Norm():
            return [instruction.source]
        case Attention():
            return [instruction.query]
        case _:
            return []


def caches_read(instruction: Instruction) -> list[Cache]:
    """What an instruction reads at other pixels wherever they are: on all rows."""
    return [instruction.keys, instruction.values] if isinstance(instruction, Attention) else []


def adds(instruction: Instruction) -> bool:
    """Whether an instruction adds to what its destination holds."""
    return isinstance(instruction, Lookup) or (isinstance(instruction, Product) and instruction.bias is None)


def with_storage(program: Program) -> Program:
    """Give each buffer the ring rows and columns that its readers reach; a cache keeps all rows that run."""
    rows: dict[int, int] = defaultdict(lambda: 1)
    low = {i: b.columns[0] for i, b in enumerate(program.buffers)}
    high = {i: b.columns[1] for i, b in enumerate(program.buffers)}
    reads = [(slot, instruction.rect) for instruction in program.instructions() for slot in slots_read(instruction)]
    reads += [(draw.source, Rect(0, program.shape[1], 0, program.shape[2])) for draw in program.draws]
    for slot, rect in reads:
        assert slot.row <= 0, f"buffer {program.buffers[slot.buffer].name} is read below the running row"
        rows[slot.buffer] = max(rows[slot.buffer], 1 - slot.row)
        low[slot.buffer] = min(low[slot.buffer], rect.col0 + slot.col)
        high[slot.buffer] = max(high[slot.buffer], rect.col1 + slot.col)
    for instruction in program.instructions():
        for cache in caches_read(instruction):
            rows[cache.buffer] = max(rows[cache.buffer], program.shape[1] - program.buffers[cache.buffer].domain.row0)
    buffers = tuple(replace(b, rows=rows[i], columns=(low[i], high[i])) for i, b in enumerate(program.buffers))
    macs = 0
    for instruction in program.instructions():
        if isinstance(instruction, Product):
            macs += instruction.weights.size * instruction.lattice.count(instruction.rect)
        elif isinstance(instruction, Attention):
            each = (instruction.keys.count + instruction.values.count) // instruction.masks
            macs += int(instruction.seen.counts().sum()) * each
    return replace(program, buffers=buffers, macs=macs)


def with_rows(program: Program, more: int) -> Program:
    """The program with so many more ring rows in every buffer, for as many rows in flight at a time."""
    return replace(program, buffers=tuple(replace(buffer, rows=buffer.rows + more) for buffer in program.buffers))


def without_unused_buffers(program: Program) -> Program:
    """Drop buffers that nothing touches, and number the others anew."""
    used: set[int] = set()
    for instruction in program.instructions():
        used |= {instruction.out.buffer, *(slot.buffer for slot in slots_read(instruction))}
        used |= {cache.buffer for cache in caches_read(instruction)}
    used |= {draw.source.buffer for draw in program.draws}
    used |= {encode.out.buffer for encodes in program.encodes for encode in encodes}
    number = {old: new for new, old in enumerate(sorted(used))}

    def cache(old: Cache) -> Cache:
        return replace(old, buffer=number[old.buffer])

    def slot(old: Slot) -> Slot:
        return replace(old, buffer=number[old.buffer])

    def renumber(instruction: Instruction) -> Instruction:
        moved = replace(instruction, out=slot(instruction.out))
        match moved:
            case Product():
                return replace(moved, taps=tuple(map(slot, moved.taps)))
            case Map():
                return replace(moved, leaves=tuple(slot(x) if isinstance(x, Slot) else x for x in moved.leaves))
            case Reduce():
                return replace(moved, sources=tuple(map(slot, moved.sources)))
            case Norm():
                return replace(moved, source=slot(moved.source))
            case Attention():
                return replace(moved, query=slot(moved.query), keys=cache(moved.keys), values=cache(moved.values))
            case _:
                return moved

    return replace(
        program,
        buffers=tuple(program.buffers[old] for old in sorted(used)),
        row=tuple(map(renumber, program.row)),
        steps=tuple(tuple(map(renumber, step)) for step in program.steps),
        draws=tuple(replace(draw, source=slot(draw.source)) for draw in program.draws),
        encodes=tuple(tuple(replace(e, out=slot(e.out)) for e in encodes) for encodes in program.encodes),
    )
