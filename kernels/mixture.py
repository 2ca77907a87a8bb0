"""A draw from a discretized mixture of M logistics, given the pixel's channels before (`pixelfast.distributions.mixture`).

    weights[i] = logit_i + sum over the channels before of log P(value | i),  as log-softmax
    m_i        = mu_i + sum over the channels before of tanh(coefficient_i) * their values on the axis
    F(k)       = sum over i of exp(weights[i]) * sigmoid((2k/(K-1) - 1 - m_i + 1/(K-1)) / s_i)
    value      = number of k < K - 1 with F(k) <= noise

Components lie along a tile and all is float64, as in the reference: a single number decides, and there are few of them. F has a
closed form, so a value is found digit by digit: `FAN` edges at once, then as many between two of those; halving, as on a
processor, would wait eight times for a sum instead of twice for K = 256. At another temperature than 1 there is no closed form:
the K probabilities are made twice, in blocks, for their sum and for the search.
"""

from __future__ import annotations

import triton
import triton.language as tl

FAN = tl.constexpr(16)
"""Edges that are looked at together."""
TILE = tl.constexpr(512)
"""Values, times components, whose probabilities are made together: each takes half a dozen exponentials and logarithms, which
are written out for every one that a thread has."""


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def on_axis(value, step):
    """0 .. K-1 as -1 .. 1, in float64."""
    return value.to(tl.float64) * step - 1.0


@triton.jit
def parameter(source, m, colour, KIND: tl.constexpr, COLOURS: tl.constexpr, COMPONENTS: tl.constexpr, MAJOR: tl.constexpr):
    """Means (kind 0), log-scales (1) or coefficients (2) of a colour, one for each component: float64, in the shape of m."""
    KINDS: tl.constexpr = 2 if COLOURS == 1 else 3
    if MAJOR:
        place = m * (1 + KINDS * COLOURS) + 1 + KIND * COLOURS + colour
    else:
        place = (1 + colour * KINDS + KIND) * COMPONENTS + m
    return tl.load(source + place, mask=m < COMPONENTS, other=0.0).to(tl.float64)


@triton.jit
def component(
    source, m, pixel, colour, step, COLOURS: tl.constexpr, COMPONENTS: tl.constexpr, MAJOR: tl.constexpr, LEAST: tl.constexpr
):
    """Means, log-scales and their exponentials' inverses of a colour, given the values of those before it."""
    mean = parameter(source, m, colour, 0, COLOURS, COMPONENTS, MAJOR)
    # R -> G: a; R, G -> B: b, c, which follow each other.
    for before in range(colour):
        raw = parameter(source, m, colour - 1 + before, 2, COLOURS, COMPONENTS, MAJOR)
        small = tl.exp(-2.0 * tl.abs(raw))
        size = (1.0 - small) / (1.0 + small)
        mean += tl.where(raw < 0.0, -size, size) * on_axis(tl.load(pixel + before), step)
    log_scale = parameter(source, m, colour, 1, COLOURS, COMPONENTS, MAJOR)
    log_scale = tl.maximum(log_scale, tl.full([1], LEAST, tl.float64))
    return mean, log_scale, tl.exp(-log_scale)


@triton.jit
def log_bin(value, mean, log_scale, sharpness, levels, step):
    """log P(value | component): log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))."""
    half = sharpness * (0.5 * step)
    z = (on_axis(value, step) - mean) * sharpness
    below, above = log_sigmoid(z + half), log_sigmoid(half - z)
    width = 2.0 * half
    # Of a narrow bin by the series of log((1 - exp(-w)) / w), whose next term is below 1e-11; exp(-log_scale) may even be 0.
    narrow = width < 0.01
    series = tl.log(step) - log_scale + width * (width * (1 / 24) - 0.5)
    gap = tl.where(narrow, series, tl.log(1.0 - tl.exp(-tl.where(narrow, 1.0, width))))
    return tl.where(value == 0, below, tl.where(value == levels - 1, above, below + above + gap))


@triton.jit
def log_mixture(value, weights, mean, log_scale, sharpness, levels, step):
    """log P(value) of values (V,): (V,)."""
    bins = log_bin(value[:, None], mean[None, :], log_scale[None, :], sharpness[None, :], levels, step)
    parts = weights[None, :] + bins
    top = tl.max(parts, 1)
    # Nothing but -infinity must not become a difference of infinities.
    top = tl.where(top == float("-inf"), 0.0, top)
    return top + tl.log(tl.sum(tl.exp(parts - top[:, None]), 1))


@triton.jit
def found_by_digits(weights, mean, sharpness, levels, step, uniform):
    """The value whose edge of the distribution function is the first one beyond the noise."""
    share, half = tl.exp(weights), sharpness * (0.5 * step)
    stride = 1
    while stride * FAN < levels:
        stride *= FAN
    drawn = 0
    while stride > 0:
        k = drawn + (tl.arange(0, FAN) + 1) * stride - 1
        z = (on_axis(k, step)[:, None] - mean[None, :]) * sharpness[None, :] + half[None, :]
        edges = tl.sum(share[None, :] / (1.0 + tl.exp(-z)), 1)
        drawn += stride * tl.sum(((edges <= uniform) & (k < levels - 1)).to(tl.int32), 0)
        stride = stride // FAN
    return drawn


@triton.jit
def found_tempered(weights, mean, log_scale, sharpness, levels, step, uniform, rate, BLOCK_V: tl.constexpr):
    """The same of probabilities to the power 1 / temperature, and the logarithm of the value's.

    The largest is subtracted before the power: a low temperature makes something of every digit, and of a product that a
    multiply-add rounds in one place only.
    """
    k = tl.arange(0, BLOCK_V)
    top, total = tl.full([], float("-inf"), tl.float64), tl.full([], 0.0, tl.float64)
    for start in range(0, levels, BLOCK_V):
        x = log_mixture(start + k, weights, mean, log_scale, sharpness, levels, step)
        x = tl.where(start + k < levels, x, float("-inf"))
        more = tl.maximum(top, tl.max(x, 0))
        shift = tl.where(more == float("-inf"), 0.0, more)
        total = total * tl.exp((top - shift) * rate) + tl.sum(tl.exp((x - shift) * rate), 0)
        top = more
    below, drawn, share, own = tl.full([], 0.0, tl.float64), 0, 1.0 / total, tl.full([], 0.0, tl.float64)
    for start in range(0, levels, BLOCK_V):
        x = (log_mixture(start + k, weights, mean, log_scale, sharpness, levels, step) - top) * rate
        p = tl.where(start + k < levels, tl.exp(x) * share, 0.0)
        edges = below + tl.cumsum(p, 0)
        drawn += tl.sum(((edges <= uniform) & (start + k < levels - 1)).to(tl.int32), 0)
        below += tl.sum(p, 0)
        # Of the last block that the value is not before: where it is beyond, another one follows.
        own = tl.where(drawn >= start, tl.sum(tl.where(start + k == drawn, x, 0.0), 0), own)
    return drawn, own - tl.log(total)


@triton.jit
def mixture_draw(
    source, pixel, channel, levels, uniform, heat,
    COLOURS: tl.constexpr, COMPONENTS: tl.constexpr, MAJOR: tl.constexpr, LEAST: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """A value, the logarithm of its probability, and whether (1) there is no distribution to draw from.

    `source`: the pixel's P parameters; `pixel`: its values, of which those before `channel` are known.
    """
    m, step, rate = tl.arange(0, BLOCK_M), 2.0 / (levels - 1).to(tl.float64), 1.0 / heat
    place = m * (3 if COLOURS == 1 else 10) if MAJOR else m
    weights = tl.load(source + place, mask=m < COMPONENTS, other=float("-inf")).to(tl.float64)
    for before in range(channel):
        mean, log_scale, sharpness = component(source, m, pixel, before, step, COLOURS, COMPONENTS, MAJOR, LEAST)
        weights += log_bin(tl.load(pixel + before), mean, log_scale, sharpness, levels, step)
    mean, log_scale, sharpness = component(source, m, pixel, channel, step, COLOURS, COMPONENTS, MAJOR, LEAST)
    top = tl.max(weights, 0)
    whole = top + tl.log(tl.sum(tl.exp(weights - top), 0))
    weights -= whole
    if heat == 1.0:
        drawn = found_by_digits(weights, mean, sharpness, levels, step, uniform)
        own = log_mixture(drawn + tl.zeros([1], tl.int32), weights, mean, log_scale, sharpness, levels, step)
        logarithm = tl.sum(own, 0)
    else:
        drawn, logarithm = found_tempered(weights, mean, log_scale, sharpness, levels, step, uniform, rate, TILE // BLOCK_M)
    bad = ((tl.abs(whole) < float("inf")) & (logarithm == logarithm)).to(tl.int32) == 0
    return drawn, logarithm, bad.to(tl.int32)
