"""Noise: keyed by seed, image and sub-pixel; uniform; the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelfast import InvalidInput
from pixelfast.distributions.noise import uniforms
from pixelfast.inputs.arguments import resolve_seed

SHAPE = (3, 5, 7)


def test_the_numbers_never_change() -> None:
    """Images of a seed are for ever: these numbers were written down once."""
    found = uniforms(0, 0, 2, (1, 2, 2)).reshape(2, 4)
    np.testing.assert_array_equal(found, np.array(KNOWN, dtype=np.float32))


KNOWN = [
    [0.034741878509521484, 0.011546730995178223, 0.6119502186775208, 0.24154919385910034],
    [0.5321277976036072, 0.5023795962333679, 0.906371533870697, 0.2776055335998535],
]


def test_an_image_has_its_numbers_in_any_batch() -> None:
    whole = uniforms(7, 0, 9, SHAPE)
    assert whole.shape == (9, 5, 7, 3)
    for first, count in ((0, 1), (4, 3), (8, 1)):
        np.testing.assert_array_equal(uniforms(7, first, count, SHAPE), whole[first : first + count])


def test_images_and_seeds_differ() -> None:
    whole = uniforms(7, 0, 3, SHAPE)
    assert not np.isin(whole[1], whole[0]).any()
    assert (uniforms(8, 0, 3, SHAPE) != whole).mean() > 0.99


def test_far_images_and_large_seeds() -> None:
    far = uniforms(2**64 - 1, 10**12, 2, SHAPE)
    np.testing.assert_array_equal(far[1], uniforms(2**64 - 1, 10**12 + 1, 1, SHAPE)[0])


def test_numbers_are_uniform() -> None:
    found = uniforms(1, 0, 200, (1, 32, 32)).astype(np.float64).ravel()
    assert found.min() >= 0
    assert found.max() < 1
    # Standard errors of the mean and of the second moment of 204,800 uniform numbers are 6.4e-4 and 6.6e-4.
    assert abs(found.mean() - 1 / 2) < 4 * 6.4e-4
    assert abs((found**2).mean() - 1 / 3) < 4 * 6.6e-4
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01


def test_a_generator_gives_the_seed() -> None:
    seeds = [resolve_seed(None, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert seeds[0] == seeds[1]
    generator = torch.Generator().manual_seed(5)
    assert resolve_seed(None, generator) != resolve_seed(None, generator)
    torch.manual_seed(3)
    first = resolve_seed(None, None)
    torch.manual_seed(3)
    assert resolve_seed(None, None) == first


@pytest.mark.parametrize(
    ("seed", "message"), [(-1, "0 .. 2"), (2**64, "0 .. 2"), (1.5, "must be an integer"), (True, "must be an integer")]
)
def test_wrong_seeds_are_refused(seed: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        resolve_seed(seed, None)  # type: ignore[arg-type]


def test_seed_and_generator_exclude_each_other() -> None:
    with pytest.raises(InvalidInput, match="both seed= and generator="):
        resolve_seed(1, torch.Generator())
