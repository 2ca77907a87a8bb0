"""The boundary of the package: arguments are checked alike everywhere, and no errors leave it but ours and a callback's."""

from __future__ import annotations

import fractions
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import EVERY, HEAD, SHAPE, Left, by_every_engine
from torch import Tensor, nn

import pixelfast
from pixelfast import (
    Bernoulli,
    Categorical,
    CustomHead,
    InvalidInput,
    MixtureOfLogistics,
    NumericalError,
    PixelfastError,
)
from pixelfast.engines.base import Request, check


@pytest.fixture(scope="module")
def samplers() -> dict[str, pixelfast.Sampler]:
    return by_every_engine()


# -------------------------------------------------------------------- arguments


SAME = {
    "numbers of NumPy": {"n": np.int32(2), "seed": np.uint64(7), "temperature": np.float32(0.5), "first": np.int64(3)},
    "arrays of one number": {"n": np.array(2), "seed": np.array(7), "temperature": np.array(0.5), "first": np.array(3)},
    "tensors of one number": {
        "n": torch.tensor(2), "seed": torch.tensor(7), "temperature": torch.tensor(0.5), "first": torch.tensor(3)
    },
    "a fraction": {"temperature": fractions.Fraction(1, 2), "threads": np.int64(1), "batch_size": np.uint8(2)},
    "unsigned given values": {"given": np.full((1, 3, 4), 1, np.uint64)},
    "given values of a byte": {"given": np.full((1, 3, 4), 1, np.int8)},
    "given values in lists": {"given": [[[1] * 4] * 3]},
    "given values, none of them masked": {"given": np.ma.array(np.ones(SHAPE, np.uint8))},
}  # fmt: skip


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_numbers_are_numbers(samplers: dict[str, pixelfast.Sampler], options: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"n": 2, "seed": 7, "temperature": 0.5, "first": 3}
    expected = samplers["reference"].sample(**plain, **({"given": torch.ones(SHAPE).long()} if "given" in options else {}))
    for sampler in samplers.values():
        assert torch.equal(sampler.sample(**(plain | options)), expected)
    known = {name: value for name, value in (plain | options).items() if name in ("seed", "temperature", "first", "given")}
    assert samplers["reference"].verify(expected, **known).ok


REFUSED: list[tuple[str, Any, str]] = [
    ("n", 0, "n must be an integer of at least 1, got 0"),
    ("n", 2.0, "n must be an integer"),
    ("n", True, "n must be an integer"),
    ("n", np.True_, "n must be an integer"),
    ("n", "3", "n must be an integer of at least 1, got '3' of type str"),
    ("seed", -1, "seed must lie in 0"),
    ("seed", 2**64, "seed must lie in 0"),
    ("seed", 1.0, "seed must be an integer"),
    ("seed", True, "seed must be an integer"),
    ("generator", 3, "generator must be a torch.Generator, got 3 of type int; a number is passed as seed="),
    ("temperature", 1e-46, r"temperature must lie within 1e-30 \.\. 1e\+30, got 1e-46"),
    ("temperature", 1e46, "temperature must lie within"),
    ("temperature", 5e-324, "temperature must lie within"),
    ("temperature", 0, "temperature must be a number above 0"),
    ("temperature", float("nan"), "temperature must be a number above 0"),
    ("temperature", 10**400, "temperature must be a number above 0"),
    ("temperature", np.ones(2), "temperature must be a number above 0"),
    ("temperature", "1", "temperature must be a number above 0"),
    ("temperature", True, "temperature must be a number above 0"),
    ("threads", 0, "threads must be an integer of at least 1"),
    ("threads", 2**40, r"threads must lie in 1 \.\. 4096"),
    ("batch_size", 1.5, "batch_size must be an integer"),
    ("first", -1, "first must be an integer of at least 0"),
    ("first", 2**63 - 1, r"a seed has images 0 \.\. 2\*\*63 - 1"),
    ("return_log_prob", "no", "return_log_prob must be True or False, got 'no' of type str"),
    ("progress", np.ones(2), "progress must be True or False"),
    ("on_row", 3, "on_row must be a function, got 3 of type int"),
    ("given", np.array([None] * 12).reshape(SHAPE), "given must hold integers"),
    ("given", [[[1, 2], [3]]], "given must hold integers"),
    ("given", np.full(SHAPE, 2**64 - 1, np.uint64), "given holds values 18446744073709551615"),
    ("given", torch.zeros(SHAPE, device="meta"), "given must hold integers"),
    ("given", np.zeros(SHAPE), "given must hold integers .*float64"),
    ("given", [[[None] * 4] * 3], "given must hold integers .*, or -1 where unknown, got object"),
    ("given", [np.ma.masked_equal(np.zeros(SHAPE, np.int64), 0)] * 2, "given must .* masked entries.* pass one masked array"),
    ("given", np.ma.masked_equal(np.zeros(SHAPE), 0), "given must hold integers"),
    ("given", np.ma.masked, "given must hold integers"),
]


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int64, np.bool_])
@pytest.mark.parametrize("images", [(), (1,), (2,)], ids=str)
def test_masked_entries_are_unknown(samplers: dict[str, pixelfast.Sampler], kind: Any, images: tuple[int, ...]) -> None:
    """Whatever lies below the mask, and in both layouts of memory."""
    random = np.random.default_rng(0)
    values, mask = random.integers(0, 2, (*images, *SHAPE)), random.random((*images, *SHAPE)) < 0.5
    hidden = np.where(mask, 77, values).astype(kind)
    expected = samplers["reference"].sample(2, seed=3, given=np.where(mask, -1, values))
    for array in (np.ma.array(hidden, mask=mask), np.ma.array(np.asfortranarray(hidden), mask=np.asfortranarray(mask))):
        assert torch.equal(samplers["reference"].sample(2, seed=3, given=array), expected)
        assert samplers["reference"].verify(expected, seed=3, given=array).ok


def test_images_have_no_masked_entries(samplers: dict[str, pixelfast.Sampler]) -> None:
    sampler, values = samplers["naive"], np.zeros((2, *SHAPE), np.int64)
    assert sampler.log_prob(np.ma.array(values)).equal(sampler.log_prob(values))
    for images in (np.ma.masked_equal(values, 0), list(np.ma.masked_equal(values, 0))):
        with pytest.raises(InvalidInput, match=r"images must hold integers .* got masked entries"):
            sampler.log_prob(images)
        with pytest.raises(InvalidInput, match=r"images must hold integers .* got masked entries"):
            sampler.verify(images, seed=0)


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=lambda x: str(x)[:20])
def test_every_call_refuses_alike(samplers: dict[str, pixelfast.Sampler], name: str, value: Any, message: str) -> None:
    options: dict[str, Any] = {"n": 2, **({} if name == "generator" else {"seed": 0}), name: value}
    for sampler in samplers.values():
        with pytest.raises(InvalidInput, match=message):
            sampler.sample(**options)
    if name in ("seed", "temperature", "first", "given"):
        with pytest.raises(InvalidInput, match=message):
            samplers["naive"].verify(torch.zeros(2, *SHAPE).long(), **({"seed": 0} | {name: value}))


def test_the_limits_of_temperature_give_what_they_say(samplers: dict[str, pixelfast.Sampler]) -> None:
    for heat in (1e-30, 1e30):
        images, log_prob = zip(
            *(s.sample(3, seed=0, temperature=heat, return_log_prob=True) for s in samplers.values()), strict=True
        )
        assert all(torch.equal(found, images[0]) for found in images)
        for found in log_prob:
            torch.testing.assert_close(
                found, torch.full((3,), 0.0 if heat < 1 else -12 * np.log(4)).double(), atol=1e-4, rtol=0
            )


def test_an_engine_itself_checks_its_temperature() -> None:
    program = pixelfast.compile(Left(), SHAPE, HEAD, engine="reference").prepare().program
    with pytest.raises(InvalidInput, match="temperature must lie within"):
        check(program, Request(np.zeros((1, 3, 4, 1), np.float32), None, (), temperature=1e-46))


def test_images_of_the_highest_indices(samplers: dict[str, pixelfast.Sampler]) -> None:
    found = [s.sample(2, seed=2**64 - 1, first=2**63 - 2) for s in samplers.values()]
    assert all(torch.equal(images, found[0]) for images in found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pixelfast.sample(Left(), 1, temprature=1), r"keyword argument 'temprature' \(did you mean 'temperature'\?\)"),
        (lambda: pixelfast.compile(Left(), SHAPE, HEAD, engin="cpu"), r"did you mean 'engine'\?\); it takes model, shape"),
        (lambda: pixelfast.sample(Left(), 1, shape=SHAPE, head=HEAD, engine="naiv"), r"did you mean 'naive'\?"),
        (lambda: pixelfast.sample(Left(), 1, shape=SHAPE, head=HEAD, order="colums"), r"did you mean 'columns'\?"),
        (lambda: pixelfast.sample(Left(), 1, shape=SHAPE, head=Categorical(4, "symetric")), r"did you mean 'symmetric'\?"),
    ],
)
def test_near_names(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(PixelfastError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bernoulli("symmetric"), r"probability must be True or False, got 'symmetric'; an encoding is passed as enc"),
        (lambda: Categorical(2**31), r"a categorical head needs at least 2 levels, and less than 2\*\*31, got 2147483648"),
        (lambda: MixtureOfLogistics(2**64), "a mixture of logistics needs at least 2 levels"),
        (lambda: CustomHead(4, 0, torch.softmax), "a custom head needs at least 1 parameters"),
        (lambda: pixelfast.compile(Left(), SHAPE, HEAD, self_check="no"), "self_check must be True or False, got 'no'"),
        (lambda: pixelfast.compile(Left(), SHAPE, Categorical(4, lambda: 0)), "encode= must take images alone: TypeError"),
        (lambda: pixelfast.check(Left(), SHAPE, HEAD, data=7), r"data has shape \(\), but the model's images are "),
        (lambda: pixelfast.check(Left(), SHAPE, HEAD, data=object()), r"data must hold integers 0 \.\. 3, got object"),
        (lambda: pixelfast.data.load("digits.npz", test_fraction=True), "test_fraction must be a number, got bool"),
    ],
)
def test_what_is_no_number_flag_or_image_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()


def test_numbers_of_numpy_are_numbers_of_heads_and_files(tmp_path: Path) -> None:
    assert Categorical(np.int64(4), encode="unit") == HEAD
    assert repr(Categorical(np.uint8(4), encode="unit")) == repr(HEAD)
    assert MixtureOfLogistics(np.int32(8), np.int64(2), np.int64(1)) == MixtureOfLogistics(8, 2, 1)
    np.savez(tmp_path / "images.npz", images=np.ones((4, 3, 4), bool))
    data = pixelfast.data.load(tmp_path / "images.npz", test_fraction=np.float32(0.5), max_bytes=np.int64(2**30))
    assert len(data.test_images) == 2


# -------------------------------------------------------------------- distributions


@pytest.mark.parametrize("bias", [1.5, 1.0000001, -1e-9, float("inf")])
def test_no_engine_draws_from_what_is_no_probability(bias: float) -> None:
    model, texts = Left(1, bias if bias < 2 else 1e38), set()
    if bias > 2:
        nn.init.constant_(model.conv.weight, 1e38)
    images = torch.zeros(1, *SHAPE).long()
    for engine in EVERY:
        sampler = pixelfast.compile(model, SHAPE, Bernoulli(probability=True, encode=(1, 9)), engine=engine)
        with pytest.raises(
            NumericalError, match=r"must be a probability within 0 \.\. 1: does the model give logits"
        ) as caught:
            sampler.sample(3, seed=0)
        texts.add(str(caught.value))
        with pytest.raises(NumericalError, match="must be a probability"):
            sampler.verify(images, seed=0)
    assert len(texts) == 1
    assert all(text.startswith("the parameters of image 0, row 0, column 0, channel 0 describe no") for text in texts)


@pytest.mark.parametrize("engine", EVERY)
def test_an_error_names_the_image_of_the_call(engine: str) -> None:
    class Third(Left):
        def forward(self, x: Tensor, bad: Tensor) -> Tensor:
            return super().forward(x) + bad[:, None, None, None]

    bad = torch.tensor([0.0, 0.0, torch.nan])
    with pytest.raises(NumericalError, match="of image 2, row 0, column 0"):
        pixelfast.compile(Third(), SHAPE, HEAD, cond=bad[:1], engine=engine).sample(3, seed=0, cond=bad, batch_size=1)


@pytest.mark.parametrize("engine", EVERY)
def test_what_is_given_needs_no_distribution(engine: str) -> None:
    """Images 0 and 1 are given where their parameters are NaN or infinite, image 2 is drawn there."""

    class Holes(Left):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("hole", torch.zeros(1, 1, *SHAPE[1:], dtype=torch.bool))
            self.hole[..., 1, 2] = True

        def forward(self, x: Tensor, bad: Tensor) -> Tensor:
            return super().forward(x) + torch.where(self.hole, bad[:, None, None, None], torch.zeros(()))

    bad = torch.tensor([torch.nan, torch.inf, 0.0])
    given = torch.full((3, *SHAPE), -1)
    given[:2, 0, 1, 2] = 3
    sampler = pixelfast.compile(Holes(), SHAPE, HEAD, cond=torch.zeros(1), engine=engine, self_check=False)
    assert (sampler.sample(3, seed=0, cond=bad, given=given)[:2, 0, 1, 2] == 3).all()


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 4)])
def test_naive_asks_for_the_layout(shape: tuple[int, int, int]) -> None:
    class Running(nn.Module):
        """Causal, but control flow looks at values, so that it cannot be traced."""

        def forward(self, x: Tensor) -> Tensor:
            if torch.isnan(x).any():
                raise ValueError
            first = nn.functional.pad(x[:, :1], (1, 0))[..., :-1].cumsum(3)
            return first.expand(-1, 4 * x.shape[1], -1, -1) * torch.arange(4 * x.shape[1]).view(1, -1, 1, 1)

    with pytest.raises(InvalidInput, match=r'pass layout="N\S+" or layout="') as caught:
        pixelfast.sample(Running(), 1, shape=shape, head=Categorical(4), engine="naive", seed=0)
    assert "engine=" not in str(caught.value)
    head = Categorical(4, layout="N(KC)HW" if shape[0] > 1 else "NKHW")
    assert pixelfast.sample(Running(), 1, shape=shape, head=head, engine="naive", seed=0).shape == (1, *shape)
