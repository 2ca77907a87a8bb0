"""The interface: options of `sample`, completion, log-probabilities, verification, caching."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from oracle import ENGINES
from torch import nn

import pixelfast
from pixelfast import Categorical, InvalidInput, Sampler, VerificationError
from pixelfast.models import GatedPixelCNN, PixelCNN

SHAPE = (1, 7, 5)


@pytest.fixture(scope="module")
def model() -> PixelCNN:
    torch.manual_seed(0)
    net = PixelCNN(SHAPE, levels=6, features=12, blocks=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


@pytest.fixture(scope="module", params=ENGINES)
def sampler(request: pytest.FixtureRequest, model: PixelCNN) -> Sampler:
    return pixelfast.compile(model, engine=request.param)


@pytest.fixture(scope="module")
def naive(model: PixelCNN) -> Sampler:
    return pixelfast.compile(model, engine="naive")


def test_images_are_uint8(sampler: Sampler) -> None:
    images = sampler.sample(4, seed=0)
    assert images.shape == (4, *SHAPE)
    assert images.dtype == torch.uint8
    assert images.max() <= 5
    assert len(images.unique()) > 3


def test_image_i_of_a_seed_is_the_same_in_any_batch(sampler: Sampler) -> None:
    whole = sampler.sample(9, seed=3)
    assert torch.equal(sampler.sample(9, seed=3, batch_size=2), whole)
    assert torch.equal(sampler.sample(3, seed=3, first=5), whole[5:8])
    assert torch.equal(sampler.sample(1, seed=3, first=8), whole[8:])
    assert not torch.equal(sampler.sample(9, seed=4), whole)


def test_without_a_seed_the_generator_decides(sampler: Sampler) -> None:
    once = sampler.sample(4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sampler.sample(4, generator=torch.Generator().manual_seed(1)), once)
    torch.manual_seed(11)
    first, second = sampler.sample(4), sampler.sample(4)
    assert not torch.equal(first, second)
    torch.manual_seed(11)
    assert torch.equal(sampler.sample(4), first)


def test_threads_do_not_change_the_images(sampler: Sampler) -> None:
    assert torch.equal(sampler.sample(5, seed=1, threads=1), sampler.sample(5, seed=1, threads=2))


def test_log_prob_comes_with_the_samples(sampler: Sampler, naive: Sampler) -> None:
    images, log_prob = sampler.sample(5, seed=2, return_log_prob=True)
    assert log_prob.dtype == torch.float64
    assert torch.allclose(log_prob, sampler.log_prob(images), rtol=1e-5)
    assert torch.equal(images, naive.sample(5, seed=2))
    cool, cool_log_prob = sampler.sample(5, seed=2, temperature=0.5, return_log_prob=True)
    assert torch.allclose(cool_log_prob, naive.sample(5, seed=2, temperature=0.5, return_log_prob=True)[1], rtol=1e-5)
    assert not torch.equal(cool, images)


def test_a_low_temperature_takes_the_likeliest_value(sampler: Sampler, model: PixelCNN) -> None:
    images = sampler.sample(2, seed=0, temperature=1e-6)
    assert torch.equal(images[0], images[1])
    logits = model(model.head.encode_images(images))
    assert torch.equal(logits.argmax(1).to(torch.uint8), images)


def test_completion_keeps_what_is_given(sampler: Sampler, naive: Sampler) -> None:
    given = torch.full((4, *SHAPE), -1)
    given[:, :, :3] = torch.randint(6, (4, 1, 3, 5), generator=torch.Generator().manual_seed(0))
    given[1, :, 5, 2] = 4
    given[2, :, 3, :2] = 1
    images, log_prob = sampler.sample(4, seed=6, given=given, return_log_prob=True)
    assert torch.equal(images[given >= 0].long(), given[given >= 0])
    expected, expected_log_prob = naive.sample(4, seed=6, given=given, return_log_prob=True)
    assert torch.equal(images, expected)
    assert torch.allclose(log_prob, expected_log_prob, rtol=1e-5)
    assert sampler.verify(images, seed=6, given=given).ok


def test_one_given_image_serves_all(sampler: Sampler) -> None:
    given = torch.full(SHAPE, -1)
    given[:, 0] = 3
    images = sampler.sample(3, seed=0, given=given)
    assert (images[:, :, 0] == 3).all()
    assert not torch.equal(images[0], images[1])
    everything = sampler.sample(1, seed=0)
    assert torch.equal(sampler.sample(1, seed=9, given=everything.int()), everything)


def test_on_row_sees_the_rows_so_far(sampler: Sampler) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    images = sampler.sample(5, seed=0, batch_size=3, on_row=lambda row, part: seen.append((row, part.clone())))
    assert [row for row, _ in seen] == [*range(7), *range(7)]
    for row, part in seen[:7]:
        assert torch.equal(part[:, :, : row + 1], images[:3, :, : row + 1])
    assert seen[-1][1].shape == (2, *SHAPE)


def test_progress_needs_no_callback(sampler: Sampler, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    sampler.sample(2, seed=0, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_verify_accepts_what_was_drawn(sampler: Sampler) -> None:
    report = sampler.verify(sampler.sample(5, seed=8), seed=8)
    assert (report.images, report.draws, report.wrong, report.changed) == (5, 5 * 35, 0, 0)
    assert report.parameter_error < 1e-5
    assert str(report).startswith("exact: 5 images, 175 draws")
    assert sampler.verify(sampler.sample(2, seed=8, first=3, temperature=0.7), seed=8, first=3, temperature=0.7).ok


def test_verify_finds_what_is_wrong(sampler: Sampler) -> None:
    images = sampler.sample(3, seed=8)
    with pytest.raises(VerificationError, match="NOT exact"):
        sampler.verify(images, seed=9)
    images[1, 0, 6, 4] = (images[1, 0, 6, 4] + 1) % 6
    with pytest.raises(VerificationError, match="1 wrong, 1 unlike this seed's"):
        sampler.verify(images, seed=8)


def test_verify_finds_a_given_value_that_was_not_kept(sampler: Sampler) -> None:
    """It was not drawn, so no draw is wrong, but the image is another one; the last value has no successors to spoil."""
    given = torch.full((2, *SHAPE), -1)
    given[:, 0, 6, 4] = 2
    images = sampler.sample(2, seed=8, given=given)
    assert sampler.verify(images, seed=8, given=given).draws == 2 * 34
    images[1, 0, 6, 4] = 3
    with pytest.raises(VerificationError, match="0 wrong, 1 unlike this seed's"):
        sampler.verify(images, seed=8, given=given)


def test_a_sampler_keeps_its_weights(sampler: Sampler, model: PixelCNN) -> None:
    before = sampler.sample(2, seed=0)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.logits.bias.add_(torch.arange(6.0))  # type: ignore[union-attr, operator]
    try:
        assert torch.equal(sampler.sample(2, seed=0), before)
    finally:
        model.load_state_dict(saved)


def test_sample_notices_new_weights_even_written_through_data() -> None:
    model = PixelCNN(SHAPE, levels=4, features=8, blocks=1)
    before = pixelfast.sample(model, 2, seed=0)
    assert torch.equal(pixelfast.sample(model, 2, seed=0), before)
    model.logits.bias.data[3] += 50  # leaves no trace in the tensor's version counter
    assert (pixelfast.sample(model, 2, seed=0) == 3).all()


def test_many_levels_give_int32() -> None:
    model = PixelCNN((1, 3, 2), levels=300, features=8, blocks=1)
    images = pixelfast.sample(model, 6, seed=0)
    assert images.dtype == torch.int32
    assert images.max() > 255
    assert torch.equal(images, pixelfast.sample(model, 6, seed=0, engine="naive"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 1, 6), (1, 6, 1)])
def test_smallest_images(shape: tuple[int, int, int]) -> None:
    model = GatedPixelCNN(shape, levels=4, features=9, layers=2)
    expected = pixelfast.sample(model, 3, seed=0, engine="naive")
    for engine in ENGINES:
        assert torch.equal(pixelfast.sample(model, 3, seed=0, engine=engine), expected)


class Biased(nn.Module):
    """A pixel's logits move with the pixel before and with optional conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (1, 1))
        self.label = nn.Embedding(3, 4)

    def forward(self, x: torch.Tensor, label: torch.Tensor | None = None, strength: float = 1.0) -> torch.Tensor:
        shifted = nn.functional.pad(x, (1, 0))[..., :-1]
        logits = self.conv(shifted)
        return logits if label is None else logits + strength * self.label(label)[:, :, None, None]


@pytest.mark.parametrize("engine", ["naive", *ENGINES])
def test_conditions_by_position_keyword_and_for_all(engine: str) -> None:
    torch.manual_seed(0)
    model = Biased()
    sampler = pixelfast.compile(model, SHAPE, Categorical(4), engine=engine)
    labels = torch.tensor([0, 1, 2, 1])
    by_position = sampler.sample(4, seed=0, cond=labels)
    assert torch.equal(sampler.sample(4, seed=0, cond=(labels,)), by_position)
    assert torch.equal(sampler.sample(4, seed=0, cond={"label": labels}), by_position)
    assert torch.equal(sampler.sample(4, seed=0, cond=(labels, 1.0)), by_position)
    assert not torch.equal(sampler.sample(4, seed=0, cond=(labels, 9.0)), by_position)
    shared = sampler.sample(4, seed=0, cond=torch.tensor([1]))
    assert torch.equal(shared, sampler.sample(4, seed=0, cond=torch.full((4,), 1)))
    assert torch.equal(shared[1], by_position[1])
    assert torch.equal(sampler.sample(4, seed=0), pixelfast.sample(model, 4, shape=SHAPE, head=sampler.head, seed=0))


def test_compiling_may_wait_for_the_conditions() -> None:
    model = GatedPixelCNN(SHAPE, levels=4, features=8, layers=1, classes=3)
    sampler = pixelfast.compile(model)
    labels = torch.tensor([2, 0])
    assert sampler.verify(sampler.sample(2, seed=0, cond=labels), seed=0, cond=labels).ok


class TwoReadings(nn.Module):
    """Four logits for two channels of two levels, all of pixels above; a condition may be left out."""

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        return nn.functional.pad(x[:, :, :-1], (0, 0, 1, 0)).repeat(1, 2, 1, 1) * torch.arange(4.0).view(4, 1, 1)


def test_compiling_asks_for_the_layout_at_once() -> None:
    with pytest.raises(InvalidInput, match="layout="):
        pixelfast.compile(TwoReadings(), (2, 3, 4), pixelfast.Categorical(2, encode="unit"))


def test_explain_names_schedule_and_cost(sampler: Sampler) -> None:
    text = sampler.explain()
    assert f"engine {sampler.engine}" in text
    assert "multiply-adds for an image" in text
    assert "per pixel" in text
    assert "first" in text


def test_programs_can_be_read(sampler: Sampler) -> None:
    text = str(sampler.prepare().program)
    assert "each row:" in text
    assert "draw channel 0" in text


def test_numpy_images_are_welcome(sampler: Sampler) -> None:
    images = sampler.sample(2, seed=0)
    assert torch.equal(sampler.log_prob(np.asarray(images)), sampler.log_prob(images))


def test_sample_takes_every_option_of_a_sampler_and_of_compile() -> None:
    own = inspect.signature(pixelfast.sample).parameters
    for function, left_out in ((pixelfast.Sampler.sample, {"self"}), (pixelfast.compile, set())):
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in left_out:
                assert own[name].default == parameter.default, name
                assert own[name].annotation == parameter.annotation, name
