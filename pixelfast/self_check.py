"""The self-check: the first images of each kind of call are compared with the module itself."""

from __future__ import annotations

import torch

from .engines.base import Request, Result
from .engines.naive import NaiveEngine
from .errors import NotAutoregressive, VerificationError
from .host.copying import independent_copy
from .inputs.conditions import Conditions
from .verify import agreement, own_rounding

CHECKED = 4
"""Images of a first batch that are compared, at most."""
CHECKED_NUMBERS = 1 << 24
"""Parameters that this may take: fewer images where they are large, but always one."""


def checked(images: int, each: int) -> tuple[int, bool]:
    """How many of some images are compared, and whether the parameters of all fit, of which each has so many."""
    return max(1, min(images, CHECKED, CHECKED_NUMBERS // each)), images * each <= CHECKED_NUMBERS


def check_engine(
    oracle: NaiveEngine, result: Result, count: int, conditions: Conditions, engine: str, precision: str
) -> None:  # fmt: skip
    """Compare the parameters that an engine drew `count` images from with one forward of the module on them.

    Args:
        oracle: the module, by itself.
        conditions: of these images.

    Raises:
        VerificationError: they are not the module's.
    """
    assert result.parameters is not None
    # On the CPU in float32, where tracing ran it too: a GPU may compute convolutions with fewer digits.
    on_cpu = all(tensor.device.type == "cpu" for tensor in (*oracle.module.parameters(), *oracle.module.buffers()))
    module = oracle.module if on_cpu else independent_copy(oracle.module).cpu()
    images = torch.from_numpy(result.values[:count]).long()
    with torch.random.fork_rng(devices=[]):
        own = NaiveEngine(module, oracle.head, oracle.layout).parameters(images, conditions)
    differs = agreement(
        torch.from_numpy(result.parameters[:count]), own, precision, f"in the engine {engine!r}", oracle.head, images,
        lambda: own_rounding(oracle, images, own, conditions),
    )  # fmt: skip
    if differs is not None:
        lower = "" if precision == "fp32" else ", or this model is too delicate for this precision"
        raise VerificationError(
            f"self-check of the first {count} images: {differs}. This is a bug of pixelfast's{lower}: please report "
            "it with the model, and with what pixelfast.debug.first_difference says of a sampler that was compiled with "
            'self_check=False. engine="naive" samples the module as it is, slowly'
        )


def run_watched(oracle: NaiveEngine, request: Request, conditions: Conditions, count: int) -> Result:
    """Draw by the module's own loop, and compare the parameters of `count` images with those of the finished images.

    Only of an autoregressive model, read in its own layout and order, are these the same.

    Raises:
        NotAutoregressive: they changed after a sub-pixel was drawn from them.
    """
    watched = torch.zeros(count, *request.noise.shape[1:], oracle.head.parameters)
    result = oracle.run(request, conditions, watched)
    images = torch.from_numpy(result.values).long()
    finished = oracle.parameters(images, conditions)[:count]
    if request.given is not None:
        known = torch.from_numpy(request.given[:count] >= 0)
        watched[known] = finished[known]
    few, part = images[:count], conditions.rows(slice(count), len(images))
    differs = agreement(
        watched, finished, "fp32", "when they are drawn", oracle.head, few, lambda: own_rounding(oracle, few, finished, part)
    )
    if differs is not None:
        raise NotAutoregressive(
            f"{type(oracle.module).__name__} is not autoregressive in the order {oracle.order.name!r} with its output read as "
            f"{oracle.layout.text!r}: {differs} on the finished images. No prediction may change with what is drawn later: is "
            "that the model's order (order=), and the layout of its output (layout= of the head)? Or does its forward keep a "
            "memory? self_check=False draws all the same"
        )
    return result
