"""The logistic family of mixtures (`pixelfast.distributions.mixture`), for kernels/mixture.py; all in float64.

    m_i        = mu_i + sum over the channels before of tanh(coefficient_i) * their values on the axis
    weights[i] = logit_i + sum over the channels before of log P(value | i)
    F(k | i)   = sigmoid((2k/(K-1) - 1 - m_i + 1/(K-1)) / s_i)
"""

from __future__ import annotations

import triton
import triton.language as tl

from .component import log_sigmoid, parameter


@triton.jit
def on_axis(value, levels):
    """0 .. K-1 as -1 .. 1."""
    return value.to(tl.float64) * (2.0 / (levels - 1).to(tl.float64)) - 1.0


@triton.jit
def component(source, m, pixel, channel, levels, MIXTURE: tl.constexpr):
    """Means, log-scales and their exponentials' inverses of a channel, given the values of those before it."""
    mean = parameter(source, m, channel, MIXTURE.means, MIXTURE)
    # R -> G: a; R, G -> B: b, c, which follow each other.
    for before in range(channel):
        raw = parameter(source, m, channel - 1 + before, MIXTURE.coefficients, MIXTURE)
        small = tl.exp(-2.0 * tl.abs(raw))
        size = (1.0 - small) / (1.0 + small)
        mean += tl.where(raw < 0.0, -size, size) * on_axis(tl.load(pixel + before), levels)
    log_scale = parameter(source, m, channel, MIXTURE.scales, MIXTURE)
    log_scale = tl.maximum(log_scale, tl.full([1], MIXTURE.log_scale_min, tl.float64))
    return mean, log_scale, tl.exp(-log_scale)


@triton.jit
def log_weight(source, m, pixel, channel, levels, MIXTURE: tl.constexpr):
    result = parameter(source, m, 0, MIXTURE.weights, MIXTURE)
    for before in range(channel):
        mean, log_scale, sharpness = component(source, m, pixel, before, levels, MIXTURE)
        result += log_bin(tl.load(pixel + before), mean, log_scale, sharpness, levels)
    return result


@triton.jit
def log_bin(value, mean, log_scale, sharpness, levels):
    """log P(value | component): log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))."""
    step = 2.0 / (levels - 1).to(tl.float64)
    half = sharpness * (0.5 * step)
    z = (on_axis(value, levels) - mean) * sharpness
    below, above = log_sigmoid(z + half), log_sigmoid(half - z)
    width = 2.0 * half
    # Of a narrow bin by the series of log((1 - exp(-w)) / w), whose next term is below 1e-11; exp(-log_scale) may even be 0.
    narrow = width < 0.01
    series = tl.log(step) - log_scale + width * (width * (1 / 24) - 0.5)
    gap = tl.where(narrow, series, tl.log(1.0 - tl.exp(-tl.where(narrow, 1.0, width))))
    return tl.where(value == 0, below, tl.where(value == levels - 1, above, below + above + gap))


@triton.jit
def below(share, value, mean, sharpness, levels):
    """The share of a component times P(at most this value | component)."""
    half = sharpness * (1.0 / (levels - 1).to(tl.float64))
    z = (on_axis(value, levels) - mean) * sharpness + half
    return share / (1.0 + tl.exp(-z))
