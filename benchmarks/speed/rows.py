"""The ways to sample that are compared, one row of the report each."""

from __future__ import annotations

import difflib

from pixelfast.engines import registry
from pixelfast.engines.triton.arrangement import NAMES
from pixelfast.precision import PRECISIONS

USUAL = {
    "naive": "the usual loop: one full forward for each sub-pixel",
    "naive-cropped": "the usual loop on the rows so far: half of the work",
    "naive-compiled": "the usual loop under torch.compile",
    "naive-graph": "the usual loop on a GPU, each step replayed as a CUDA graph",
}
"""What a user has today."""

NETKET = "netket"
SLOW = "reference"
"""The engine that is there to be compared with: some of its rows of pixels are measured, and not against the tuned forward."""

ENGINES: dict[str, tuple[str, str]] = {
    name if precision == "fp32" else f"{name}-{precision}": (name, precision)
    for name, entry in sorted(registry.ENGINES.items(), key=lambda item: item[0] != SLOW)
    if entry.fast or name == SLOW
    for precision in entry.capabilities.precisions
}
"""Engine and precision of the rows that are pixelfast's."""


ARRANGED: dict[str, tuple[str, str]] = {f"{row}-{name}": (row, name) for row in ("triton", "triton-fp16") for name in NAMES}
"""Rows in which an engine is told what it chooses by itself in another row: that row, and what it is told."""
DEVICES = ("cpu", "cuda")
ON_CUDA = ("naive-graph", *ARRANGED, *(row for row, (engine, _) in ENGINES.items() if engine in ("triton", "cuda")))
"""Rows that need a GPU."""
ON_BOTH = ("naive", "naive-compiled", SLOW)
"""Rows that run on a processor as well as on a GPU."""
LOWER = tuple(row for row, (_, precision) in ENGINES.items() if precision != "fp32")
"""Rows that are not exact: by default only of models that ask for them."""


def _described(engine: str, precision: str) -> str:
    if engine == SLOW:
        return "eager PyTorch with cached features: the same schedule, as a good user would write it (extrapolated)"
    return f"pixelfast's {engine}: {registry.ENGINES[engine].summary}, {PRECISIONS[precision].summary}"


ROWS: dict[str, str] = {
    **USUAL,
    NETKET: "NetKet's cached sampler (JAX) of the same network",
    **{row: _described(*made) for row, made in ENGINES.items()},
    **{name: f"as `{row}`, told to run {told!r}" for name, (row, told) in ARRANGED.items()},
}
"""Name and description of every row, from slow to fast."""

QUICK = tuple(name for name in ROWS if name not in ("naive-compiled", NETKET))


def find(names: list[str] | None, quick: bool = False, device: str = "cpu") -> list[str]:
    """The rows asked for, or all that are exact, in the order of the report.

    Raises:
        ValueError: a name is unknown, or no row of this device; the text lists those that there are.
    """
    for name in names or []:
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no engine or row {name!r}: {hint}there are {', '.join(ROWS)}")
        if not on(device, name):
            there = ", ".join(row for row in ROWS if on(device, row))
            raise ValueError(f"--device {device} has no row {name!r}: there are {there}")
    if names is None and device == "cuda":  # lower precisions are what a GPU is good at
        return [name for name in ROWS if on(device, name) and name != "naive-compiled"]
    if names is None:
        return [name for name in (QUICK if quick else ROWS) if name not in LOWER and on(device, name) and runs_here(name)]
    return in_order(names)


def in_order(names: list[str]) -> list[str]:
    """The names as the report has them."""
    return [name for name in ROWS if name in names]


def on(device: str, row: str) -> bool:
    """Whether a row can be measured with its images on this kind of device."""
    return row in ON_BOTH or (row in ON_CUDA) == (device == "cuda")


def runs_here(row: str) -> bool:
    """Whether the row's engine, if it has one, can run on this machine."""
    return row not in ENGINES or registry.ENGINES[ENGINES[row][0]].unavailable_reason() is None


def native(names: list[str]) -> list[str]:
    """Those of the rows that are engines of the package which are meant to be fast."""
    return [name for name in names if name in ENGINES and name != SLOW]
