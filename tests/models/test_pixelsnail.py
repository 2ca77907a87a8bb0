"""PixelSNAIL: sees everything before a pixel and nothing else; as a model of images and as a prior over codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from causal import assert_causal, dependencies, randomise
from oracle import compare, first, trace
from torch import Tensor

import pixelfast
from learning import assert_initialised, digits, emoji, falls
from pixelfast.errors import InvalidInput
from pixelfast.models import PixelSNAIL
from pixelfast.models.pixelsnail import CausalAttention

SIZE = (7, 5)


def small(channels: int = 1, size: tuple[int, int] = SIZE, **more: object) -> PixelSNAIL:
    torch.manual_seed(0)
    sizes: dict[str, object] = {"levels": 16, "features": 6, "blocks": 2, "residuals": 1, "key": 3, "heads": 1}
    return PixelSNAIL((channels, *size), **(sizes | more))  # type: ignore[arg-type]


def everything_before(seen: Tensor, channels: int) -> bool:
    """Attention reaches each earlier pixel, however far."""
    inputs, outputs = torch.arange(seen.shape[1]) // channels, torch.arange(seen.shape[0])
    pixel = outputs * (seen.shape[1] // seen.shape[0]) // channels
    return bool((seen == (inputs < pixel.unsqueeze(1))).all())


@pytest.mark.parametrize(("channels", "mixtures"), [(1, 0), (3, 0), (1, 2), (3, 2)])
def test_sees_all_of_the_past_and_nothing_else(channels: int, mixtures: int) -> None:
    model = randomise(small(channels, mixtures=mixtures, heads=2, classes=3))
    image = torch.randn(1, channels, *SIZE, dtype=torch.float64)
    seen = dependencies(lambda x: model(x, torch.tensor([1])), image)
    assert_causal(seen, channels, per_pixel=True, width=SIZE[1])
    assert everything_before(seen, channels)


def test_looked_up_codes_are_seen_in_the_same_order() -> None:
    """The gradient stops at integers: the vectors that they were looked up as take the image's place."""
    model = randomise(small(levels=8192, embed=3, upper=5))
    s = torch.tensor([[[[0, 4, 1, 2, 3]]]])
    result: list[Tensor] = []

    def predict(vectors: Tensor) -> Tensor:
        handle = model.embedding.register_forward_hook(lambda *_: vectors.permute(0, 2, 3, 1).unsqueeze(1))
        result.append(model(torch.zeros(1, 1, *SIZE, dtype=torch.long), None, s))
        handle.remove()
        return result[-1][:, :, 0]

    seen = dependencies(predict, torch.randn(1, 3, *SIZE, dtype=torch.float64))
    assert result[0].shape == (1, 8192, 1, *SIZE)
    assert_causal(seen, 3, per_pixel=True, width=SIZE[1])
    assert everything_before(seen, 3)


def test_attention_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, size, 3, 2, generator=generator) for size in (4, 4, 6))
    found = CausalAttention(2)(query, key, value)
    assert not found[:, :, 0, 0].any()
    for image, head, place in ((0, 0, 1), (1, 1, 3), (0, 1, 5)):
        q, k, v = (part[image].flatten(1).unflatten(0, (2, -1))[head] for part in (query, key, value))
        weights = (q[:, place] @ k[:, :place] / 2**0.5).softmax(0)
        expected = v[:, :place] @ weights
        torch.testing.assert_close(found[image].flatten(1).unflatten(0, (2, -1))[head, :, place], expected)


def test_outputs_have_mean_0_and_variance_1_on_the_first_batch() -> None:
    model = small(3, mixtures=2, classes=4, dropout=0.5)
    x, h = torch.randn(17, 3, *SIZE), torch.arange(17) % 4
    model.initialise(x, h)
    assert_initialised(model, x, h)


def test_upper_map_reaches_the_pixels_below_it() -> None:
    model = randomise(small(size=(6, 9), upper=4))
    x = torch.randn(2, 1, 6, 9, dtype=torch.float64)
    s = torch.zeros(2, 1, 2, 3, dtype=torch.long)
    other = s.clone()
    other[1, 0, 0, 0] = 3
    difference = (model(x, None, s) - model(x, None, other)).abs().amax((1, 2))
    assert not difference[0].any()
    assert (difference[1, :3, :3] > 0).all()


@pytest.mark.parametrize(("pixels", "mixtures"), [(digits, 0), (emoji, 3)])
def test_learns_images(pixels: object, mixtures: int, tmp_path: Path) -> None:
    images, labels, levels = pixels(8, 7)  # type: ignore[operator]
    model = small(images.shape[1], (8, 7), levels=levels, features=8, mixtures=mixtures, dropout=0.1, classes=10)
    falls(model, images, labels, tmp_path)


def test_learns_codes_given_an_upper_map(tmp_path: Path) -> None:
    images, _, levels = digits(8, 8)
    upper = images[:, :, ::2, ::4]
    model = small(1, (8, 8), levels=levels, features=8, embed=4, dropout=0.1, upper=levels)
    assert model.head.encode == "integer"
    falls(model, images, None, tmp_path, upper)


@pytest.mark.parametrize("more", [{}, {"levels": 8192, "embed": 3}, {"mixtures": 2}])
def test_sampled_by_the_usual_loop(more: dict[str, int]) -> None:
    model = small(size=(3, 5), **more)
    sampler = pixelfast.compile(model, engine="naive")
    images = sampler.sample(3, seed=0)
    assert images.dtype == (torch.int32 if "levels" in more else torch.uint8)
    assert sampler.verify(images, seed=0).ok


def test_prior_over_codes_is_sampled_given_the_upper_map() -> None:
    model = small(size=(4, 6), upper=5)
    sampler = pixelfast.compile(model, engine="naive")
    cond = {"s": torch.randint(5, (3, 1, 2, 3), generator=torch.Generator().manual_seed(0))}
    images = sampler.sample(3, seed=0, cond=cond)
    assert sampler.verify(images, seed=0, cond=cond).ok


@pytest.mark.parametrize(
    "more",
    [
        {"heads": 2, "classes": 3}, {"channels": 3, "levels": 4}, {"levels": 64, "embed": 3, "upper": 5},
        {"residuals": 0, "key": 5},
    ],
    ids=["labels", "colours", "codes", "only attention"],
)  # fmt: skip
def test_engines_draw_what_the_naive_loop_draws(more: dict[str, int]) -> None:
    """As a model of images, and as a prior over codes given an upper map; with known pixels, and one image alone."""
    model = randomise(small(**more)).float()  # type: ignore[arg-type]
    cond = None
    if "classes" in more:
        cond = torch.arange(3)
    elif "upper" in more:
        cond = {"s": torch.randint(5, (3, 1, 7, 1), generator=torch.Generator().manual_seed(0))}
    traced = trace(model, model.shape, model.head, cond)
    assert compare(traced, 3, cond=cond) == 0
    assert compare(traced, 1, 4, first(cond, 1), temperature=0.8) == 0
    given = traced.run("naive", traced.request(3, 5, cond), cond).values
    given[:, 3:][torch.rand(given[:, 3:].shape, generator=torch.Generator().manual_seed(0)).numpy() < 0.7] = -1
    assert compare(traced, 3, 6, cond, given=given) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 0}, "blocks must be an integer of at least 1"),
        ({"heads": 0}, "heads must be"),
        ({"dropout": -0.1}, "dropout must be a number"),
        ({"embed": -1}, "embed must be an integer of at least 0"),
        ({"shape": (2, 8, 8), "mixtures": 2}, "1 or 3 channels"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PixelSNAIL(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("s", "message"),
    [
        (None, "needs the upper code map s, others take none: this one got none"),
        (torch.zeros(1, 1, 2, 3, dtype=torch.long), "divide the image's 7 and 5, got torch.int64 of shape"),
        (torch.zeros(1, 1, 7, 5), "got torch.float32"),
        (torch.full((1, 1, 7, 1), 4), "got codes from 4 to 4"),
    ],
)
def test_wrong_upper_maps(s: Tensor | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        small(upper=4)(torch.zeros(1, 1, *SIZE), None, s)


def test_wrong_inputs() -> None:
    with pytest.raises(InvalidInput, match="is not conditional on one"):
        small()(torch.zeros(1, 1, *SIZE), None, torch.zeros(1, 1, 1, 1, dtype=torch.long))
    with pytest.raises(InvalidInput, match="takes integers"):
        small(embed=2)(torch.zeros(1, 1, *SIZE))
    with pytest.raises(InvalidInput, match="conditional on a class and got none"):
        small(classes=2)(torch.zeros(1, 1, *SIZE))
