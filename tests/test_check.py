"""The report of `check`: receptive field, blind spot, cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import pixelfast
from pixelfast import Categorical
from pixelfast.models import GatedPixelCNN, PixelCNN


def seen_by_gradient(model: nn.Module, shape: tuple[int, int, int], row: int, col: int) -> np.ndarray:
    """Pixels with a nonzero gradient of any of the pixel's logits, over several random images: bool (H, W)."""
    result = np.zeros(shape[1:], dtype=bool)
    for seed in range(3):
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        logits = model(x)[..., row, col]
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
        result |= (gradient[0] != 0).any(0).numpy()
    return result


@pytest.mark.parametrize(
    "made",
    [
        lambda: PixelCNN((1, 13, 12), levels=4, features=8, blocks=1),
        lambda: PixelCNN((3, 11, 10), levels=4, features=18, blocks=2, norm=True),
        lambda: GatedPixelCNN((1, 11, 12), levels=4, features=8, layers=2),
        lambda: GatedPixelCNN((3, 9, 9), levels=2, features=9, layers=1),
    ],
    ids=["pixelcnn", "pixelcnn rgb", "gated", "gated rgb"],
)
def test_receptive_field_is_the_support_of_the_gradient(made: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)  # of some weights, all features behind a pixel are dead
    model = made()
    report = pixelfast.check(model)
    assert report.autoregressive
    assert report.field is not None
    expected = seen_by_gradient(model, report.shape, report.field.row, report.field.col)
    # The centre pixel itself counts where a later colour sees an earlier one.
    np.testing.assert_array_equal(report.field.pixels, expected)


def test_a_single_stack_has_a_blind_spot_and_two_stacks_have_none() -> None:
    single = pixelfast.check(PixelCNN((1, 15, 15), levels=4, features=8, blocks=1))
    # Above a pixel and to its right lies what no path of masked 7x7 kernels reaches within two layers.
    assert single.blind_spot[6, 11:14].all()
    assert "o" in str(single)
    double = pixelfast.check(GatedPixelCNN((1, 15, 15), levels=4, features=8, layers=2))
    assert not double.blind_spot.any()
    assert "blind spot: none" in str(double)


def test_picture_shows_pixel_field_and_blind_spot() -> None:
    report = pixelfast.check(PixelCNN((1, 13, 13), levels=4, features=8, blocks=1))
    picture = report.picture(scale=1)
    assert picture.shape == (13, 13, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[6, 6]) == (200, 40, 40)
    assert (picture[report.blind_spot] == (240, 150, 40)).all()
    assert report.picture(scale=5).shape == (65, 65, 3)


def test_cost_counts_live_taps_only() -> None:
    """One 3x3 convolution of mask A (4 of 9 taps) and a 1x1, on an image large enough to see no border."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        model[0].weight[:, :, 1, 1:] = 0
        model[0].weight[:, :, 2] = 0
    report = pixelfast.check(model, (1, 6, 5), Categorical(4))
    assert report.macs == 30 * (4 * 8 + 8 * 4)
    assert report.dense_macs == 30 * (9 * 8 + 8 * 4)
    assert report.steps == 30


def test_colours_that_do_not_see_each_other_share_a_step() -> None:
    assert pixelfast.check(PixelCNN((3, 5, 4), levels=4, features=9, blocks=1)).steps == 60
    assert pixelfast.check(PixelCNN((3, 5, 4), levels=4, features=9, blocks=1, colour=False)).steps == 20


def test_a_leak_is_reported_not_raised() -> None:
    leaky = nn.Conv2d(1, 4, 3, padding=1)
    report = pixelfast.check(leaky, (1, 6, 5), Categorical(4))
    assert not report.autoregressive
    assert report.leak is not None
    assert report.macs == 0
    assert "autoregressive: NO" in str(report)
    assert report.field is not None
    assert report.field.pixels.sum() == 9
