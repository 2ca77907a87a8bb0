"""What kernels of all families of mixtures use: where a component's numbers stand, and the logarithm of a sigmoid."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def parameter(source, m, channel, FIRST: tl.constexpr, MIXTURE: tl.constexpr):
    """One number for each component, in the shape of m and in float64.

    `MIXTURE` is a `pixelfast.distributions.components.Mixture`, and FIRST one of its places.
    """
    place = FIRST + channel * MIXTURE.channel_step + m * MIXTURE.component_step
    return tl.load(source + place, mask=m < MIXTURE.components, other=0.0).to(tl.float64)
