"""A draw from a discretized mixture of M components (`pixelfast.distributions.components`), whatever family they are of.

    F(k)   = sum over i of exp(weights[i]) * F(k | i),   weights as log-softmax
    value  = number of k < K - 1 with F(k) <= noise

Components lie along a tile and all is float64, as in the reference: a single number decides, and there are few of them. F has a
closed form, so a value is found digit by digit: `FAN` edges at once, then as many between two of those; halving, as on a
processor, would wait eight times for a sum instead of twice for K = 256. At another temperature than 1 there is no closed form:
the K probabilities are made twice, in blocks, for their sum and for the search.

A family is a file with four functions, which the four here choose by `HEAD`, the name of the head: kernels/logistic.py,
kernels/gaussian.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import gaussian, logistic

FAN = tl.constexpr(16)
"""Edges that are looked at together."""
TILE = tl.constexpr(512)
"""Values, times components, whose probabilities are made together: each takes half a dozen exponentials and logarithms, which
are written out for every one that a thread has."""


@triton.jit
def log_weight(source, m, pixel, channel, levels, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """Logarithms of the weights, not normalised."""
    if HEAD == "mixture_of_gaussians":
        return gaussian.log_weight(source, m, MIXTURE)
    else:
        return logistic.log_weight(source, m, pixel, channel, levels, MIXTURE)


@triton.jit
def component(source, m, pixel, channel, levels, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """Means, log-scales and their exponentials' inverses of a channel."""
    if HEAD == "mixture_of_gaussians":
        return gaussian.component(source, m, MIXTURE)
    else:
        return logistic.component(source, m, pixel, channel, levels, MIXTURE)


@triton.jit
def log_bin(value, mean, log_scale, sharpness, levels, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """log P(value | component)."""
    if HEAD == "mixture_of_gaussians":
        return gaussian.log_bin(value, mean, log_scale, sharpness, levels, MIXTURE)
    else:
        return logistic.log_bin(value, mean, log_scale, sharpness, levels)


@triton.jit
def below(share, value, mean, sharpness, levels, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """share * P(at most this value | component)."""
    if HEAD == "mixture_of_gaussians":
        return gaussian.below(share, value, mean, sharpness, MIXTURE)
    else:
        return logistic.below(share, value, mean, sharpness, levels)


@triton.jit
def log_mixture(value, weights, mean, log_scale, sharpness, levels, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """log P(value) of values (V,): (V,)."""
    bins = log_bin(value[:, None], mean[None, :], log_scale[None, :], sharpness[None, :], levels, HEAD, MIXTURE)
    parts = weights[None, :] + bins
    top = tl.max(parts, 1)
    # Nothing but -infinity must not become a difference of infinities.
    top = tl.where(top == float("-inf"), 0.0, top)
    return top + tl.log(tl.sum(tl.exp(parts - top[:, None]), 1))


@triton.jit
def found_by_digits(weights, mean, sharpness, levels, uniform, HEAD: tl.constexpr, MIXTURE: tl.constexpr):
    """The value whose edge of the distribution function is the first one beyond the noise."""
    share = tl.exp(weights)
    stride = 1
    while stride * FAN < levels:
        stride *= FAN
    drawn = 0
    while stride > 0:
        k = drawn + (tl.arange(0, FAN) + 1) * stride - 1
        edges = tl.sum(below(share[None, :], k[:, None], mean[None, :], sharpness[None, :], levels, HEAD, MIXTURE), 1)
        drawn += stride * tl.sum(((edges <= uniform) & (k < levels - 1)).to(tl.int32), 0)
        stride = stride // FAN
    return drawn


@triton.jit
def found_tempered(
    weights, mean, log_scale, sharpness, levels, uniform, rate,
    HEAD: tl.constexpr, MIXTURE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The same of probabilities to the power 1 / temperature, and the logarithm of the value's.

    The largest is subtracted before the power: a low temperature makes something of every digit, and of a product that a
    multiply-add rounds in one place only.
    """
    k = tl.arange(0, BLOCK_V)
    top, total = tl.full([], float("-inf"), tl.float64), tl.full([], 0.0, tl.float64)
    for start in range(0, levels, BLOCK_V):
        x = log_mixture(start + k, weights, mean, log_scale, sharpness, levels, HEAD, MIXTURE)
        x = tl.where(start + k < levels, x, float("-inf"))
        more = tl.maximum(top, tl.max(x, 0))
        shift = tl.where(more == float("-inf"), 0.0, more)
        total = total * tl.exp((top - shift) * rate) + tl.sum(tl.exp((x - shift) * rate), 0)
        top = more
    below, drawn, share, own = tl.full([], 0.0, tl.float64), 0, 1.0 / total, tl.full([], 0.0, tl.float64)
    for start in range(0, levels, BLOCK_V):
        x = (log_mixture(start + k, weights, mean, log_scale, sharpness, levels, HEAD, MIXTURE) - top) * rate
        p = tl.where(start + k < levels, tl.exp(x) * share, 0.0)
        edges = below + tl.cumsum(p, 0)
        drawn += tl.sum(((edges <= uniform) & (start + k < levels - 1)).to(tl.int32), 0)
        below += tl.sum(p, 0)
        # Of the last block that the value is not before: where it is beyond, another one follows.
        own = tl.where(drawn >= start, tl.sum(tl.where(start + k == drawn, x, 0.0), 0), own)
    return drawn, own - tl.log(total)


@triton.jit
def mixture_draw(
    source, pixel, channel, levels, uniform, heat, HEAD: tl.constexpr, MIXTURE: tl.constexpr, BLOCK_M: tl.constexpr
):
    """A value, the logarithm of its probability, and whether (1) there is no distribution to draw from.

    `source`: the pixel's P parameters; `pixel`: its values, of which those before `channel` are known; `MIXTURE`: see
    kernels/component.py.
    """
    m, rate = tl.arange(0, BLOCK_M), 1.0 / heat
    weights = log_weight(source, m, pixel, channel, levels, HEAD, MIXTURE)
    weights = tl.where(m < MIXTURE.components, weights, float("-inf"))
    mean, log_scale, sharpness = component(source, m, pixel, channel, levels, HEAD, MIXTURE)
    top = tl.max(weights, 0)
    whole = top + tl.log(tl.sum(tl.exp(weights - top), 0))
    weights -= whole
    if heat == 1.0:
        drawn = found_by_digits(weights, mean, sharpness, levels, uniform, HEAD, MIXTURE)
        own = log_mixture(drawn + tl.zeros([1], tl.int32), weights, mean, log_scale, sharpness, levels, HEAD, MIXTURE)
        logarithm = tl.sum(own, 0)
    else:
        drawn, logarithm = found_tempered(
            weights, mean, log_scale, sharpness, levels, uniform, rate, HEAD, MIXTURE, TILE // BLOCK_M
        )
    bad = ((tl.abs(whole) < float("inf")) & (logarithm == logarithm)).to(tl.int32) == 0
    return drawn, logarithm, bad.to(tl.int32)
