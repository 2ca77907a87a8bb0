"""The Triton engine: `Program`s run by the kernels of `pixelfast.kernels`, on NVIDIA GPUs.

A row is a list of launches: what is known when it starts runs over all its columns at once, then each pixel runs stage by
stage. All launches find the running position in device memory, so a row is captured as a CUDA graph when it comes again, and
replayed: a processor that issued them one by one would be slower than the GPU that runs them. Everything happens on the
current device and in the current stream, and images stay there until the last row is finished.

With TRITON_INTERPRET=1 in the environment before Triton is imported, kernels run on the CPU, for tests: very slowly.
"""

from __future__ import annotations

import importlib
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import EngineUnavailable
from ...host.locks import Lock
from ...ir.program import Attention, Lookup, Map, Norm, Product, Program, Reduce
from ..base import Capabilities, Request, Result, check, why_not
from .arrangement import Arrangement, arrange, wish

if TYPE_CHECKING:  # imports Triton, which need not be there
    from .session import Session

CAPABILITIES = Capabilities(
    bodies=(Product, Lookup, Map, Reduce, Norm, Attention),
    heads=("categorical", "bernoulli_logit", "bernoulli_probability", "mixture_of_logistics", "mixture_of_gaussians"),
    precisions=("fp32", "fp16", "bf16"),
    lattices=True,
    sweeps=True,
    most_normalised=8192,  # registers hold them all
    most_attended=1024,  # few pixels hold them whole
    most_components=64,  # Triton 3.6 fails to compile the draw where as many threads as components, or fewer, run it
)
BFLOAT16_SINCE = (8, 0)
"""Compute capability of the first GPUs that multiply bfloat16."""
MOST_ISSUES = 20_000
"""Launches in one graph; each takes memory on the device and time when it is captured."""
KEPT = 2
"""Sizes of requests whose memory and graphs are kept."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unavailable_reason() -> str | None:
    """None if the engine can run here, otherwise why it cannot."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton cannot be imported ({error}): `pip install 'pixelfast[gpu]'` brings it on Linux"
    if not interpreted() and not torch.cuda.is_available():
        return (
            "PyTorch finds no CUDA device: it needs an NVIDIA GPU with its driver, and a build of PyTorch for CUDA "
            "(https://pytorch.org/get-started)"
        )
    return None


def lacks(precision: str) -> str | None:
    """Why the current device has no such precision; None if it has."""
    if precision != "bf16":
        return None
    if interpreted():
        return "Triton's interpreter multiplies bfloat16 wrongly"
    if (found := torch.cuda.get_device_capability()) < BFLOAT16_SINCE:
        name, (major, minor) = torch.cuda.get_device_name(), found
        return f"{name}, of compute capability {major}.{minor}, does not multiply bfloat16, as GPUs do from 8.0 on"
    return None


def _device() -> torch.device:
    return torch.device("cpu") if interpreted() else torch.device("cuda", torch.cuda.current_device())


class TritonEngine:
    """A program made ready for a GPU; calls from several threads wait for each other.

    Args:
        program: what to run.
        precision: "fp32", which is exact: IEEE float32, never TF32. "fp16" and "bf16": products of float16 or bfloat16 numbers
            with float32 sums.
        most_issues: launches in one graph, at most; 0: no graphs, every kernel is launched by itself.
        poison: fill what is not computed yet with NaN, for tests.
        arrangement: how the pixels of a row are run: "graph", a launch for each stage, or "persistent", one kernel for all.
            None: what PIXELFAST_ARRANGEMENT says, or whichever is estimated to be faster (`triton_arrangement`).

    Raises:
        EngineUnavailable: there is no GPU, no Triton, no such precision on the GPU, or no kernel for something in the program.
        InvalidInput: there is no such arrangement.
    """

    def __init__(
        self, program: Program, precision: str = "fp32", most_issues: int = MOST_ISSUES, poison: bool = False,
        arrangement: str | None = None,
    ) -> None:  # fmt: skip
        reason = unavailable_reason()
        if reason is not None:
            raise EngineUnavailable(f"the engine 'triton' cannot run here: {reason}")
        if (reason := why_not(program, CAPABILITIES, precision)) is not None:
            raise EngineUnavailable(f"the engine 'triton' cannot run this model: {reason}")
        if (reason := lacks(precision)) is not None:
            raise EngineUnavailable(
                f"the engine 'triton' has no precision {precision!r} here: {reason}. Use precision='fp16' or 'fp32'"
            )
        self.program, self.precision = program, precision
        self._most, self._poison, self._wanted = most_issues, poison, wish(arrangement)
        if self._wanted == "persistent":
            self.arrangement(1)
        self._weights: dict[tuple[object, ...], torch.Tensor] = {}
        self._sessions: OrderedDict[object, Session] = OrderedDict()
        self._lock = Lock()

    def arrangement(self, images: int) -> Arrangement:
        """How the pixels of so many images would be run on the current device, and why."""
        return arrange(self.program, images, self.precision, self._wanted, _device())

    def run(self, request: Request) -> Result:
        """Sample, on the current device.

        Raises:
            InvalidInput: the request does not fit the program.
            NumericalError: parameters that describe no distribution; ``position`` is (image, row, col, channel).
        """
        check(self.program, request)
        if not len(request.noise):
            return self._nothing(request)
        with self._lock, torch.no_grad():
            return self._session(request).run(request)

    def _session(self, request: Request) -> Session:
        from .session import Session

        device = _device()
        key = device, request.noise.shape, tuple(field.shape for field in request.fields), request.want_parameters
        session = self._sessions.pop(key, None)
        if session is None:
            while len(self._sessions) >= KEPT:
                self._sessions.popitem(last=False)
            session = Session(
                self.program, request, device, self.precision, self._weights, self._most, self._poison, self._wanted
            )
        self._sessions[key] = session
        return session

    def _nothing(self, request: Request) -> Result:
        """No images."""
        shape = request.noise.shape
        log_prob = np.zeros(0, np.float64) if request.want_log_prob else None
        parameters = np.zeros((*shape, self.program.parameters), np.float32) if request.want_parameters else None
        return Result(np.zeros(shape, np.int32), log_prob, parameters)
