"""When parameters agree: by the probability of each value, so that nothing hides an error, and rounding is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pixelfast
from pixelfast.distributions.base import Head
from pixelfast.precision import PRECISIONS
from pixelfast.verify import EDGE_TOLERANCE, agreement, compare, distances


def logits() -> tuple[Head, Tensor]:
    return pixelfast.Categorical(6), torch.randn(2, 3, 4, 2, 6, generator=torch.Generator().manual_seed(1))


def log_probabilities() -> tuple[Head, Tensor]:
    head, parameters = logits()
    return head, parameters.log_softmax(-1)


def bernoulli() -> tuple[Head, Tensor]:
    return pixelfast.Bernoulli(), torch.randn(2, 3, 4, 2, 1, generator=torch.Generator().manual_seed(1))


def probabilities() -> tuple[Head, Tensor]:
    return pixelfast.Bernoulli(probability=True), bernoulli()[1].sigmoid()


def mixture() -> tuple[Head, Tensor]:
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(2, 3, 4, 1, 9, generator=generator)
    parameters[..., 3:6] = parameters[..., 3:6] / 2
    parameters[..., 6:] -= 1
    return pixelfast.MixtureOfLogistics(6, mixtures=3, channels=1), parameters


def narrow() -> tuple[Head, Tensor]:
    """As trained models are where they are sure: the means' last bits are worth a thousandth of a probability."""
    parameters = torch.randn(2, 3, 4, 1, 9, generator=torch.Generator().manual_seed(1)) / 2
    parameters[..., 6:] -= 7
    return pixelfast.MixtureOfLogistics(256, mixtures=3, channels=1), parameters


def colours() -> tuple[Head, Tensor]:
    parameters = torch.randn(2, 3, 4, 1, 20, generator=torch.Generator().manual_seed(1)) / 2
    return pixelfast.MixtureOfLogistics(6, mixtures=2, parameter_layout="mixture-major"), parameters.expand(-1, -1, -1, 3, -1)


def custom() -> tuple[Head, Tensor]:
    """Two numbers, of which the second is the inverse width of a bell around the first."""

    def bell(parameters: Tensor) -> Tensor:
        centre, width = parameters[..., :1], parameters[..., 1:].exp()
        return (-width * (torch.arange(6) - 2 - centre) ** 2).softmax(-1)

    return pixelfast.CustomHead(6, 2, bell), torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1))


HEADS = (logits, log_probabilities, bernoulli, probabilities, mixture, narrow, colours, custom)


ELEMENT = (1, 2, 0)


def judged(head: Head, engine: Tensor, module: Tensor) -> tuple[bool, float]:
    """Whether parameters are let through, and how far a probability moves at most; values are 2 where there may be more."""
    values = torch.full(module.shape[:-1], min(2, head.levels - 1))
    moved = [head.probabilities(head.conditionals(tensor, values)) for tensor in (engine, module)]
    return agreement(engine, module, "fp32", "in the engine", head, values) is None, float((moved[0] - moved[1]).abs().max())


@pytest.mark.parametrize("made", HEADS)
def test_any_parameter_that_moves_a_probability_is_noticed(made: Callable[[], tuple[Head, Tensor]]) -> None:
    head, module = made()
    noticed = 0
    for number in range(module.shape[-1]):
        for change in (1e-2, -0.5, 30.0):
            engine = module.clone()
            engine[(*ELEMENT, 0, number)] += change
            if head.describes_distribution(engine).all():
                passes, moved = judged(head, engine, module)
                assert not passes or moved < 4 * PRECISIONS["fp32"].tolerance
                noticed += not passes
    assert noticed
    engine = module + 2e-7 * (1 + module.abs()) * torch.randn(module.shape, generator=torch.Generator().manual_seed(2))
    assert judged(head, engine, module)[0], "the rounding of float32 was taken for an error"


@pytest.mark.parametrize("constant", [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf])
@pytest.mark.parametrize("where", ["one value", "half of the image", "every second logit", "all values but one"])
def test_no_constant_hides_an_error(constant: float, where: str) -> None:
    head, module = logits()
    if where == "one value":
        module[..., 5] = constant
    elif where == "half of the image":
        module[:, :2, :, :, 3:] = constant
    elif where == "every second logit":
        module.view(-1)[torch.arange(module.numel()) % 7 == 3] = constant
        module.view(-1)[torch.arange(module.numel()) % 3 == 1] = constant
    else:
        module[:, 0, :, :, 1:] = constant
    alive = [tuple(at) for at in ((module > -100).sum(-1) > 1).nonzero().tolist()]
    for at in alive:
        number = int(module[at].argmax())
        engine = module.clone()
        engine[at][number] += 2e-3
        assert not judged(head, engine, module)[0], (at, number)
    assert len(alive) > 10
    forbidden = tuple((module <= -100).nonzero()[0].tolist())
    engine = module.clone()
    engine[forbidden] = 0.5
    assert not judged(head, engine, module)[0], "a value that is never drawn became probable"


def test_what_is_never_drawn_from_may_differ() -> None:
    head, module = logits()
    module[..., 5] = -1e9
    engine = module.clone()
    engine[..., 5] = -torch.inf
    assert judged(head, engine, module)[0]
    head, module = mixture()
    module[..., 1] = -80.0  # no weight
    engine = module.clone()
    engine[..., 4] += 3
    assert judged(head, engine, module)[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_distribution_on_one_side_alone(bad: float) -> None:
    head, module = logits()
    engine = module.clone()
    engine[(*ELEMENT, 0, 0)] = bad
    for pair in ((engine, module), (module, engine)):
        away = distances(head, *pair, torch.zeros(module.shape[:-1], dtype=torch.int64))
        assert away.max() == torch.inf
        assert (away > 0).sum() == 1
    assert distances(head, engine, engine, torch.zeros(module.shape[:-1], dtype=torch.int64)).max() == 0


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_rounding_of_large_logits_is_no_error(scale: float) -> None:
    """Sums of the same terms in another order, whose last bits are worth much more than the tolerance."""
    generator = torch.Generator().manual_seed(3)
    terms, weights = torch.randn(2, 5, 4, 2, 60, generator=generator), torch.randn(60, 6, generator=generator)
    terms[..., ::20], weights[::20] = scale, torch.randn(3, 1, generator=generator)
    module = engine = torch.zeros(2, 5, 4, 2, 6)
    for term in range(60):
        module = module + terms[..., term, None] * weights[term]
        engine = engine + terms[..., 59 - term, None] * weights[59 - term]
    assert float((engine - module).abs().max()) > 4e-8 * scale
    assert judged(pixelfast.Categorical(6), engine, module)[0]


@pytest.mark.parametrize(("made", "number", "rounding"), [(narrow, slice(3, 6), -1e-6), (logits, 0, 2.0**-7)])
def test_draws_that_rounding_moves_are_ties(
    made: Callable[[], tuple[Head, Tensor]], number: int | slice, rounding: float
) -> None:
    head, module = made()
    if isinstance(number, int):
        module = module + 1e5

    def draws(change: float) -> Any:
        engine = module.clone()
        engine[..., number] += change
        own, drawn = (head.conditionals(tensor, torch.zeros(module.shape[:-1])) for tensor in (module, engine))
        edges = head.edges(own)
        middle = (edges - 0.5).abs().argmin(-1, keepdim=True)
        noise = (edges.gather(-1, middle).squeeze(-1) + 2 * EDGE_TOLERANCE).float()
        values = head.draw(drawn, noise)
        return compare(head, values, values, noise, values >= 0, engine, module, temperature=1.0)

    assert draws(rounding).ties > 0
    assert draws(rounding).ok
    assert not draws(1e3 * rounding).ok
