"""Diagnose: in which layer do NaN or infinite numbers first appear?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions.base import Head
from ..inputs.conditions import Conditions
from .capture import output_of
from .index import IMAGES

TRIALS = 4
"""Batches of random images that are tried after a blank one."""


def first_bad_layer(module: nn.Module, head: Head, shape: tuple[int, int, int], conditions: Conditions) -> str:
    """A sentence that names the first submodule that gives NaN or infinity, on a blank or a random image; "" if none does."""
    result: list[str] = []

    def look(name: str, child: nn.Module) -> Any:
        title = f"layer {name!r} ({type(child).__name__})" if name else f"the forward of {type(child).__name__}"

        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if result or not (bad := _count_bad(output)):
                return
            given = sum(_count_bad(value) for value in inputs)
            result.append(f"; first seen in {f'what {title} is given' if given else f'{title}: {bad} of its outputs'}")

        return child.register_forward_hook(hook)

    handles = [look(name, child) for name, child in module.named_modules()]
    try:
        for images in _trials(head, shape):
            output_of(module, head, images, conditions)
            if result:
                return result[0]
    except Exception:  # the diagnosis must never hide the error that it explains
        return ""
    finally:
        for handle in handles:
            handle.remove()
    return ""


def _count_bad(value: Any) -> int:
    """How many numbers of a tensor are NaN or infinite; 0 for everything else."""
    return int((~torch.isfinite(value)).sum()) if isinstance(value, Tensor) and value.is_floating_point() else 0


def _trials(head: Head, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """Two images each, int64 (2, C, H, W)."""
    yield torch.zeros(IMAGES, *shape, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        yield torch.randint(head.levels, (IMAGES, *shape), generator=generator)
