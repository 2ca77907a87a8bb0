"""Heads as a pair of functions: they equal the heads that they describe, and refuse what is no distribution."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from goodness_of_fit import chi_square
from native import needs_engine
from oracle import compare, trace
from torch import Tensor, nn

import pixelfast
from pixelfast import Categorical, CustomHead, EngineUnavailable, InvalidInput, MixtureOfLogistics, NumericalError
from pixelfast.distributions import noise
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import bits_per_dim, train

SHAPE = (3, 7, 5)


def softmax(parameters: Tensor) -> Tensor:
    return parameters.softmax(-1)


def log_softmax(parameters: Tensor, values: Tensor) -> Tensor:
    return parameters.log_softmax(-1).gather(-1, values.unsqueeze(-1)).squeeze(-1)


def binomial(parameters: Tensor) -> Tensor:
    """The number of heads among 4 coins whose logit is the one parameter."""
    k = torch.arange(5)
    ways = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    p = parameters.sigmoid()
    return ways * p**k * (1 - p) ** (4 - k)


class Above(nn.Module):
    """P parameters of each sub-pixel, or pixel, from the row above."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.conv = SHAPE, nn.Conv2d(3, outputs, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1])


def test_equals_the_head_that_it_describes() -> None:
    model, known = Above(3 * 4), Categorical(4, layout="N(CK)HW")
    for log_prob in (None, log_softmax):
        head = CustomHead(4, 4, softmax, log_prob, layout="N(CK)HW")
        for temperature in (1.0, 0.7):
            options = {"shape": SHAPE, "seed": 1, "temperature": temperature, "engine": "naive", "return_log_prob": True}
            found, scores = pixelfast.sample(model, 3, head=head, **options)
            expected, expected_scores = pixelfast.sample(model, 3, head=known, **options)
            assert torch.equal(found, expected)
            torch.testing.assert_close(scores, expected_scores)
        assert pixelfast.compile(model, SHAPE, head, engine="naive").verify(found, seed=1, temperature=0.7).ok


def test_whole_pixels_may_share_parameters() -> None:
    known = MixtureOfLogistics(5, 2, 3)
    head = CustomHead(5, 20, known.probabilities, known.log_prob, known.conditional)
    model = Above(20)
    found = pixelfast.sample(model, 3, head=head, shape=SHAPE, seed=1, engine="naive")
    assert torch.equal(found, pixelfast.sample(model, 3, head=known, shape=SHAPE, seed=1, engine="naive"))


def test_draws_follow_the_function() -> None:
    head = CustomHead(5, 1, binomial)
    uniform = torch.from_numpy(noise.uniforms(3, 0, 20_000, (1, 1, 1))).flatten()
    parameters = torch.tensor([0.4])
    drawn = head.draw(parameters.expand(20_000, 1), uniform)
    assert abs(chi_square(np.bincount(drawn, minlength=5), binomial(parameters.double()).numpy())) < 4
    assert float(head.log_prob(parameters, torch.tensor(4))) == pytest.approx(4 * math.log(1 / (1 + math.exp(-0.4))), rel=1e-6)


def test_trains() -> None:
    class Coins(Above):
        def __init__(self) -> None:
            super().__init__(3)
            self.head = CustomHead(5, 1, binomial)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unsqueeze(1)

    images = torch.full((16, *SHAPE), 4)
    model = Coins()
    before = bits_per_dim(model, images)
    train(model, images, options=TrainOptions(epochs=20, batch_size=8, lr=0.05, warmup=1, ema=0.0))
    assert bits_per_dim(model, images) < 0.5 * before


def test_rows_of_a_linear_layer() -> None:
    """A head that sees one pixel's features and gives a row (C * K) for each pixel: (N * H * W, C * K)."""

    class Rows(Above):
        def __init__(self) -> None:
            super().__init__(9)
            self.linear = nn.Linear(9, 3 * 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(super().forward(x).relu().permute(0, 2, 3, 1).flatten(0, 2))

    model = Rows()
    for layout in ("(NHW)(CK)", "(NHW)(KC)"):
        head = Categorical(4, layout=layout)
        naive = pixelfast.sample(model, 3, head=head, shape=SHAPE, seed=2, engine="naive")
        assert torch.equal(pixelfast.sample(model, 3, head=head, shape=SHAPE, seed=2, engine="reference"), naive)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_the_interpreter_calls_the_functions(shared: bool, scored: bool) -> None:
    mixture = MixtureOfLogistics(5, 2, 3)
    if shared:
        log_prob = mixture.log_prob if scored else None
        head = CustomHead(5, 20, mixture.probabilities, log_prob, mixture.conditional, layout="NKHW")
    else:
        head = CustomHead(4, 4, softmax, log_softmax if scored else None, layout="N(CK)HW")
    traced = trace(Above(20 if shared else 12), SHAPE, head)
    assert traced.engines == ("reference",)
    given = np.random.default_rng(0).integers(-1, 4, (3, 7, 5, 3)).astype(np.int32)
    assert compare(traced, 3) == 0
    assert compare(traced, 3, 1, given=given, temperature=0.7) == 0


@needs_engine
def test_the_native_engine_refuses_by_name_and_auto_says_why() -> None:
    model, head = Above(12), CustomHead(4, 4, softmax, layout="N(CK)HW")
    message = r"the engine 'cpu' cannot run this: a CustomHead draws by Python.* use engine='reference' or 'torch' or 'naive'"
    with pytest.raises(EngineUnavailable, match=message):
        pixelfast.compile(model, SHAPE, head, engine="cpu")
    with pytest.raises(EngineUnavailable, match=r"no engine can run this: cpu: a CustomHead .*; reference: it has no"):
        pixelfast.compile(model, SHAPE, head, precision="fp16w")
    sampler = pixelfast.compile(model, SHAPE, head)
    assert sampler.engine == "reference"
    assert "not the faster engine cpu: a CustomHead draws by Python functions" in sampler.explain()
    assert sampler.verify(sampler.sample(3, seed=1), seed=1).ok
    assert "not the faster" not in pixelfast.compile(model, SHAPE, Categorical(4, layout="N(CK)HW")).explain()
    with pytest.raises(EngineUnavailable, match="the head draws by Python functions"):
        CpuEngine(sampler.prepare().program)


class Sharpened(Categorical):
    """A softmax whose probabilities are squared."""

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return super().probabilities(parameters, temperature / 2)


def test_a_subclass_with_probabilities_of_its_own_is_another_head() -> None:
    model, head = Above(3 * 4), Sharpened(4, layout="N(CK)HW")
    sampler = pixelfast.compile(model, SHAPE, head)
    assert sampler.engine == "reference"
    images = sampler.sample(64, seed=2)
    assert torch.equal(images, pixelfast.sample(model, 64, shape=SHAPE, head=head, seed=2, engine="naive"))
    plain = pixelfast.sample(model, 64, shape=SHAPE, head=Categorical(4, layout="N(CK)HW"), seed=2)
    assert not torch.equal(images, plain)


def test_a_program_holds_no_functions() -> None:
    """They come with the request: without them nothing can be drawn."""
    traced = trace(Above(12), SHAPE, CustomHead(4, 4, softmax, layout="N(CK)HW"))
    assert traced.compiled.program.head == "custom"
    with pytest.raises(InvalidInput, match="the request brings no head"):
        traced.run("reference", replace(traced.request(1, 0), head=None))


@pytest.mark.parametrize("engine", ["reference", "naive"])
def test_what_a_function_raises_says_where(engine: str) -> None:
    def breaks(parameters: Tensor) -> Tensor:
        raise KeyError("of my own")

    with pytest.raises(
        InvalidInput, match=r"given raised KeyError: 'of my own' \(.*test_custom_head\.py, line \d+\)"
    ) as caught:
        pixelfast.sample(Above(12), 1, head=CustomHead(4, 4, breaks, layout="N(CK)HW"), shape=SHAPE, engine=engine)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("engine", ["reference", "naive"])
def test_parameters_without_distribution_are_reported(engine: str) -> None:
    model = Above(12)
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.bias[6] = math.inf
    with pytest.raises(NumericalError):
        pixelfast.sample(model, 1, head=CustomHead(4, 4, softmax, layout="N(CK)HW"), shape=SHAPE, engine=engine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 1}, "at least 2 levels"),
        ({"parameters": 0}, "at least 1 parameters"),
        ({"probabilities": None}, "probabilities= must be a function, got NoneType"),
        ({"log_prob": 3}, "log_prob= must be a function, got int"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        CustomHead(**({"levels": 4, "parameters": 4, "probabilities": softmax} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p: p.softmax(-1)[..., :3], r"gave \(2, 3\) for parameters \(2, 4\): \(2, 4\) is needed"),
        (lambda p: p.softmax(-1) * 2, "sums over the 4 values lie within 2 .. 2"),
        (lambda p: torch.tensor([-1.0, 2.0, 0.0, 0.0]).expand(2, 4), "the least number is -1"),
        (lambda p: p * torch.nan, "no distribution"),
        (lambda p: 1.0, "gave float"),
    ],
)
def test_what_is_no_distribution(function: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        CustomHead(4, 4, function).draw(torch.zeros(2, 4), torch.zeros(2))  # type: ignore[arg-type]


def test_wrong_log_probabilities() -> None:
    head = CustomHead(4, 4, softmax, lambda p, v: p)
    with pytest.raises(InvalidInput, match=r"log_prob= gave \(2, 4\) for values \(2,\)"):
        head.log_prob(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
