"""The self-check of a first batch: it passes sound engines untouched, and stops one that draws from other parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from oracle import ENGINES, NATIVE
from torch import Tensor, nn

import pixelfast
from pixelfast import NotAutoregressive, VerificationError, prepared, self_check
from pixelfast.engines import registry
from pixelfast.engines.base import Request, Result
from pixelfast.engines.naive import NaiveEngine
from pixelfast.ir.program import Product, Program
from pixelfast.models import GatedPixelCNN, PixelCNN
from pixelfast.precision import PRECISIONS
from pixelfast.verify import RARE, agreement

SHAPE = (1, 7, 5)
LABELS = torch.tensor([2, 0, 1, 1, 0, 2])


@pytest.fixture(scope="module")
def model() -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN(SHAPE, levels=4, features=9, layers=2, classes=3)


def spoilt(program: Program) -> Program:
    """The program with one weight off by a hundredth."""

    def changed(instructions: tuple[Any, ...], done: list[bool]) -> tuple[Any, ...]:
        result = []
        for instruction in instructions:
            if isinstance(instruction.body, Product) and not done:
                weights = instruction.body.weights.copy()
                weights[np.unravel_index(np.abs(weights).argmax(), weights.shape)] *= 1.01
                instruction = dataclasses.replace(instruction, body=dataclasses.replace(instruction.body, weights=weights))
                done.append(True)
            result.append(instruction)
        return tuple(result)

    done: list[bool] = []
    return dataclasses.replace(program, steps=tuple(changed(step, done) for step in program.steps))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that run another program than the one that they are given."""
    for name in ENGINES:
        entry = registry.ENGINES[name]

        def make(program: Program, *how: Any, make: Callable[..., Any] = entry.make) -> Any:
            return make(spoilt(program), *how)

        monkeypatch.setitem(registry.ENGINES, name, dataclasses.replace(entry, make=make))


class Counted(NaiveEngine):
    """Keeps how many images each forward of the module had."""

    images: ClassVar[list[int]] = []

    def parameters(self, values: Tensor, conditions: Any) -> Tensor:
        self.images.append(len(values))
        return super().parameters(values, conditions)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward of the module had."""
    for user in (prepared, self_check):
        monkeypatch.setattr(user, "NaiveEngine", Counted)
    monkeypatch.setattr(Counted, "images", [])
    return Counted.images


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_weight_is_found(model: nn.Module, broken: None, engine: str) -> None:
    compiled = pixelfast.compile(model, cond=LABELS, engine=engine)
    for _ in range(2):
        with pytest.raises(VerificationError, match="self-check of the first 4 images: ") as caught:
            compiled.sample(6, seed=0, cond=LABELS)
    text = str(caught.value)
    assert f"of 140 sub-pixels have other parameters in the engine '{engine}' than in the module itself" in text
    assert "The first is image 0, row 0, column " in text
    assert "pixelfast.debug.first_difference" in text
    assert 'self_check=False. engine="naive" samples the module as it is, slowly' in text
    assert pixelfast.compile(model, engine=engine, self_check=False).sample(6, seed=0, cond=LABELS).shape == (6, *SHAPE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 6])
def test_a_wrong_weight_is_found_in_every_kind_of_call(model: nn.Module, broken: None, engine: str, n: int) -> None:
    given = torch.full((n, *SHAPE), -1)
    given[:, :, :3] = 1
    options: dict[str, Any] = {"seed": 3, "cond": LABELS[:n]}
    for more in ({"temperature": 0.1}, {"given": given}, {"batch_size": 2}, {"return_log_prob": True}, {"first": 9}):
        with pytest.raises(VerificationError, match="self-check"):
            pixelfast.sample(model, n, engine=engine, **options, **more)
    assert pixelfast.sample(model, n, engine=engine, self_check=False, **options).shape == (n, *SHAPE)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_of_a_large_batch_are_drawn_twice(
    model: nn.Module, broken: None, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "CHECKED_NUMBERS", 2 * 35 * 4)
    with pytest.raises(VerificationError, match="self-check of the first 2 images"):
        pixelfast.sample(model, 6, engine=engine, seed=0, cond=LABELS)
    monkeypatch.setattr(self_check, "CHECKED_NUMBERS", 1)
    with pytest.raises(VerificationError, match="self-check of the first 1 images"):
        pixelfast.sample(model, 6, engine=engine, seed=0, cond=LABELS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("numbers", [1 << 24, 2 * 35 * 4])
def test_images_are_those_of_an_unchecked_sampler(
    model: nn.Module, forwards: list[int], engine: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "CHECKED_NUMBERS", numbers)
    options: dict[str, Any] = {"cond": LABELS, "temperature": 0.7, "return_log_prob": True}
    checked = pixelfast.compile(model, cond=LABELS, engine=engine)
    plain = pixelfast.compile(model, cond=LABELS, engine=engine, self_check=False)
    rows: list[int] = []
    torch.manual_seed(5)
    images, log_prob = checked.sample(6, on_row=lambda row, _: rows.append(row), **options)
    after = torch.rand(1)
    assert forwards == [4 if numbers > 1000 else 2]
    torch.manual_seed(5)
    expected, expected_log_prob = plain.sample(6, **options)
    assert torch.equal(images, expected)
    assert torch.equal(log_prob, expected_log_prob)
    assert torch.equal(after, torch.rand(1)), "the global generator was disturbed"
    assert rows == list(range(7))
    assert len(forwards) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_done_once_for_each_kind_of_condition(forwards: list[int], engine: str) -> None:
    torch.manual_seed(0)
    model = Optional()
    compiled = pixelfast.compile(model, SHAPE, pixelfast.Categorical(4), engine=engine)
    compiled.sample(3, seed=0)
    compiled.sample(6, seed=1, batch_size=2)
    assert forwards == [3]
    compiled.sample(1, seed=0, cond=torch.tensor([1]))
    compiled.sample(6, seed=0, cond=LABELS)
    assert forwards == [3, 1]
    compiled.sample(6, seed=0, cond=(LABELS, 2.0), batch_size=2)
    assert forwards == [3, 1, 2]


class Optional(nn.Module):
    """A pixel's logits move with the pixel before and with conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.label = nn.Conv2d(1, 4, 1), nn.Embedding(3, 4)

    def forward(self, x: Tensor, label: Tensor | None = None, strength: float = 1.0) -> Tensor:
        logits = self.conv(nn.functional.pad(x, (1, 0))[..., :-1])
        return logits if label is None else logits + strength * self.label(label)[:, :, None, None]


def test_the_naive_engine_looks_at_the_finished_images_once(model: nn.Module, forwards: list[int]) -> None:
    sampler = pixelfast.compile(model, engine="naive")
    sampler.sample(1, seed=0, cond=LABELS[:1])
    assert forwards == [1] * 36
    sampler.sample(1, seed=0, cond=LABELS[:1])
    assert forwards == [1] * 71


class Below(nn.Module):
    """A pixel's logits move with the pixel below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 0, 0, 1))[:, :, 1:])


class ColumnsFirst(nn.Module):
    """Logits (N, K, W, H), of a square image, from the pixel above."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1]).transpose(2, 3)


@pytest.mark.parametrize(("module", "hint"), [(Below, "'raster'"), (ColumnsFirst, "'N.KC.HW'")])
def test_the_naive_engine_refuses_what_is_not_autoregressive_as_it_is_read(module: type[nn.Module], hint: str) -> None:
    torch.manual_seed(0)
    unknown, head = module(), pixelfast.Categorical(4, encode="unit")
    with pytest.raises(NotAutoregressive, match=f"not autoregressive in the order .*{hint}.*when they are drawn"):
        pixelfast.sample(unknown, 3, shape=(1, 3, 3), head=head, seed=0, engine="naive")
    drawn = pixelfast.sample(unknown, 3, shape=(1, 3, 3), head=head, seed=0, engine="naive", self_check=False)
    assert drawn.shape == (3, 1, 3, 3)


def test_given_values_move_no_prediction_of_the_naive_engine(model: nn.Module) -> None:
    given = torch.randint(-1, 4, (2, *SHAPE), generator=torch.Generator().manual_seed(0)).int()
    drawn = pixelfast.sample(model, 2, seed=0, given=given, cond=LABELS[:2], engine="naive")
    assert torch.equal(drawn.int()[given >= 0], given[given >= 0])


def test_a_set_of_given_images_is_checked_too(model: nn.Module, broken: None) -> None:
    whole = torch.randint(4, (2, *SHAPE), generator=torch.Generator().manual_seed(0)).int()
    with pytest.raises(VerificationError, match="self-check of the first 2 images"):
        pixelfast.sample(model, 2, seed=0, given=whole, cond=LABELS[:2])


def test_infinite_logits_agree() -> None:
    class Floor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.conv(nn.functional.pad(x, (1, 0))[..., :-1])
            return torch.where(torch.tensor([True, False, False, False]).view(1, 4, 1, 1), -torch.inf, logits)

    assert pixelfast.sample(Floor(), 3, shape=SHAPE, head=pixelfast.Categorical(4), seed=0).min() > 0


@pytest.mark.skipif(not NATIVE, reason="the native engine was not built")
def test_a_lower_precision_has_its_own_tolerance(broken: None) -> None:
    torch.manual_seed(0)
    model = PixelCNN(SHAPE, levels=4, features=9, blocks=1)
    assert pixelfast.sample(model, 3, seed=0, precision="fp16w").shape == (3, *SHAPE)
    with pytest.raises(VerificationError, match="self-check"):
        pixelfast.sample(model, 3, seed=0)


def test_a_model_that_is_too_delicate_for_a_precision(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        def __init__(self, engine: Any) -> None:
            self.engine = engine

        def run(self, request: Request) -> Result:
            result = self.engine.run(request)
            return dataclasses.replace(result, parameters=result.parameters * np.float32(1.5))

    entry = registry.ENGINES["reference"]
    has = dataclasses.replace(entry.capabilities, precisions=("fp32", "fp16w"))
    made = dataclasses.replace(entry, make=lambda *options: Half(entry.make(*options)), capabilities=has)
    monkeypatch.setitem(registry.ENGINES, "reference", made)
    with pytest.raises(VerificationError, match="bug of pixelfast's, or this model is too delicate for this precision"):
        pixelfast.sample(model, 3, seed=0, cond=LABELS[:3], engine="reference", precision="fp16w")


def test_disagreement_says_where_and_how_much() -> None:
    module = torch.randn(2, 3, 4, 1, 5, generator=torch.Generator().manual_seed(0))
    engine = module.clone()
    assert agreement(engine, module, "fp32", "in the engine") is None
    engine[1, 2, 3, 0, 4] += 0.5
    text = agreement(engine, module, "fp32", "in the engine")
    assert text is not None
    assert text.startswith("1 of 24 sub-pixels")
    assert "image 1, row 2, column 3, channel 0: parameter 4 is" in text
    p, q = (tensor.double().softmax(-1) + RARE for tensor in (engine, module))
    expected = float((p / q).log().abs().max() / q.log().std(correction=0))
    assert f"by up to {expected:.1e} of a standard deviation" in text


class Delicate(nn.Module):
    """A model whose logits lose most of their digits: rounding moves them by a step of float32 at `level`."""

    def __init__(self, level: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.level = PixelCNN(SHAPE, levels=4, features=9, blocks=1), level

    def forward(self, x: Tensor) -> Tensor:
        return (8 * self.net(x) + self.level) - self.level


@pytest.mark.skipif(not NATIVE, reason="the native engine is not built")
def test_rounding_of_the_module_itself_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Delicate(3e4)
    images = pixelfast.sample(model, 4, shape=SHAPE, head=pixelfast.Categorical(4), seed=0)
    compiled = pixelfast.compile(model, SHAPE, pixelfast.Categorical(4))
    found = compiled.verify(images, seed=0)
    assert found.wrong == 0
    assert found.parameter_error > PRECISIONS["fp32"].tolerance
    assert found.rounding > 0
    monkeypatch.setattr("pixelfast.verify.OWN_ROUNDING", 0.0)
    with pytest.raises(VerificationError):
        compiled.verify(images, seed=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_delicate_model_with_a_wrong_weight_is_found_out(broken: None, engine: str) -> None:
    with pytest.raises(VerificationError):
        pixelfast.sample(Delicate(1e3), 4, shape=SHAPE, head=pixelfast.Categorical(4), seed=0, engine=engine)
