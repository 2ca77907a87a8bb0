"""Bodies: device functions that compute one tile, of which kernels are made.

A body names what it needs of these, which whoever calls it knows, then tensors and numbers of its own, then constants, which
are written in capitals:

    position            the running row and column, in device memory
    col, image, live    of the tile's items (I,), and which of them exist; `col` may be one number for all
    block               which block of features
    images              how many there are in all

`alone` makes the kernel in which each program computes one tile: a launch an instruction. In `persistent_row.py` a program
computes the tiles of all instructions, one after another. So there is one source for both. A launcher whose tiles a persistent
kernel runs takes `own`, how many images each of its programs owns: no tile has more.
"""

from __future__ import annotations

import hashlib
from typing import Any

from .expressions import compiled

KNOWN = ("position", "col", "image", "live", "block", "images")

ALONE = """
def {name}(
    position, first, columns, images, {arguments}, BLOCK_I: tl.constexpr, {constants}
):
    col, image, live = running_items(position, first, columns, images, BLOCK_I)
    block = tl.program_id(1)
    {body}({passed})
"""


def alone(body: Any, name: str) -> Any:
    """The kernel in which a program computes one tile of a body."""
    own = [argument for argument in body.arg_names if argument not in (*KNOWN, "BLOCK_I")]
    text = ALONE.format(
        name=name,
        arguments=", ".join(argument for argument in own if not argument.isupper()),
        constants=", ".join(f"{argument}: tl.constexpr" for argument in own if argument.isupper()),
        body=body.__name__,
        passed=", ".join(body.arg_names),
    )
    return compiled(text, name, (body,))


def named(template: str, name: str, **parts: str) -> tuple[str, str]:
    """The source of a body, and its name: the same for the same source, in every process, since compiled code is kept by it."""
    whole = hashlib.blake2b("\n".join([template, *parts.values()]).encode(), digest_size=5).hexdigest()
    return template.format(name=f"{name}_{whole}", **parts), f"{name}_{whole}"
