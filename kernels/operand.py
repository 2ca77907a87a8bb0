"""How a kernel finds its numbers: operands, in one float32 arena that holds buffers, fields and vectors alike.

An operand is eight int64 numbers, in elements of the arena. At the running position (row, col), image n and feature f it reads

    arena[start + ((row + row_offset) mod ring) * row_stride + col * col_stride + n * image_stride + f]

    0 start         of ring row 0, column 0 and image 0, the column offset included; may be negative, as column 0 need not be stored
    1 ring          rows that are stored; a field, which is not a ring, has more than there are rows
    2 row_offset
    3 row_stride, 4 col_stride, 5 image_stride       0 where the numbers are the same for all
    6 count         features; 1 is broadcast
    7 spare

A buffer is [ring row][column][image][feature]; its features are padded to a multiple of `ALIGNMENT`, so that rows of it start at
addresses which wide loads can use. The running position lies in device memory, (row, col) in int32: one captured launch serves
every row or pixel.
"""

from __future__ import annotations

import triton
import triton.language as tl

WORDS = tl.constexpr(8)
ALIGNMENT = 4
"""Floats in the widest load, 16 bytes."""


@triton.jit
def running_items(position, first, columns, images, BLOCK_I: tl.constexpr):
    """Row, columns (I,), images (I,) of a program's items and which of them exist; `columns` columns from `first` on."""
    row = tl.load(position)
    item = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    col = tl.load(position + 1) + first + item // images
    return row, col, item % images, item < columns * images


@triton.jit
def addresses(operand, row, col, image, ALIGN: tl.constexpr):
    """Where feature 0 of an operand lies for each item: int64, in the shape of `col` and `image`."""
    start = tl.multiple_of(tl.load(operand), ALIGN)
    ring = tl.load(operand + 1).to(tl.int32)
    # The remainder has the sign of what is divided, at least when compiled.
    slot = (row + tl.load(operand + 2).to(tl.int32)) % ring
    slot = tl.where(slot < 0, slot + ring, slot)
    row_stride = tl.multiple_of(tl.load(operand + 3), ALIGN)
    col_stride = tl.multiple_of(tl.load(operand + 4), ALIGN)
    image_stride = tl.multiple_of(tl.load(operand + 5), ALIGN)
    return start + slot * row_stride + col * col_stride + image * image_stride
