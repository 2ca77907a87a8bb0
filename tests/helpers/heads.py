"""A head for each name that programs have for one."""

from __future__ import annotations

from collections.abc import Callable

from pixelfast import Gaussian, MixtureOfGaussians, MixtureOfLogistics
from pixelfast.distributions.components import MixtureHead

MIXTURES: dict[str, Callable[[int, int, int], MixtureHead]] = {
    "mixture_of_logistics": lambda levels, components, channels: MixtureOfLogistics(
        levels, components, channels, "mixture-major" if channels == 3 else "colour-major"
    ),
    # Of one component or several, from scales or their logarithms: what programs of one or three channels have.
    "mixture_of_gaussians": lambda levels, components, channels: (
        Gaussian(levels, -2, "mean-scale")
        if channels == 1
        else MixtureOfGaussians(levels, components, 1, "weight-mean-scale", log_scales=True)
    ),
}
"""How to make each, from levels, components and channels of the image (1 or 3)."""


def mixture_head(name: str, levels: int, components: int = 2, channels: int = 3) -> MixtureHead | None:
    """The mixture of a name; None for heads that are none."""
    return MIXTURES[name](levels, components, channels) if name in MIXTURES else None
