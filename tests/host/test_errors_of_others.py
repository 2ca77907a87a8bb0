"""Errors of models and heads are told as ours, with the line of the user; those of a callback come out as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import EVERY, HEAD, SHAPE, Left, by_every_engine
from torch import Tensor, nn

import pixelfast
from pixelfast import (
    Categorical,
    CustomHead,
    InvalidInput,
    MixtureOfLogistics,
    NumericalError,
    PixelfastError,
    errors,
)


@pytest.fixture(scope="module")
def samplers() -> dict[str, pixelfast.Sampler]:
    return by_every_engine()


class Mine(KeyError):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


def of(forward: Callable[[nn.Module, Tensor], Any]) -> nn.Module:
    class Made(Left):
        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return Made()


def changed(**names: Any) -> nn.Module:
    made: nn.Module = type("Changed", (Left,), names)()
    return made


def with_weight(change: Callable[[Tensor], Tensor]) -> nn.Module:
    model = Left()
    model.conv.weight = nn.Parameter(change(model.conv.weight.detach()))
    return model


def with_hook(hook: Callable[..., Any]) -> nn.Module:
    model = Left()
    model.register_forward_pre_hook(hook)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "takes nothing": lambda: type("Nothing", (nn.Module,), {"forward": lambda self: 1})(),
    "has no forward": nn.Module,
    "gives nothing": lambda: of(lambda self, x: None),
    "gives a list": lambda: of(lambda self, x: []),
    "gives complex numbers": lambda: of(lambda self, x: Left.forward(self, x) + 1j),
    "gives a sparse tensor": lambda: of(lambda self, x: Left.forward(self, x).to_sparse()),
    "gives a tensor without numbers": lambda: of(lambda self, x: Left.forward(self, x).to("meta")),
    "raises": lambda: of(raising(KeyError("mine"))),
    "raises without a text": lambda: of(raising(Mine("mine"))),
    "recurs": lambda: of(lambda self, x: self(x)),
    "raises for three images": lambda: of(lambda self, x: Left.forward(self, x) if len(x) < 3 else {}["three"]),
    "cannot be copied": lambda: changed(__deepcopy__=raising(KeyError("mine"))),
    "cannot be switched": lambda: changed(train=raising(KeyError("mine"))),
    "says no shape": lambda: changed(shape=property(raising(KeyError("mine")))),
    "a hook raises": lambda: with_hook(raising(KeyError("mine"))),
    "weights on meta": lambda: Left().to("meta"),
    "sparse weights": lambda: with_weight(lambda weight: weight.to_sparse()),
    "lazy weights": lambda: nn.Sequential(nn.LazyConv2d(4, 1)),
    "no weight": lambda: changed(__init__=lambda self: (Left.__init__(self), setattr(self.conv, "weight", None))[0]),
}


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_errors_of_models_are_ours(made: Callable[[], nn.Module]) -> None:
    model, ours = made(), 0
    for call in (
        lambda: pixelfast.sample(model, 3, shape=SHAPE, head=HEAD, engine="reference"),
        lambda: pixelfast.sample(model, 3, shape=SHAPE, head=HEAD, engine="naive"),
        lambda: pixelfast.sample(model, head=HEAD, engine="naive"),
        lambda: pixelfast.check(model, SHAPE, HEAD),
    ):
        found = raised(call)
        assert found is None or isinstance(found, PixelfastError)
        assert type(found) is not pixelfast.InternalError or "mine" in str(found)
        ours += found is not None
    assert ours


def raised(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def test_an_error_within_pytorch_names_the_line_of_the_user() -> None:
    def fails(parameters: Tensor) -> Tensor:
        return nn.functional.layer_norm(parameters, [3])

    found = raised(lambda: pixelfast.sample(Left(), shape=SHAPE, head=CustomHead(4, 4, fails), engine="naive"))
    assert isinstance(found, InvalidInput)
    assert re.search(r"RuntimeError: Given normalized_shape=\[3\].*test_errors_of_others\.py, line \d+\)", str(found))
    assert errors.described(Mine("mine")) == "Mine"


def softmax(parameters: Tensor) -> Tensor:
    return parameters.softmax(-1)


HEADS: dict[str, Callable[[], Any]] = {
    "an encoding raises": lambda: Categorical(4, encode=raising(KeyError("mine"))),
    "an encoding changes the shape": lambda: Categorical(4, encode=lambda x: x[0]),
    "an encoding of words": lambda: Categorical(4, encode=("a", "b")),
    "an encoding without numbers": lambda: Categorical(4, encode=torch.zeros(4, device="meta")),
    "an encoding of objects": lambda: Categorical(4, encode={}),
    "a layout that is no text": lambda: Categorical(4, layout=3),  # type: ignore[arg-type]
    "too many levels": lambda: Categorical(2**70),
    "probabilities raise": lambda: CustomHead(4, 4, raising(KeyError("mine"))),
    "probabilities of nothing": lambda: CustomHead(4, 4, lambda p: None),
    "a condition of nothing": lambda: CustomHead(4, 4, softmax, conditional=lambda p, e: None),
    "log_prob raises": lambda: CustomHead(4, 4, softmax, log_prob=raising(KeyError("mine"))),
    "a scale that is no number": lambda: MixtureOfLogistics(4, 1, 1, log_scale_min="a"),  # type: ignore[arg-type]
    "a parameter layout that is no text": lambda: MixtureOfLogistics(4, 1, 1, parameter_layout=[]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("made", HEADS.values(), ids=HEADS)
def test_errors_of_heads_are_ours(made: Callable[[], Any]) -> None:
    model, images = Left(), torch.zeros(2, *SHAPE).long()
    for call in (
        lambda: pixelfast.compile(model, SHAPE, made(), engine="naive").log_prob(images),
        lambda: pixelfast.compile(model, SHAPE, made(), engine="reference").sample(2, return_log_prob=True),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert not isinstance(caught.value.__cause__, KeyError) or "'mine' (" in str(caught.value)


def test_a_layer_is_named() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if len(x) < 3 else {}["three"]

    model = nn.Sequential(Left(), Inner())
    with pytest.raises(
        pixelfast.UnsupportedModel, match=r"layer '1' \(Inner\) raised KeyError: 'three' \(\S*test_errors_of_others\.py, "
    ):
        pixelfast.sample(model, 3, shape=SHAPE, head=HEAD, engine="naive")


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize(
    "error", [KeyError("mine"), Mine("mine"), InvalidInput("mine"), NumericalError("mine"), KeyboardInterrupt()]
)
def test_what_a_callback_raises_is_the_callers(
    samplers: dict[str, pixelfast.Sampler], engine: str, error: BaseException
) -> None:
    def raises(row: int, images: Tensor) -> None:
        if row == 1:
            raise error

    expected = samplers[engine].sample(2, seed=0)
    with pytest.raises(type(error)) as caught:
        samplers[engine].sample(2, seed=0, on_row=raises)
    assert caught.value is error
    assert torch.equal(samplers[engine].sample(2, seed=0), expected)
    with pytest.raises(type(error)) as caught:
        pixelfast.sample(Left(), 2, shape=SHAPE, head=HEAD, engine=engine, on_row=raises)
    assert caught.value is error


def test_a_callback_may_sample(samplers: dict[str, pixelfast.Sampler]) -> None:
    found: list[Tensor] = []
    samplers["naive"].sample(1, seed=0, on_row=lambda row, images: found.append(samplers["reference"].sample(1, seed=row)))
    assert len(found) == 3
    with pytest.raises(InvalidInput):
        samplers["naive"].sample(1, seed=0, on_row=lambda row, images: samplers["reference"].sample(0))
