"""The ways to sample that are compared, one row of the report each."""

from __future__ import annotations

import difflib

from pixelfast.engines import registry

USUAL = {
    "naive": "the usual loop: one full forward for each sub-pixel",
    "naive-cropped": "the usual loop on the rows so far: half of the work",
    "naive-compiled": "the usual loop under torch.compile",
}
"""What a user has today."""

NETKET = "netket"

ROWS: dict[str, str] = {
    **USUAL,
    NETKET: "NetKet's cached sampler (JAX) of the same network",
    "reference": "eager PyTorch with cached features: the same schedule, as a good user would write it",
    **{name: f"pixelfast's {name}: {entry.summary}" for name, entry in registry.ENGINES.items() if name != "reference"},
}
"""Name and description of every row, from slow to fast."""

QUICK = tuple(name for name in ROWS if name not in ("naive-compiled", NETKET))


def find(names: list[str] | None, quick: bool = False) -> list[str]:
    """The rows asked for, or all, in the order of the report.

    Raises:
        ValueError: a name is unknown; the text lists the known ones.
    """
    for name in names or []:
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no engine or row {name!r}: {hint}there are {', '.join(ROWS)}")
    if names is None:
        return [name for name in (QUICK if quick else ROWS) if name not in registry.ENGINES or runs_here(name)]
    return [name for name in ROWS if name in names]


def runs_here(name: str) -> bool:
    """Whether an engine can run on this machine."""
    return registry.ENGINES[name].unavailable() is None


def engines(names: list[str]) -> list[str]:
    """Those of the rows that are engines of the package."""
    return [name for name in names if name in registry.ENGINES]
