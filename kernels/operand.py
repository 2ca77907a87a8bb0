"""How a kernel finds its numbers: operands, in one float32 arena that holds buffers, fields and vectors alike.

An operand is eight int64 numbers, in elements of the arena. At the running row, column col, image n and feature f it reads

    arena[now + col * col_stride + n * image_stride + f],  now = start + ((row + row_offset) mod ring) * row_stride

    0 now           set for all operands together whenever the row changes: the remainder of a division, and whatever else does
                    not change within a row, is no work for the kernels that run one after another for every pixel
    1 col_stride, 2 image_stride      0 where the numbers are the same for all
    3 count         features; 1 is broadcast
    4 start         of ring row 0, column 0 and image 0, the column offset included; negative where column 0 is not stored
    5 ring          rows that are stored; a field, which is not a ring, has more than there are rows
    6 row_offset, 7 row_stride

A buffer is [ring row][column][image][feature]; its features are padded to a multiple of `ALIGNMENT`, so that rows of it start
at addresses which wide loads can use. The running position lies in device memory, (row, col) in int32: one captured launch
serves every row or pixel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

WORDS = tl.constexpr(8)
ALIGNMENT = 4
"""Floats in the widest load, 16 bytes."""


@triton.jit
def running_items(position, first, columns, images, BLOCK_I: tl.constexpr):
    """Columns (I,) and images (I,) of a program's items, and which of them exist; `columns` columns from `first` on."""
    item = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    col = tl.load(position + 1) + first + item // images
    return col, item % images, item < columns * images


@triton.jit
def addresses(operand, col, image, ALIGN: tl.constexpr):
    """Where feature 0 of an operand lies for each item: int64, in the shape of `col` and `image`."""
    now = tl.multiple_of(tl.load(operand), ALIGN)
    col_stride = tl.multiple_of(tl.load(operand + 1), ALIGN)
    image_stride = tl.multiple_of(tl.load(operand + 2), ALIGN)
    return now + col * col_stride + image * image_stride


@triton.jit(do_not_specialize=["row", "col", "count"])
def move_kernel(operands, position, row, col, count, BLOCK: tl.constexpr):
    """Set the running position, and `now` of every operand."""
    program = tl.program_id(0)
    if program == 0:
        tl.store(position, row)
        tl.store(position + 1, col)
    index = program * BLOCK + tl.arange(0, BLOCK)
    operand, live = operands + index * WORDS, index < count
    ring = tl.load(operand + 5, mask=live, other=1).to(tl.int32)
    # The remainder has the sign of what is divided, at least when compiled.
    slot = (row + tl.load(operand + 6, mask=live, other=0).to(tl.int32)) % ring
    slot = tl.where(slot < 0, slot + ring, slot)
    start, stride = tl.load(operand + 4, mask=live, other=0), tl.load(operand + 7, mask=live, other=0)
    tl.store(operand, start + slot * stride, mask=live)


def move(operands: torch.Tensor, position: torch.Tensor, row: int, col: int) -> None:
    """`operands` (operands, 8); launched by itself, since row and column come from the processor."""
    move_kernel[(-(-len(operands) // 256),)](
        operands=operands, position=position, row=row, col=col, count=len(operands), BLOCK=256
    )
