"""The discretized mixture of logistics: M components for a whole pixel, with colours that depend linearly on each other.

Each component i has a weight pi_i, and for each colour a mean and a scale of a logistic distribution. The values
0 .. K-1 lie on the axis at x = 2k/(K-1) - 1, and a value has the probability of the bin around it, which is 2/(K-1) wide;
the first and the last bin reach to infinity:

    P(k | i) = sigmoid((x + 1/(K-1) - m_i) / s_i) - sigmoid((x - 1/(K-1) - m_i) / s_i)
    m_i(R) = mu_i(R),   m_i(G) = mu_i(G) + a_i R,   m_i(B) = mu_i(B) + b_i R + c_i G     (a, b, c within -1 .. 1)

Paper: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and
other modifications", ICLR 2017. Letters: C colours, K levels, M components, P parameters of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidInput
from .base import size_of
from .components import Mixture, MixtureHead
from .encoding import SYMMETRIC, Encode

ParameterLayout = Literal["colour-major", "mixture-major"]
PARAMETER_LAYOUTS: tuple[ParameterLayout, ...] = ("colour-major", "mixture-major")

LEAST_LOG_SCALE = -700.0
"""The lowest of a mixture: exp(709) is about the largest number that float64 holds."""


class MixtureOfLogistics(MixtureHead):
    """A discretized mixture of M logistic distributions over K values, with linear colour conditioning where C = 3.

    The model gives P parameters for each *pixel*: 3M for one channel, 10M for three. Channels are drawn one after the other.
    Given those before it, a channel is again a mixture, whose weights are the posterior pi_i * prod P(earlier value | i):
    a distribution over K values, drawn from by one uniform number. Together they are exactly the distribution of the
    published sampler (choose a component, draw R, then G given R, then B given both) with each channel clipped and rounded
    to its grid before the next one is drawn.

    Args:
        levels: K, at least 2.
        mixtures: M, how many components.
        channels: C, 1 or 3.
        parameter_layout: in which order the P parameters stand. ``"colour-major"`` (openai/pixel-cnn,
            pclucas14/pixel-cnn-pp): M logits of the weights, then for each colour M means, M log-scales and, with three
            colours, M coefficients: a in the place of R, b of G, c of B. ``"mixture-major"``: for each component its logit,
            C means, C log-scales, then a, b, c. Coefficients pass through tanh.
        log_scale_min: log-scales below are raised to it, as published; at least -700.
        encode, layout: see `Head`; whatever the encoding, the axis of the distribution is the symmetric one.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> head = pixelfast.MixtureOfLogistics(levels=16, mixtures=2, channels=3, encode="symmetric")
        >>> head.parameters  # of a pixel
        20
        >>> red = head.conditional(torch.zeros(20), torch.zeros(0, dtype=torch.int64))
        >>> green = head.conditional(torch.zeros(20), torch.tensor([7]))  # given that red is 7
        >>> head.probabilities(green).shape
        torch.Size([16])
    """

    drawn_as = "mixture_of_logistics"
    shared = True

    def __init__(
        self,
        levels: int = 256,
        mixtures: int = 10,
        channels: int = 3,
        parameter_layout: ParameterLayout = "colour-major",
        log_scale_min: float = -7.0,
        encode: Encode = SYMMETRIC,
        layout: str | None = None,
    ) -> None:
        what = "a mixture of logistics"
        levels, mixtures = size_of(what, "levels", levels, 2), size_of(what, "mixtures", mixtures, 1)
        if channels not in (1, 3):
            raise InvalidInput(f"a mixture of logistics describes pixels of 1 or 3 channels, got channels={channels!r}")
        if not isinstance(parameter_layout, str) or parameter_layout not in PARAMETER_LAYOUTS:
            known = ", ".join(map(repr, PARAMETER_LAYOUTS))
            raise InvalidInput(f"parameter_layout must be one of {known}, got {parameter_layout!r}")
        if isinstance(log_scale_min, bool) or not isinstance(log_scale_min, (int, float)) or not math.isfinite(log_scale_min):
            raise InvalidInput(f"log_scale_min must be a finite number, got {log_scale_min!r}")
        if log_scale_min < LEAST_LOG_SCALE:
            raise InvalidInput(
                f"log_scale_min must be at least {LEAST_LOG_SCALE:g}, got {log_scale_min!r}: float64 holds no exp(-log_scale) "
                "beyond, and from about -20 on a component is one value"
            )
        super().__init__(levels, mixtures * (3 if channels == 1 else 10), encode, layout)
        self.mixtures, self.channels, self.log_scale_min = mixtures, int(channels), float(log_scale_min)
        self.parameter_layout = parameter_layout

    @classmethod
    def of(cls, levels: int, channels: int, mixture: Mixture) -> MixtureOfLogistics:
        heads = (cls(levels, mixture.components, channels, at, mixture.log_scale_min) for at in PARAMETER_LAYOUTS)
        return next(head for head in heads if head.mixture == mixture)

    @property
    def mixture(self) -> Mixture:
        count, channels, kinds = self.mixtures, self.channels, 2 if self.channels == 1 else 3
        if self.parameter_layout == "mixture-major":
            step, channel_step, means, scales, coefficients = 1 + kinds * channels, 1, 1, 1 + channels, 1 + 2 * channels
        else:
            step, channel_step, means, scales, coefficients = 1, kinds * count, count, 2 * count, 3 * count
        coefficients = coefficients if channels == 3 else -1
        return Mixture(count, step, channel_step, 0, means, scales, coefficients, self.log_scale_min)

    def __repr__(self) -> str:
        layout = "" if self.layout is None else f", layout={self.layout!r}"
        return (
            f"MixtureOfLogistics({self.levels} levels, {self.mixtures} mixtures, {self.channels} channels, "
            f"{self.parameter_layout}, encode={self.encode!r}{layout})"
        )

    def table(self, shape: Sequence[int]) -> Tensor:
        if shape[0] != self.channels:
            raise InvalidInput(f"{self} describes pixels of {self.channels} channels, but the images have {shape[0]}")
        return super().table(shape)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(..., P) as logits (..., M), means (..., C, M), log-scales (..., C, M), coefficients (..., 3 or 0, M)."""
        count, channels = self.mixtures, self.channels
        if self.parameter_layout == "mixture-major":
            columns = parameters.unflatten(-1, (count, -1)).transpose(-1, -2)  # (..., 3 or 10, M)
            logits, means, log_scales, coefficients = columns.split([1, channels, channels, 3 if channels == 3 else 0], -2)
            logits = logits.squeeze(-2)
        else:
            logits, rest = parameters[..., :count], parameters[..., count:]
            colours = rest.unflatten(-1, (channels, -1, count))  # (..., C, 2 or 3, M)
            means, log_scales = colours[..., 0, :], colours[..., 1, :]
            coefficients = colours[..., 2, :] if channels == 3 else colours[..., :0, 0, :]
        return logits, means, log_scales.clamp_min(self.log_scale_min), coefficients.tanh()

    def conditional(self, parameters: Tensor, earlier: Tensor) -> Tensor:
        """The mixture of the next channel, (..., P) and int64 (..., c) -> log-weights, means, log-scales (..., 3M), float64."""
        logits, means, log_scales, coefficients = self.split(parameters.double())
        weights = logits.log_softmax(-1)
        axis = self._axis(earlier)
        mean = means[..., 0, :]
        for channel in range(earlier.shape[-1]):
            weights = weights + self.log_bin(mean, log_scales[..., channel, :], earlier[..., channel, None])
            # R -> G: a; R, G -> B: b, c, which follow each other in the order of the coefficients.
            mean = means[..., channel + 1, :]
            for before in range(channel + 1):
                mean = mean + coefficients[..., channel + before, :] * axis[..., before, None]
        return torch.cat([weights.log_softmax(-1), mean, log_scales[..., earlier.shape[-1], :]], -1)

    def components(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, log_scales = parameters.double().unflatten(-1, (3, self.mixtures)).unbind(-2)
        return weights, means, log_scales

    def below(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        upper = self._axis(values) + 1 / (self.levels - 1)
        # A scale of next to nothing has an infinite inverse, and 0 * infinity is NaN.
        sharpness = torch.exp(-log_scale).clamp_max(torch.finfo(torch.float64).max)
        return torch.sigmoid((upper - mean) * sharpness)

    def _axis(self, values: Tensor) -> Tensor:
        return 2 * values.double() / (self.levels - 1) - 1

    def log_bin(self, mean: Tensor, log_scale: Tensor, values: Tensor) -> Tensor:
        """log P(value | component), from logarithms only: far from the mean the two sigmoids differ by less than they can say.

        sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), and a - b is the bin's width over the scale.
        """
        half = 1 / (self.levels - 1)
        centred, sharpness = self._axis(values) - mean, torch.exp(-log_scale)
        below = F.logsigmoid((centred + half) * sharpness)
        above = F.logsigmoid((half - centred) * sharpness)
        width = 2 * half * sharpness
        # A width of next to nothing, exp(-log_scale) may even be 0: 1 - exp(-w) = w - w^2/2.
        small = width < 1e-6
        wide = torch.where(small, 1.0, width).neg().expm1().neg().log()
        gap = torch.where(small, math.log(2 * half) - log_scale - width / 2, wide)
        return torch.where(values == 0, below, torch.where(values == self.levels - 1, above, below + above + gap))
