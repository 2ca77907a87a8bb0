"""The discretized Gaussian and mixture of Gaussians: the entropy models of learned image compression.

Value k stands for the integer x = k + offset, and has the probability of the bin of width 1 around it; the first and the last
bin reach to infinity:

    P(k | i) = Phi((x + 1/2 - mu_i) / sigma_i) - Phi((x - 1/2 - mu_i) / sigma_i),   sigma_i at least 0.11

Papers: Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors for learned image compression", NeurIPS 2018;
Cheng, Sun, Takeuchi, Katto, "Learned image compression with discretized Gaussian mixture likelihoods and attention modules",
CVPR 2020. The same numbers, in the order of CompressAI's `GaussianConditional` and `GaussianMixtureConditional`
(compressai/entropy_models/entropy_models.py). Letters: K levels, M components, P parameters of a sub-pixel.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput
from .base import size_of
from .components import Mixture, MixtureHead
from .encoding import Encode

KINDS = ("scale", "mean", "weight")
LAYOUTS = tuple("-".join(kind + plural for kind in kinds) for plural in ("s", "") for kinds in permutations(KINDS))
"""Parameter layouts of mixtures: of plurals M numbers stand together, of singulars the three of each component."""
SINGLE = ("scale-mean", "mean-scale")
NARROW, FLAT = 0.05, 0.1
"""Bins of less than so many half scales, over which the density changes by less than exp(2 FLAT), have a series."""


class MixtureOfGaussians(MixtureHead):
    """A discretized mixture of M Gaussians over K consecutive integers, for each sub-pixel its own.

    The model gives P = 3M parameters for each sub-pixel: a scale, a mean and the logit of a weight for each component. Means
    and scales are in units of values: a mean of 3.5 lies between the integers 3 and 4.

    Args:
        levels: K, at least 2.
        mixtures: M, how many components.
        offset: the integer that value 0 stands for. ``MixtureOfGaussians(256, 3, offset=-128)`` draws -128 .. 127, as 0 .. 255.
        parameter_layout: in which order the P parameters stand. ``"scales-means-weights"`` (CompressAI): M scales, M means, M
            logits. ``"weight-mean-scale"`` (Cheng et al.): for each component its logit, mean and scale. All orders of these
            words are known, in plural and in singular.
        log_scales: the model gives logarithms of the scales instead of scales.
        scale_min: scales below are raised to it, negative ones too, as published.
        encode: how values enter the model; left out, as the integers that they stand for, k + offset, in float32.
        layout: see `Head`. CompressAI's modules need ``"N(KC)HW"``, which fits others as well.

    Weights are logits: a softmax belongs to the head, not to the model. A value is the integer itself, as in the forward of
    these models; their coders, which round the difference to the mean, draw from other sets of values.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> head = pixelfast.MixtureOfGaussians(levels=5, mixtures=2, offset=-2)
        >>> head.parameters, head.table((1, 7, 5)).tolist()
        (6, [[-2.0, -1.0, 0.0, 1.0, 2.0]])
        >>> head.probabilities(torch.ones(6)).sum()
        tensor(1., dtype=torch.float64)
    """

    drawn_as = "mixture_of_gaussians"

    def __init__(
        self,
        levels: int,
        mixtures: int,
        offset: int = 0,
        parameter_layout: str = "scales-means-weights",
        log_scales: bool = False,
        scale_min: float = 0.11,
        encode: Encode | None = None,
        layout: str | None = None,
    ) -> None:
        name = f"a {type(self).__name__}"
        levels, mixtures = size_of(name, "levels", levels, 2), size_of(name, "mixtures", mixtures, 1)
        if isinstance(offset, bool) or not isinstance(offset, (int, np.integer)) or abs(offset) > 2**24:
            raise InvalidInput(f"{name} needs offset within -2**24 .. 2**24, an integer, got {offset!r}")
        known = self.layouts()
        if not isinstance(parameter_layout, str) or parameter_layout not in known:
            raise InvalidInput(f"parameter_layout must be one of {', '.join(map(repr, known))}, got {parameter_layout!r}")
        if isinstance(scale_min, bool) or not isinstance(scale_min, (int, float)) or not 1e-30 <= scale_min <= 1e30:
            raise InvalidInput(f"scale_min must be a number within 1e-30 .. 1e30, got {scale_min!r}")
        kinds = len(parameter_layout.split("-"))
        super().__init__(levels, mixtures * kinds, (1.0, float(offset)) if encode is None else encode, layout)
        self.mixtures, self.offset, self.parameter_layout = mixtures, int(offset), parameter_layout
        self.log_scales, self.scale_min = bool(log_scales), float(scale_min)

    @classmethod
    def of(cls, levels: int, channels: int, mixture: Mixture) -> MixtureOfGaussians:
        offset, logs, least = mixture.offset, mixture.log_scales, math.exp(mixture.log_scale_min)
        heads: list[MixtureOfGaussians] = [Gaussian(levels, offset, layout, logs, least) for layout in SINGLE]
        heads += [MixtureOfGaussians(levels, mixture.components, offset, layout, logs, least) for layout in LAYOUTS]
        return next(head for head in heads if head.mixture == mixture)

    @property
    def mixture(self) -> Mixture:
        places = {kind: at.start for kind, at in self.places.items()}
        step = self.places["mean"].step if self.mixtures > 1 else 1
        weights, means, scales = places.get("weight", -1), places["mean"], places["scale"]
        return Mixture(self.mixtures, step, 0, weights, means, scales, -1, self.log_scale_min, self.log_scales, self.offset)

    @classmethod
    def layouts(cls) -> tuple[str, ...]:
        """What `parameter_layout` may be."""
        return LAYOUTS

    def __repr__(self) -> str:
        layout = "" if self.layout is None else f", layout={self.layout!r}"
        return (
            f"{type(self).__name__}({self.levels} levels from {self.offset}, {self.mixtures} mixtures, "
            f"{self.parameter_layout}, encode={self.encode!r}{layout})"
        )

    @property
    def places(self) -> dict[str, range]:
        """Where the numbers of all components stand among the P parameters, by their kind."""
        words, count = self.parameter_layout.split("-"), self.mixtures
        if words[0].endswith("s"):
            return {word.removesuffix("s"): range(i * count, (i + 1) * count) for i, word in enumerate(words)}
        return {word: range(i, len(words) * count, len(words)) for i, word in enumerate(words)}

    def components(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers = {kind: parameters[..., at.start : at.stop : at.step].double() for kind, at in self.places.items()}
        scales = numbers["scale"] if self.log_scales else numbers["scale"].clamp_min(1e-300).log()
        weights = numbers.get("weight", torch.zeros_like(scales))
        return weights.log_softmax(-1), numbers["mean"], scales.clamp_min(self.log_scale_min)

    @property
    def log_scale_min(self) -> float:
        """The logarithm of the least scale, as all engines have it: a float32."""
        return float(np.float32(math.log(self.scale_min)))

    def below(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        return torch.special.ndtr((values + (self.offset + 0.5) - mean) * torch.exp(-log_scale))

    def log_bin(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        """log P(value | component). In units of scales, z >= 0 is the distance to the mean and h half of the bin's width.

        Far from the mean, Q(z - h) - Q(z + h) of the upper tail Q loses no digits as exp(-(z - h)^2 / 2) times a difference of
        Q(t) exp(t^2 / 2), of which the one is far smaller than the other: the ratio of the exponentials is exp(-2zh).
        """
        sharpness = torch.exp(-log_scale)
        apart = (values + self.offset - mean) * sharpness
        z, h = apart.abs(), 0.5 * sharpness
        narrow = (h < NARROW) & (z * h < FLAT)
        around, beside = ~narrow & (z < h), ~narrow & (z >= h)
        inner = torch.where(around, _around(z, h, around), _beside(z, h, beside))
        inner = torch.where(narrow, _series(z, h, log_scale, narrow), inner)
        first, last = torch.special.log_ndtr(apart + h), torch.special.log_ndtr(h - apart)
        return torch.where(values == 0, first, torch.where(values == self.levels - 1, last, inner))


def _series(z: Tensor, h: Tensor, log_scale: Tensor, here: Tensor) -> Tensor:
    """2h phi(z) (1 + He_2(z) h^2 / 3! + He_4(z) h^4 / 5! + ...), whose next term is below 1e-13."""
    z, h = torch.where(here, z, 0.0), torch.where(here, h, 0.0)
    a, b = z * z, h * h
    more = b * ((a - 1) / 6 + b * ((a * (a - 6) + 3) / 120 + b * (a * (a * (a - 15) + 45) - 15) / 5040))
    return -log_scale - a / 2 - 0.5 * math.log(2 * math.pi) + more.log1p()


def _around(z: Tensor, h: Tensor, here: Tensor) -> Tensor:
    """1 - Q(h - z) - Q(h + z): the mean is within the bin."""
    z, h = torch.where(here, z, 0.0), torch.where(here, h, 1.0)
    return torch.log1p(-torch.special.ndtr(z - h) - torch.special.ndtr(-z - h))


def _beside(z: Tensor, h: Tensor, here: Tensor) -> Tensor:
    """Q(z - h) - Q(z + h): see `log_bin`."""
    z, h = torch.where(here, z, 2.0), torch.where(here, h, 1.0)
    low, high = (torch.special.erfcx(edge * math.sqrt(0.5)) for edge in (z - h, z + h))
    return -0.5 * (z - h) ** 2 + (0.5 * (low - torch.exp(-2 * z * h) * high)).log()


class Gaussian(MixtureOfGaussians):
    """A discretized Gaussian over K consecutive integers: a mixture of one component, without a weight.

    The model gives P = 2 parameters for each sub-pixel.

    Args:
        levels: K, at least 2.
        offset: the integer that value 0 stands for. ``Gaussian(256, offset=-128)`` draws -128 .. 127, as 0 .. 255.
        parameter_layout: ``"scale-mean"`` (CompressAI), or ``"mean-scale"``.
        log_scales, scale_min, encode, layout: see `MixtureOfGaussians`.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> head = pixelfast.Gaussian(levels=256, offset=-128, layout="N(KC)HW")
        >>> head.parameters
        2
    """

    def __init__(
        self,
        levels: int,
        offset: int = 0,
        parameter_layout: str = "scale-mean",
        log_scales: bool = False,
        scale_min: float = 0.11,
        encode: Encode | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__(levels, 1, offset, parameter_layout, log_scales, scale_min, encode, layout)

    @classmethod
    def layouts(cls) -> tuple[str, ...]:
        return SINGLE
