"""The only source of randomness: one uniform number for each sub-pixel, keyed by (seed, image index, sub-pixel).

Image ``i`` of seed ``s`` gets the same numbers in any batch, on any machine and with any engine: Philox (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) is counter-based, and image ``i`` starts at counter ``i * blocks``.
"""

from __future__ import annotations

import numpy as np

# A Philox counter tick of NumPy gives four 64-bit words, and a float32 takes half a word.
FLOATS_PER_TICK = 8


def uniforms(seed: int, first: int, count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Uniform numbers in [0, 1) for images ``first`` to ``first + count - 1``: float32, (count, H, W, C).

    ``shape`` is the image's (C, H, W). The last three axes are in the order of drawing: rows, columns, channels.
    """
    channels, height, width = shape
    subpixels = height * width * channels
    ticks = -(-subpixels // FLOATS_PER_TICK)
    stream = np.random.Philox(key=seed).advance(first * ticks)
    numbers = np.random.Generator(stream).random((count, ticks * FLOATS_PER_TICK), dtype=np.float32)
    return np.ascontiguousarray(numbers[:, :subpixels]).reshape(count, height, width, channels)
