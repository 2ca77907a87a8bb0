"""How the Triton engine runs the pixels of a row: each instruction a launch, in a CUDA graph, or all of them in one kernel.

Launches of a graph wait for each other, but the whole device works at each. A program of a persistent kernel waits for nobody,
but reads all weights by itself, and all its arithmetic happens on one multiprocessor. So that is for small nets, with weights
of up to about a megabyte a pixel, and for many images, as long as each program has a multiprocessor to itself.

The figures below are estimates from what was published about Hopper GPUs. None has been measured with these kernels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from ...errors import EngineUnavailable, InvalidInput
from ...ir.program import Lookup, Map, Norm, Product, Program, Reduce
from ..base import Capabilities, why_not
from .stages import Stage, stages

NAMES = ("graph", "persistent")
OWNED = (8, 16)
"""Images that a program may own: as few as a tensor core takes at a time, and as many as registers hold in every kernel."""
PERSISTENT = Capabilities(
    bodies=(Product, Lookup, Map, Reduce, Norm),
    heads=("categorical", "bernoulli_logit", "bernoulli_probability"),
    precisions=("fp32", "fp16", "bf16"),
    lattices=True,
    sweeps=True,
    most_parameters=2048,  # beyond, the numbers of one image alone take more registers than a program has
)
"""What the persistent kernel can run, of the instructions of a pixel."""

LAUNCH = 2e-6
"""Seconds from one node of a graph to the next."""
TURN = 0.5e-6
"""Seconds from one instruction inside a program to the next: a barrier, and loads that wait for what it made visible."""
ONE_READS, ALL_READ = 90e9, 5.5e12
"""Bytes a second that one multiprocessor reads from the L2 cache, and that all of them read together."""
FLOAT32, TENSOR_CORES = 0.1e12, 1.4e12
"""Multiply-adds a second of one multiprocessor, in IEEE float32 and in lower precisions: about half of what it could do."""


@dataclass(frozen=True)
class Arrangement:
    """What was chosen, for so many images.

    Attributes:
        own: images that a program of the persistent kernel owns; 0: a graph.
        reason: why.
    """

    own: int
    reason: str

    @property
    def name(self) -> str:
        return NAMES[self.own > 0]


def wish(name: str | None) -> str | None:
    """What was asked for, or else what the environment variable PIXELFAST_ARRANGEMENT says; None: whichever is faster.

    Raises:
        InvalidInput: there is no such arrangement.
    """
    result = name or os.environ.get("PIXELFAST_ARRANGEMENT") or None
    if result not in (None, *NAMES):
        names = " or ".join(map(repr, NAMES))
        raise InvalidInput(f"there is no arrangement {result!r} (arrangement= or PIXELFAST_ARRANGEMENT): use {names}")
    return result


def refuses(program: Program) -> str | None:
    """Why no persistent kernel can run the pixels of a program; None if one can."""
    return why_not(replace(program, row=()), PERSISTENT)


def arrange(program: Program, images: int, precision: str, wanted: str | None, device: torch.device) -> Arrangement:
    """How to run so many images on a device.

    Raises:
        EngineUnavailable: a persistent kernel was asked for, and cannot run this.
    """
    refused = refuses(program)
    own = next((own for own in OWNED if images * ONE_READS <= own * ALL_READ), OWNED[-1])
    if wanted == "graph":
        return Arrangement(0, "asked for")
    if wanted == "persistent" and refused is not None:
        raise EngineUnavailable(f"the Triton engine cannot run this model persistently: {refused}. Use arrangement='graph'")
    if wanted == "persistent":
        return Arrangement(own, "asked for")
    if refused is not None:
        return Arrangement(0, refused)
    graph, persistent = seconds(program, images, precision, own, _processors(device))
    text = f"a pixel takes {persistent * 1e6:.0f} us in a persistent kernel and {graph * 1e6:.0f} us in a graph, by estimate"
    return Arrangement(own if persistent < graph else 0, text)


def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; as if it were an H200, where there is none."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 132


def seconds(program: Program, images: int, precision: str, own: int, processors: int) -> tuple[float, float]:
    """The estimated seconds of a pixel of all images: in a graph, and in a persistent kernel.

    Stages, other instructions and draws take a launch or a turn each. To these comes the longer of two times: that of reading
    the weights, and that of multiplying with them.
    """
    works = [work for instructions in program.steps for work in stages(program, instructions)]
    products = [work.product for work in works if isinstance(work, Stage)]
    weights = sum(product.weights.size for product in products)
    size, rate = (4, FLOAT32) if precision == "fp32" else (2, TENSOR_CORES)
    turns, programs = len(works) + len(program.draws), -(-images // own)
    graph = turns * LAUNCH + max(weights * size / ALL_READ, weights * images / (rate * processors))
    reads = min(ONE_READS, ALL_READ / min(programs, processors))
    persistent = turns * TURN + max(weights * size / reads, weights * own / rate)
    return graph, persistent * -(-programs // processors)
