"""The torch engine: the reference interpreter on the device that the module is on, for GPUs that no other engine runs on.

The environment variable PIXELFAST_DEVICE (cuda, cuda:1, mps, xpu, cpu) names another device. Each instruction is a few launches
of PyTorch's kernels, pixel by pixel. Layer norms take float32 on devices that have no float64, as Apple's; there, values are
drawn on the processor.
"""

from __future__ import annotations

import os

import torch

from ..errors import EngineUnavailable, described
from ..ir.program import Program
from . import reference

CAPABILITIES = reference.CAPABILITIES


class TorchEngine(reference.ReferenceEngine):
    """A program made ready for a device of PyTorch's.

    Args:
        device: None: the processor. PIXELFAST_DEVICE overrides it.

    Raises:
        EngineUnavailable: PyTorch does not compute on the device here.
    """

    def __init__(self, program: Program, device: torch.device | None = None) -> None:
        super().__init__(program, _usable(os.environ.get("PIXELFAST_DEVICE") or device or "cpu"))


def _usable(wanted: str | torch.device) -> torch.device:
    """The device, once it has computed something."""
    try:
        result = torch.device(wanted)
        torch.ones(1, device=result).cpu()
    except (AssertionError, RuntimeError) as error:  # a PyTorch that was built without a kind of device asserts that it has it
        raise EngineUnavailable(
            f"the engine 'torch' cannot compute on the device {str(wanted)!r}: {described(error)}. Move the module to another "
            "device, or name one by the environment variable PIXELFAST_DEVICE, for instance cuda, mps, xpu or cpu"
        ) from error
    return result
