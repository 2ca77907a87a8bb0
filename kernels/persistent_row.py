"""A row of pixels in one launch: a program owns some images, and walks the columns and all instructions of each.

    for col in columns:  for work in works of the pixel:  the body of its kind, over all blocks;  wait for all threads

No program needs what another one computes, since images do not see each other. So nothing but a barrier of the program's own
threads lies between two instructions, where launches in a graph wait for the whole device. In return a program reads all
weights by itself, and multiplies with them for its few images only: `pixelfast.engines.triton.arrangement` says when that pays.

A *work* is a `Launch` written down as data, int64 (LENGTH,): its kind, how many blocks it has, then what its body is given and
others are not: numbers, and addresses of tensors. Works of one kind run one body with the same constants. The source of the
kernel is written for each program, with a function for each kind: it grows with the kinds alone, not with layers, colours or
columns. `spans` (columns, 2) says which works a column has: those at the border have fewer.

What a body stores, other threads of the program load next: hence the barrier. Loads must not be made ahead of it
(`num_stages=1`, and the tests find no asynchronous copy).

Tried, compiled for sm_90 with 8 warps by Triton 3.6 and 3.9, as tests/engines/triton/test_triton_compiled.py does:
- Branches instead of functions that are called: the compiler moves what does not change from work to work, as the place of each
  thread in each tile, out of the loop, of all kinds together. Model a in float16 takes 255 registers and spills 21 times;
  called, its stages take up to 60 and its draw 190. Either way, a kind is chosen through a table of addresses.
- Draws of 16 images of 256 values at once instead of 8: 255 registers, and 14 spills.
- Two parts of 64 features in chunks of 64 for 16 images, in float32: 204 registers, where one part takes 40.
- An address is said to be a multiple of 16 once it is a pointer. Said of the number, it is lost: weights then come by 2 bytes.
Model a's 19 works of a pixel are of 8 kinds, model b's 102 of 11; their kernels compile in 2 to 7 seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .bodies import KNOWN, named
from .expressions import compiled
from .launch import Launch

TEMPLATE = """
def persistent_row(
    works, spans, position, first, columns, images, {shared}, LENGTH: tl.constexpr, OWN: tl.constexpr,
):
    start = tl.program_id(0) * OWN
    for step in range(columns):
        col = tl.load(position + 1) + first + step
        for number in range(tl.load(spans + 2 * step), tl.load(spans + 2 * step + 1)):
            work = works + number * LENGTH
            kind = tl.load(work)
            {branches}
            tl.debug_barrier()
"""
KIND = """
def {name}(work, start, col, position, images, {shared}):
    for part in range({parts}):
        image = start + part * {items} + tl.arange(0, {items})
        live = image < images
        for block in range(tl.load(work + 1).to(tl.int32)):
            {body}({given})
"""
WARPS = 8


class PersistentRow:
    """The kernel of one program, for whichever of its rows.

    Args:
        launches: all that a pixel may have; each has a body, and tiles of at most `own` images.
        images: how many there are.
        own: how many of them a program owns: a power of two.
    """

    def __init__(self, launches: Iterable[Launch], images: int, own: int) -> None:
        self.images, self.own = images, own
        self._launches = list({id(launch): launch for launch in launches}.values())
        self._shared = _shared(self._launches)
        shared = ", ".join(self._shared)
        kinds: dict[tuple[str, str], int] = {}
        rows = {id(x): [kinds.setdefault(self._kind(x), len(kinds)), *self._numbers(x)] for x in self._launches}
        self._length = max(map(len, rows.values()))
        self._rows = {key: row + [0] * (self._length - len(row)) for key, row in rows.items()}
        bodies = [launch.body for launch in self._launches]
        call = f"(work, start, col, position, images, {shared})"
        branches = [f"if kind == {index}:\n{16 * ' '}{name}{call}" for (_, name), index in kinds.items()]
        source = TEMPLATE.format(shared=shared, branches=f"\n{12 * ' '}el".join(branches))
        functions = [compiled(text, name, bodies, noinline=True) for text, name in kinds]
        self._kernel = compiled(source, "persistent_row", functions)

    def row(self, position: torch.Tensor, pixels: Sequence[Sequence[Launch]]) -> Launch:
        """A row whose columns have these launches, in this order."""
        works: list[list[int]] = []
        spans: dict[tuple[int, ...], tuple[int, int]] = {}  # equal columns share their works
        result = []
        for pixel in pixels:
            key = tuple(map(id, pixel))
            if key not in spans:
                spans[key] = len(works), len(works) + len(pixel)
                works += [self._rows[launch] for launch in key]
            result.append(spans[key])
        device = position.device
        return Launch(
            kernel=self._kernel,
            grid=(-(-self.images // self.own),),
            arguments={
                "works": torch.tensor(works, dtype=torch.int64).to(device), "position": position, "columns": len(pixels),
                "spans": torch.tensor(result, dtype=torch.int32).to(device), "images": self.images, **self._shared,
            },
            constants={"LENGTH": self._length, "OWN": self.own},
            warps=WARPS,
            writes=tuple({name for launch in self._launches for name in launch.writes}),
        )  # fmt: skip

    def _numbers(self, launch: Launch) -> list[int]:
        """How many blocks, then what the function of its kind loads."""
        values = [launch.arguments[name] for name in self._own(launch)]
        return [launch.grid[1], *(x.data_ptr() if isinstance(x, torch.Tensor) else x for x in values)]

    def _own(self, launch: Launch) -> list[str]:
        """The arguments of a body that differ from work to work; floats are literals."""
        passed = (name for name in launch.body.arg_names if name not in (*KNOWN, *launch.constants, *self._shared))
        return [name for name in passed if not isinstance(launch.arguments[name], float)]

    def _kind(self, launch: Launch) -> tuple[str, str]:
        """The source of the function that runs works of the launch's kind, and its name."""
        body, items, own = launch.body, launch.constants["BLOCK_I"], self._own(launch)
        given = []
        for name in body.arg_names:
            value = launch.constants[name] if name in launch.constants else launch.arguments.get(name)
            if name in own:
                number = f"tl.load(work + {2 + own.index(name)})"
                if isinstance(value, torch.Tensor):  # allocations start at such addresses
                    kind = str(value.dtype).removeprefix("torch.")
                    text = f"tl.multiple_of({number}.to(tl.pointer_type(tl.{kind})), 16)"
                else:
                    text = f"{number}.to(tl.int32)"
            else:
                text = name if name in (*KNOWN, *self._shared) else repr(value)
            given.append(f"{name}={text}")
        return named(
            KIND, "kind", shared=", ".join(self._shared), parts=str(self.own // items), items=str(items),
            body=body.__name__, given=", ".join(given),
        )  # fmt: skip


def _shared(launches: Sequence[Launch]) -> dict[str, Any]:
    """Arguments of which there is one value only."""
    result: dict[str, Any] = {}
    differing = {*KNOWN, "columns"}
    for launch in launches:
        for name, value in launch.arguments.items():
            if isinstance(value, float) or (name in result and not _same(result[name], value)):
                differing.add(name)
            result.setdefault(name, value)
    return {name: value for name, value in result.items() if name not in differing}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(a.data_ptr() == b.data_ptr() and a.dtype == b.dtype)
    return bool(a == b)
