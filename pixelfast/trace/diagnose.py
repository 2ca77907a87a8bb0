"""Diagnose: in which layer do NaN or infinite numbers first appear?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import Conditions
from ..heads import Head
from .capture import blank_output


def first_bad_layer(module: nn.Module, head: Head, shape: tuple[int, int, int], conditions: Conditions) -> str:
    """A sentence that names the first submodule whose output holds NaN or infinity on a blank image; "" if none does."""
    found: list[str] = []

    def look(name: str, child: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all() and not found:
                bad = int((~torch.isfinite(output)).sum())
                found.append(f"; first seen in layer {name!r} ({type(child).__name__}): {bad} of {output.numel()} outputs")

        return child.register_forward_hook(hook)

    handles = [look(name, child) for name, child in module.named_modules() if not list(child.children())]
    try:
        blank_output(module, head, shape, conditions)
    except Exception:  # the diagnosis must never hide the error that it explains
        return ""
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
