"""The auto-encoder: the decoder is causal, the code tells something, training goes through both, codes are conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from causal import assert_causal, dependencies, randomise
from oracle import compare, trace
from torch import Tensor

import pixelfast
from learning import digits, emoji, falls
from pixelfast.errors import InvalidInput
from pixelfast.models import PixelCNNAutoencoder
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim, train

SIZE = (7, 5)


def small(channels: int = 1, spatial: bool = False, **more: int) -> PixelCNNAutoencoder:
    torch.manual_seed(0)
    sizes = {"levels": 4, "features": 12, "layers": 2, "code": 3} | more
    return PixelCNNAutoencoder((channels, *SIZE), spatial=spatial, **sizes)  # type: ignore[arg-type]


def codes(spatial: bool, n: int = 3) -> Tensor:
    return torch.randn(n, 3, *((2, 2) if spatial else ()), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spatial", [False, True])
def test_decoder_sees_the_past_only(spatial: bool, channels: int) -> None:
    model = randomise(small(channels, spatial))
    images = torch.randn(5, 1, channels, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    h = codes(spatial, 1).double()
    seen = torch.stack([dependencies(lambda x: model(x, h), image) for image in images]).any(0)
    assert_causal(seen, channels, per_pixel=channels == 1, width=SIZE[1])


@pytest.mark.parametrize("spatial", [False, True])
def test_gradient_reaches_the_encoder(spatial: bool) -> None:
    model = small(spatial=spatial)
    x = torch.randn(2, 1, *SIZE)
    assert model.encode(x).shape == ((2, 3, 2, 2) if spatial else (2, 3))
    assert torch.equal(model.reconstruct(x), model(x, model.encode(x)))
    model.reconstruct(x).square().sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_map_speaks_to_the_pixels_below_it() -> None:
    model = randomise(small(spatial=True))
    x, h = torch.randn(1, 1, *SIZE, dtype=torch.float64), torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    other = h.clone()
    other[0, :, 1, 1] = 1
    difference = (model(x, h) - model(x, other)).abs().amax((0, 1, 2))
    assert (difference[4:, 4:] > 0).all()
    assert not difference[:4].any()


@pytest.mark.parametrize("pixels", [digits, emoji])
@pytest.mark.parametrize("spatial", [False, True])
def test_learns(spatial: bool, pixels: object, tmp_path: Path) -> None:
    images, _, levels = pixels(9, 7)  # type: ignore[operator]
    torch.manual_seed(0)
    model = PixelCNNAutoencoder(tuple(images.shape[1:]), levels, features=12, layers=1, code=4, spatial=spatial)
    falls(model, images, None, tmp_path, lr=1e-2)


def test_code_tells_what_earlier_pixels_do_not() -> None:
    """Images of one value, which only the code knows at the first pixel."""
    images = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 4, 4).repeat(8, 1, 1, 1)
    model = small()
    train(model, images, options=TrainOptions(epochs=60, batch_size=8, lr=1e-2, warmup=5, ema=0.5))
    own = model.encode(model.head.encode_images(images[:4]))
    first = model(model.head.encode_images(torch.zeros(4, 1, 4, 4, dtype=torch.long)), own)[:, :, 0, 0, 0]
    assert first.argmax(1).tolist() == [0, 1, 2, 3]
    assert bits_per_dim(model, images) < 0.3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spatial", [False, True])
def test_sample_takes_the_code(spatial: bool, channels: int) -> None:
    """The decoder is a Gated PixelCNN, which all engines know; the code enters as any condition does."""
    model = small(channels, spatial)
    given = torch.randint(4, (3, channels, *SIZE), generator=torch.Generator().manual_seed(0))
    cond = model.encode(model.head.encode_images(given))
    naive = pixelfast.sample(model, 3, seed=0, cond=cond, engine="naive")
    assert pixelfast.compile(model, cond=cond, engine="naive").verify(naive, seed=0, cond=cond).ok
    assert compare(trace(model, model.shape, model.head, cond), 3, cond=cond) == 0


@pytest.mark.parametrize(
    ("spatial", "h", "message"),
    [
        (False, None, r"a code h of shape \(1, 3\) and got none: pass cond=model.encode"),
        (False, torch.zeros(1, 4), r"shape \(1, 3\), got torch.float32 of shape \(1, 4\)"),
        (True, torch.zeros(1, 3), r"shape \(1, 3, 2, 2\), got"),
        (False, torch.zeros(1, 3, dtype=torch.long), "got torch.int64"),
    ],
)
def test_wrong_codes(spatial: bool, h: Tensor | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        small(spatial=spatial)(torch.zeros(1, 1, *SIZE), h)


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidInput, match="code must be an integer of at least 1"):
        small(code=0)
