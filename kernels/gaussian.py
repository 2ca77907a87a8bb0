"""The Gaussian family of mixtures (`pixelfast.distributions.gaussian`), for kernels/mixture.py; all in float64.

    F(k | i) = Phi((k + offset + 1/2 - mu_i) / sigma_i)

No function of Triton's that its interpreter has, too, keeps the digits of a tail. So Q(t) exp(t^2 / 2) of the upper tail Q is a
polynomial in u = (x - 3.75) / (x + 3.75), x = t / sqrt(2), over 2 + 4 x: 3.3e-15 of it is the largest error of all t >= 0
(fitted at Chebyshev's points; Shepherd and Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc(x)", 1981).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .component import parameter

TAIL = tl.constexpr((
    1.2375126308378261, -0.14024059858550642, 0.003585415485845525, 0.08227673848713274, -0.10880393015651223,
    0.09230432122627513, -0.05869339836438344, 0.028362276756871464, -0.009746581336616362, 0.0017556295179770288,
    0.0002937219309771882, -0.00029016632740294646, 5.162492875680988e-05, 2.2410072962654595e-05, -1.1398247382583426e-05,
    -1.0084006897863515e-06, 1.6947644670768155e-06, -2.771950863613234e-08, -2.1373212507149506e-07, 8.519646625662709e-09,
    1.743690358927197e-08,
))  # fmt: skip
"""Coefficients of u^0, u^1, ..."""
TERMS = tl.constexpr(21)
NARROW, FLAT = tl.constexpr(0.05), tl.constexpr(0.1)
"""Bins of less than so many half scales, over which the density changes by less than exp(2 FLAT), have a series."""
HALF_LOG_2_PI = tl.constexpr(0.9189385332046727)


@triton.jit
def scaled_tail(t):
    """Q(t) exp(t^2 / 2), t >= 0."""
    x = t * 0.7071067811865476
    u = 1.0 - 7.5 / (x + 3.75)
    total = u * 0.0
    for n in tl.static_range(TERMS):
        total = total * u + TAIL[TERMS - 1 - n]
    return total / (2.0 + 4.0 * x)


@triton.jit
def log_weight(source, m, MIXTURE: tl.constexpr):
    if MIXTURE.weights < 0:
        return (m * 0).to(tl.float64)
    else:
        return parameter(source, m, 0, MIXTURE.weights, MIXTURE)


@triton.jit
def component(source, m, MIXTURE: tl.constexpr):
    """Means, log-scales and their exponentials' inverses."""
    log_scale = parameter(source, m, 0, MIXTURE.scales, MIXTURE)
    if not MIXTURE.log_scales:
        log_scale = tl.log(tl.maximum(log_scale, tl.full([1], 1e-300, tl.float64)))
    log_scale = tl.maximum(log_scale, tl.full([1], MIXTURE.log_scale_min, tl.float64))
    return parameter(source, m, 0, MIXTURE.means, MIXTURE), log_scale, tl.exp(-log_scale)


@triton.jit
def log_bin(value, mean, log_scale, sharpness, levels, MIXTURE: tl.constexpr):
    """log P(value | component); z: the distance to the mean and h: half of the bin's width, in scales."""
    apart, h = (value.to(tl.float64) + MIXTURE.offset - mean) * sharpness, 0.5 * sharpness
    z = tl.abs(apart)
    last = value == levels - 1
    end, t = (value == 0) | last, tl.where(last, -apart, apart) + h
    # Of an end Q(-t), of a bin Q(z - h) - Q(z + h), where exp(-near^2 / 2) is taken out of each.
    near = tl.where(end, tl.abs(t), tl.abs(z - h))
    one, other = scaled_tail(near), scaled_tail(z + h)
    density = tl.exp(-0.5 * near * near)
    beyond = tl.log(tl.where(end, one, one - tl.exp(-2.0 * z * h) * other)) - 0.5 * near * near
    lost = tl.where(end, density * one, density * one + tl.exp(-0.5 * (z + h) * (z + h)) * other)
    within = tl.log(tl.where(lost < 1.0, 1.0 - lost, 1.0))
    result = tl.where(tl.where(end, t > 0.0, z < h), within, beyond)
    a, b = z * z, h * h
    more = b * ((a - 1.0) / 6 + b * ((a * (a - 6.0) + 3.0) / 120 + b * (a * (a * (a - 15.0) + 45.0) - 15.0) / 5040))
    narrow = (h < NARROW) & (z * h < FLAT) & (end == 0)
    series = -log_scale - 0.5 * a - HALF_LOG_2_PI + tl.log(tl.where(narrow, 1.0 + more, 1.0))
    return tl.where(narrow, series, result)


@triton.jit
def below(share, value, mean, sharpness, MIXTURE: tl.constexpr):
    """The share of a component times P(at most this value | component)."""
    t = (value.to(tl.float64) + (MIXTURE.offset + 0.5) - mean) * sharpness
    tail = tl.exp(-0.5 * t * t) * scaled_tail(tl.abs(t))
    return share * tl.where(t < 0.0, tail, 1.0 - tail)
