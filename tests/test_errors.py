"""Bad input: each error says what was asked, what was found, and what to do."""

from __future__ import annotations

import copy
import inspect
import threading
from typing import Any

import numpy as np
import pytest
import torch
from foreign import right_shift
from oracle import ENGINES
from small_models import Shifted
from torch import Tensor, nn

import pixelfast
from pixelfast import (
    Bernoulli,
    Categorical,
    EngineUnavailable,
    InvalidInput,
    NumericalError,
    PixelfastError,
    Sampler,
    UnsupportedModel,
)
from pixelfast.engines.native import engine as cpu
from pixelfast.models import GatedPixelCNN, PixelCNN

SHAPE = (1, 7, 5)
EVERY = ("naive", *ENGINES)


@pytest.fixture(scope="module")
def model() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(SHAPE, levels=4, features=8, blocks=1)


@pytest.fixture(scope="module")
def sampler(model: PixelCNN) -> Sampler:
    return pixelfast.compile(model)


def test_every_error_is_one_of_ours() -> None:
    classes = [value for name, value in vars(pixelfast).items() if inspect.isclass(value)]
    errors = [value for value in classes if issubclass(value, Exception) and not issubclass(value, Warning)]
    assert len(errors) > 8
    assert all(issubclass(error, PixelfastError) for error in errors)
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(NumericalError, ArithmeticError)


# -------------------------------------------------------------------- model, shape, head


@pytest.mark.parametrize("model", [lambda x: x, PixelCNN, None], ids=["function", "class", "none"])
def test_what_is_no_module(model: Any) -> None:
    for function in (pixelfast.sample, pixelfast.compile, pixelfast.check):
        with pytest.raises(InvalidInput, match=r"model must be a torch\.nn\.Module, got (function|type|NoneType)"):
            function(model)


def test_shape_and_head_must_be_known() -> None:
    with pytest.raises(InvalidInput, match=r"does not say which images it draws: pass shape=\(channels, rows, columns\)"):
        pixelfast.sample(Shifted(), head=Categorical(4))
    with pytest.raises(InvalidInput, match=r"pass head=pixelfast\.Categorical\(levels, encode=\.\.\.\)"):
        pixelfast.sample(Shifted(), shape=SHAPE)
    with pytest.raises(InvalidInput, match="not str"):
        pixelfast.sample(Shifted(), shape=SHAPE, head="categorical")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(7, 5), (1, 0, 5), (1, 7, 5, 3), 28, "cat", (1, -7, 5), (1, 3.5, 5), "175"])
def test_what_is_no_shape(model: PixelCNN, shape: Any) -> None:
    with pytest.raises(InvalidInput, match="three positive integers, got"):
        pixelfast.sample(model, shape=shape)


def test_wrong_shape_of_the_images() -> None:
    with pytest.raises(InvalidInput) as caught:
        pixelfast.sample(Shifted(), shape=(3, 7, 5), head=Categorical(4))
    message = str(caught.value)
    assert "Shifted does not accept images of shape (N, 3, 7, 5) as torch.float32" in message
    assert "but got 3 channels" in message
    assert "Its forward is Shifted(x: 'Tensor') -> 'Tensor': check shape=" in message


def test_an_output_of_another_size() -> None:
    with pytest.raises(InvalidInput, match=r"output of shape \(2, 4, 5, 3\) for 2 images of shape \(1, 7, 5\) cannot be read"):
        pixelfast.compile(nn.Conv2d(1, 4, 3), SHAPE, Categorical(4))


@pytest.mark.parametrize("head", [Categorical(8), Categorical(5), Bernoulli()], ids=["8", "5", "bernoulli"])
def test_k_does_not_match(model: PixelCNN, head: pixelfast.Head) -> None:
    for engine in ("auto", "naive"):
        with pytest.raises(InvalidInput) as caught:
            pixelfast.sample(model, head=head, engine=engine)
        assert "output of shape (2, 4, 1, 7, 5)" in str(caught.value)
        assert f"cannot be read with {head.parameters} parameters" in str(caught.value)
        assert "make 4 parameters each: does the head need 4 levels?" in str(caught.value)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        ("unti", r"unknown encoding 'unti': encode= takes \"integer\", \"unit\", \"symmetric\""),
        ([0.0, 1.0, 2.0], r"has shape \(3,\), but 4 levels and 1 channels need \(4,\) or \(1, 4\)"),
        (torch.zeros(2, 4), r"has shape \(2, 4\)"),
        (lambda x: x.float().cumsum(3), "does not work on each value by itself"),
        (lambda x: x.flatten(), r"turned images of shape .* into \(35,\)"),
        (lambda x: None, "into NoneType"),
    ],
    ids=["name", "table", "channels", "neighbours", "flattened", "none"],
)
def test_wrong_encodings(model: PixelCNN, encode: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pixelfast.compile(model, head=Categorical(4, encode=encode))


@pytest.mark.parametrize("layout", ["NXHW", "NKHH", "N(KCHW", "NK", "", "N()KHW"])
def test_what_is_no_layout(model: PixelCNN, layout: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: write one letter for each axis"):
        pixelfast.compile(model, head=Categorical(4, layout=layout))


def test_a_layout_that_does_not_fit() -> None:
    with pytest.raises(InvalidInput, match=r"\(2, 4, 7, 5\).* cannot be read as the layout 'NHWK'"):
        pixelfast.compile(Shifted(), SHAPE, Categorical(4, layout="NHWK"))


def test_an_ambiguous_layout_names_the_candidates() -> None:
    module = Shifted(channels=2)
    with pytest.raises(InvalidInput) as caught:
        pixelfast.compile(module, (2, 7, 5), Categorical(2))
    assert 'pass layout="N(KC)HW" or layout="N(CK)HW" to the head' in str(caught.value)
    assert "N images, K parameters, C channels, H rows, W columns" in str(caught.value)
    for layout in ("N(KC)HW", "N(CK)HW"):
        assert pixelfast.check(module, (2, 7, 5), Categorical(2, layout=layout)).layout == layout


def test_wrong_input_type_for_the_encoding() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.embed(right_shift(x)[:, 0]))

    with pytest.raises(InvalidInput, match=r"as torch\.float32 .*check shape=, the head's encode=, and cond="):
        pixelfast.compile(Looks(), SHAPE, Categorical(4))
    with pytest.raises(InvalidInput, match="Looks does not accept images"):
        pixelfast.compile(Looks(), SHAPE, Categorical(4, encode="integer"))  # value 3 is not in the table


@pytest.mark.parametrize(("output", "named"), [(None, "NoneType"), ([], "list"), ("logits", "str")])
def test_outputs_that_are_no_tensors(output: Any, named: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"gives {named}: a tensor, or a tuple whose first item is one, is needed"):
        pixelfast.compile(Shifted(lambda y: output), SHAPE, Categorical(4))


def test_a_forward_that_fails_says_how() -> None:
    def fail(y: Tensor) -> Tensor:
        raise ZeroDivisionError("boom")

    with pytest.raises(InvalidInput, match="ZeroDivisionError: boom"):
        pixelfast.compile(Shifted(fail), SHAPE, Categorical(4))


def test_a_module_that_cannot_be_copied() -> None:
    module = Shifted()
    module.lock = threading.Lock()
    with pytest.raises(UnsupportedModel, match=r"Shifted cannot be copied with copy\.deepcopy .*lock"):
        pixelfast.compile(module, SHAPE, Categorical(4))


def test_half_precision_is_refused() -> None:
    with pytest.raises(PixelfastError):
        pixelfast.compile(Shifted(lambda y: y.bfloat16().float()), SHAPE, Categorical(4))


# -------------------------------------------------------------------- arguments of sample


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "8", None])
def test_n_must_be_a_count(model: PixelCNN, sampler: Sampler, n: Any) -> None:
    for function in (sampler.sample, lambda n: pixelfast.sample(model, n)):
        with pytest.raises(InvalidInput, match="n must be an integer of at least 1, got"):
            function(n)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "hot", None, True])
def test_temperature_must_be_above_zero(sampler: Sampler, temperature: Any) -> None:
    with pytest.raises(InvalidInput, match="temperature must be a number above 0, got"):
        sampler.sample(1, temperature=temperature)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"threads": 0}, "threads must be .*at least 1, got 0"),
        ({"first": -1}, "first must be an integer of at least 0, got -1"),
        ({"seed": -1}, r"seed must lie in 0 \.\. 2\*\*64 - 1, got -1"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"seed": 1, "generator": torch.Generator()}, "both seed= and generator= were given"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_options(sampler: Sampler, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        sampler.sample(2, **options)


def test_unknown_options_are_not_dropped(model: PixelCNN, sampler: Sampler) -> None:
    with pytest.raises(InvalidInput, match=r"sample\(\) got an unexpected keyword argument .temprature"):
        pixelfast.sample(model, 1, temprature=0.5)
    with pytest.raises(TypeError, match="temprature"):
        sampler.sample(1, temprature=0.5)  # type: ignore[call-arg]


def blank(*shape: int, value: int = -1, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.full(shape, value, dtype=dtype)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (blank(2, *SHAPE, value=4), r"given holds values 4 \.\. 4, but the head has levels 0 \.\. 3, or -1 where unknown"),
        (blank(2, *SHAPE, value=-2), r"given holds values -2 \.\. -2"),
        (blank(2, 1, 5, 7), r"given has shape \(2, 1, 5, 7\), but the model's images are \(N, 1, 7, 5\)"),
        (blank(7, 5), r"given has shape \(7, 5\)"),
        (blank(3, *SHAPE), "given holds 3 images, but n is 2"),
        (torch.zeros(2, *SHAPE), r"given must hold integers 0 \.\. 3, or -1 where unknown, got torch.float32"),
        (np.full((2, *SHAPE), np.nan), "given must hold integers"),
    ],
    ids=["too large", "below -1", "turned", "flat", "too many", "float", "nan"],
)
@pytest.mark.parametrize("engine", EVERY)
def test_given_out_of_range(model: PixelCNN, given: Any, message: str, engine: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pixelfast.sample(model, 2, given=given, engine=engine)


def test_images_to_score_and_to_verify(sampler: Sampler) -> None:
    for function in (sampler.log_prob, lambda images: sampler.verify(images, seed=0)):
        with pytest.raises(InvalidInput, match=r"images has shape \(1, 1, 5, 7\)"):
            function(blank(1, 1, 5, 7, value=0))
        with pytest.raises(InvalidInput, match=r"images holds values 9 \.\. 9, but the head has levels 0 \.\. 3"):
            function(blank(1, *SHAPE, value=9))
        with pytest.raises(InvalidInput, match=r"images holds values -1 \.\. -1"):
            function(blank(1, *SHAPE))
        with pytest.raises(InvalidInput, match="images must hold integers"):
            function(torch.zeros(1, *SHAPE))


# -------------------------------------------------------------------- engines


def test_unknown_engine(model: PixelCNN) -> None:
    for function in (pixelfast.compile, pixelfast.sample):
        with pytest.raises(EngineUnavailable, match=r"there is no engine 'gpu'; engines are auto, .*reference, torch, naive"):
            function(model, engine="gpu")


def test_an_explicit_engine_never_falls_back(model: PixelCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the native engine was not built, asking for it says why, and "auto" takes the interpreter."""

    def missing() -> Any:
        raise ImportError("No module named 'pixelfast._cpu'")

    monkeypatch.setattr(cpu, "native", missing)
    with pytest.raises(EngineUnavailable, match=r"engine 'cpu' cannot run here: .*was not built.*C\+\+ compiler"):
        pixelfast.compile(model, engine="cpu")
    assert pixelfast.compile(model, engine="auto").engine == "reference"


# -------------------------------------------------------------------- conditions


@pytest.fixture(scope="module")
def conditional() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    kinds = {"classes": 10, "vector": 3, "map_channels": 2}
    return {kind: GatedPixelCNN(SHAPE, levels=4, features=6, layers=1, **{kind: size}) for kind, size in kinds.items()}


@pytest.mark.parametrize("engine", ["auto", "naive"])
@pytest.mark.parametrize(
    ("kind", "cond", "message"),
    [
        ("classes", None, "conditional on a class and got none"),
        ("classes", torch.tensor([1, 2]), r"cond\[0\] has 2 entries \(shape \(2,\)\), but 3 images are asked for"),
        ("classes", torch.tensor([1, 2, 10]), "in 0 .. 9, got labels from 1 to 10"),
        ("classes", torch.rand(3), r"got torch\.float32 of shape"),
        ("classes", {"label": torch.tensor([1, 2, 3])}, "unexpected keyword argument 'label'.*forward is GatedPixelCNN"),
        ("vector", torch.rand(3, 4), r"h must be a float vector of shape \(., 3\), got torch\.float32 of shape \(., 4\)"),
        ("map_channels", {"s": torch.rand(3, 2, 5, 7)}, r"s must be a float map of shape \(., 2, 7, 5\)"),
        ("map_channels", {"s": torch.rand(3, 2, 7, 5), "h": torch.zeros(2)}, r"cond\['h'\].*\(2,\)"),
    ],
    ids=["none", "count", "range", "type", "name", "vector", "map", "disagree"],
)
def test_wrong_conditions(conditional: dict[str, nn.Module], kind: str, cond: Any, message: str, engine: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pixelfast.sample(conditional[kind], 3, cond=cond, engine=engine)


def test_wrong_conditions_after_compiling(conditional: dict[str, nn.Module]) -> None:
    """The checks of the module's own forward are not part of the compiled program."""
    sampler = pixelfast.compile(conditional["classes"], cond=torch.tensor([1]))
    with pytest.raises(InvalidInput, match=r"cannot use these conditions \(cond\[0\] .* from 1 to 10\): IndexError"):
        sampler.sample(3, cond=torch.tensor([1, 2, 10]))
    with pytest.raises(InvalidInput, match=r"cannot use these conditions .* from -1 to 2"):
        sampler.sample(2, cond=torch.tensor([-1, 2]))
    assert sampler.sample(3, cond=torch.tensor([1, 2, 9])).shape == (3, *SHAPE)


def test_a_condition_nobody_takes(model: PixelCNN) -> None:
    with pytest.raises(InvalidInput, match="takes 2 positional arguments but 3 were given"):
        pixelfast.sample(model, 2, cond=torch.tensor([1, 2]))


# -------------------------------------------------------------------- training mode


class Moody(Shifted):
    """Dropout, batch normalisation, and its own idea of training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.norm.running_var.fill_(4.0)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training, "sampling must be done in eval mode"
        return self.dropout(self.norm(super().forward(x)))


@pytest.mark.parametrize("engine", EVERY)
def test_a_model_in_training_mode_is_sampled_in_eval_mode_and_left_as_it_was(engine: str) -> None:
    torch.manual_seed(0)
    module = Moody().train()
    module.dropout.eval()
    mean = module.norm.running_mean.clone()
    images = pixelfast.sample(module, 4, shape=SHAPE, head=Categorical(4), seed=0, engine=engine)
    assert [m.training for m in (module, module.norm, module.dropout, module.conv)] == [True, True, False, True]
    assert torch.equal(module.norm.running_mean, mean)
    assert module.norm.num_batches_tracked == 0
    assert torch.equal(images, pixelfast.sample(module.eval(), 4, shape=SHAPE, head=Categorical(4), seed=0, engine=engine))
    assert torch.is_grad_enabled()


def test_a_failure_leaves_the_model_as_it_was() -> None:
    module = Moody().train()
    with pytest.raises(InvalidInput):
        pixelfast.sample(module, 1, shape=(2, 4, 4), head=Categorical(4))
    assert module.training
    assert module.norm.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_sampling_leaves_the_global_state_alone(model: PixelCNN) -> None:
    """Random numbers, gradients, the default type and the number of threads."""
    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    pixelfast.sample(copy.deepcopy(model), 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before[1:]
    assert torch.is_grad_enabled()
