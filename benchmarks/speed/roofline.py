"""How much a program moves: the bytes behind its arithmetic intensity, operations for each byte.

A model of the traffic between a core's registers and its caches: each time an instruction runs, it reads its weights and what
it takes from buffers, and writes its output. Weights are read once for all images that a thread draws together; they are why
one image alone is bound by memory. What an engine keeps in registers between instructions is counted as if it were not kept.
"""

from __future__ import annotations

from pixelfast.ir.program import Attention, Instruction, Lookup, Map, Norm, Product, Program, Reduce, unknown_body


def traffic(program: Program, images: int, threads: int) -> float:
    """Bytes that all threads read and write to draw so many images, shared evenly."""
    users = min(threads, images)  # each of them streams all weights
    rows = sum(_bytes(instruction, images, users, per_row=True) for instruction in program.row)
    pixels = sum(_bytes(instruction, images, users, per_row=False) for step in program.steps for instruction in step)
    parameters = sum(draw.source.count for draw in program.draws) * program.shape[1] * program.shape[2]
    return rows + pixels + 4.0 * parameters * images


def _bytes(instruction: Instruction, images: int, users: int, per_row: bool) -> float:
    """The bytes of all runs of one instruction, which runs once a row or once a pixel."""
    rect = instruction.rect
    rows, cols = rect.row1 - rect.row0, rect.col1 - rect.col0
    runs = rows if per_row else rows * cols
    features = sum(slot.count for slot in instruction.body.slots()) + instruction.out.count
    return 4.0 * (runs * users * weights(instruction) + rows * cols * images * features)


def weights(instruction: Instruction) -> int:
    """Numbers that belong to the instruction and are read in every run; of a table, one line for each tap."""
    match instruction.body:
        case Product() | Norm() as body:
            return sum(int(array.size) for array in body.arrays())
        case Lookup() as body:
            return len(body.taps) * instruction.out.count
        case Map() | Reduce() | Attention():
            return 0
        case body:
            raise unknown_body(body, "the roofline")
