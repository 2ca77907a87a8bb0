"""The fused gated convolution in Triton's interpreter, against its naive twin: values and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gated_cases import CASES, NAMES, Case, check_low_precision, check_values_and_gradients, close, gradient, masked, pull
from torch import Tensor

import pixelfast
from pixelfast.errors import EngineUnavailable, InvalidInput
from pixelfast.kernels.gated_conv import GatedConv2d, Tap, gated_conv, live_taps, naive_gated_conv
from pixelfast.models import GatedPixelCNN, HorizontalConv2d, MaskedConv2d, PixelCNN, VerticalConv2d, fuse_gates


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_the_twins(case: Case, dtype: torch.dtype) -> None:
    check_values_and_gradients(case, dtype)


@pytest.mark.parametrize("pulled", ["y", "sums"])
def test_gradients_of_one_result_alone(pulled: str) -> None:
    case = CASES["2x3, above"]
    given = case.inputs(torch.float64)
    wide = {name: None if tensor is None else tensor.detach().requires_grad_() for name, tensor in given.items()}
    for function, inputs in ((gated_conv, given), (naive_gated_conv, wide)):
        y, sums = case.run(function, inputs)
        (y if pulled == "y" else sums).square().sum().backward()
    for name in ("x", "weight", "map"):
        close(name, gradient(given[name]), gradient(wide[name]), 1e-13)


def test_gradcheck_by_differences() -> None:
    case = Case(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), (1, 1), channels=2, features=2, shape=(2, 3, 2))
    given = {name: t.detach().nan_to_num().requires_grad_() for name, t in case.inputs(torch.float64).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return case.run(gated_conv, dict(zip(NAMES, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(given.values()), fast_mode=True)


@pytest.mark.parametrize("name", ["3x3 B", "1x4, to the left", "no tap at all"])
def test_float16_errs_at_most_twice_as_much_as_pytorch_in_float16(name: str) -> None:
    check_low_precision(CASES[name], torch.float16)


def test_strides_of_the_inputs_do_not_matter() -> None:
    case = CASES["3x3 B"]
    given = case.inputs(torch.float32)
    y, sums = case.run(gated_conv, given)
    pull((y, sums), torch.float32)
    strided = {name: None if t is None else t.detach() for name, t in given.items()}
    for name in ("x", "map", "residual"):
        strided[name] = strided[name].to(memory_format=torch.channels_last)
    strided["condition"] = strided["condition"].T.contiguous().T
    strided = {name: t.requires_grad_() for name, t in strided.items()}
    other = case.run(gated_conv, strided)
    pull((other[0].to(memory_format=torch.channels_last), other[1]), torch.float32)
    assert torch.equal(y, other[0])
    for name in NAMES:
        assert torch.equal(given[name].grad.nan_to_num(), strided[name].grad.nan_to_num()), name


def test_small_gates_keep_their_digits() -> None:
    x = torch.tensor([1e-6, -3e-4, 0.1, -0.6249, 0.6251, 3.0, -20.0, 100.0]).reshape(1, 1, 1, 8)
    weight = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    y, _ = gated_conv(x, weight, (Tap(0, 0, 0, 0),))
    torch.testing.assert_close(y, (x.double().tanh() / 2).float(), rtol=5e-7, atol=0)


def test_the_mask_of_each_of_our_convolutions() -> None:
    x = torch.randn(3, 6, 7, 5, generator=torch.Generator().manual_seed(1))
    layers = (
        (MaskedConv2d(6, 12, 5, "B", 3), (2, 2)),
        (VerticalConv2d(6, 12, 3, "A"), (1, 1)),
        (HorizontalConv2d(6, 12, 7, "B", 3, repeats=2), (0, 3)),
    )
    for layer, anchor in layers:
        taps = live_taps(layer.mask, anchor)
        _, sums = gated_conv(x, layer.weight * layer.mask, taps, layer.bias)
        torch.testing.assert_close(sums, layer(x), rtol=1e-5, atol=1e-6)
    assert len(live_taps(layers[1][0].mask, (1, 1))) == 3


def test_the_module() -> None:
    layer = GatedConv2d(5, 5, masked("A", 3), (1, 1), dilation=2, residual=True)
    x, condition = torch.randn(2, 5, 4, 3), torch.randn(2, 10)
    expected, _ = naive_gated_conv(x, layer.weight * layer.mask, layer.taps, layer.bias, condition, None, x)
    torch.testing.assert_close(layer(x, condition), expected)
    assert len(layer.taps) == 4
    with pytest.raises(InvalidInput, match="as many features as channels"):
        GatedConv2d(3, 5, masked("A", 3), (1, 1), residual=True)


def test_no_images_at_all() -> None:
    case = replace(CASES["3x3 B"], shape=(0, 7, 5))
    given = case.inputs(torch.float32)
    y, sums = case.run(gated_conv, given)
    (y.sum() + sums.sum()).backward()
    assert y.shape == (0, 17, 7, 5)
    assert not given["weight"].grad.nan_to_num().any()


def test_autocast_decides_the_type() -> None:
    case = replace(CASES["3x3 B"], shape=(2, 3, 2))
    given = case.inputs(torch.float32)
    with torch.autocast("cpu", torch.float16):
        y, sums = case.run(gated_conv, given)
    assert y.dtype == sums.dtype == torch.float16
    y.float().sum().backward()
    assert given["weight"].grad.dtype == torch.float32
    close("y", y, case.run(naive_gated_conv, given)[0], 3e-3)


def test_what_does_not_fit_is_refused() -> None:
    case = CASES["3x3 B"]
    given = case.inputs(torch.float32)
    for name, wrong, text in (
        ("weight", torch.zeros(5, 17, 3, 3), r"weight \(2F, I, KH, KW\)"),
        ("condition", torch.zeros(3, 17), r"condition must be \(3, 34\)"),
        ("map", torch.zeros(1, 34, 7, 5), r"map must be \(3, 34, 7, 5\)"),
        ("residual", torch.zeros(3, 17, 7, 5).double(), "of one type"),
    ):
        for function in (gated_conv, naive_gated_conv):
            with pytest.raises(InvalidInput, match=text):
                case.run(function, {**given, name: wrong})
    with pytest.raises(InvalidInput, match="outside of the kernel"):
        gated_conv(given["x"], given["weight"], (Tap(3, 0, 0, 0),))
    with pytest.raises(EngineUnavailable, match="bfloat16"):
        gated_conv(given["x"].bfloat16(), given["weight"].bfloat16(), ())


def gated(**more: object) -> GatedPixelCNN:
    torch.manual_seed(0)
    model = GatedPixelCNN((2, 7, 5), levels=3, features=6, layers=2, **more)
    return model.eval()


@pytest.mark.parametrize("conditions", [{}, {"classes": 4, "stacks": 1}, {"vector": 5, "map_channels": 2}], ids=str)
def test_a_gated_pixelcnn_by_fused_kernels(conditions: dict[str, int]) -> None:
    model = gated(**conditions)
    x = torch.randn(3, 2, 7, 5)
    label = torch.tensor([3, 0, 1]) if "classes" in conditions else torch.randn(3, 5) if "vector" in conditions else None
    given = (label, torch.randn(3, 2, 7, 5)) if "map_channels" in conditions else (label,)
    results = []
    for on in (False, True):
        fuse_gates(model, on)
        model.zero_grad()
        logits = model(x, *given)
        logits.square().sum().backward()
        results.append((logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (expected, wanted), (found, grads) = results
    assert not torch.equal(found, expected), "the fused kernels did not run"
    close("logits", found, expected, 1e-5)
    for name, grad in grads.items():  # PyTorch has none for what the last layer's vertical stack only hands on
        close(name, grad, wanted.get(name, torch.zeros_like(grad)), 1e-5)
    assert wanted.keys() <= grads.keys()


def test_a_fused_model_is_sampled_like_any_other() -> None:
    plain = pixelfast.sample(gated(), 3, seed=1, engine="reference")
    fused = pixelfast.sample(fuse_gates(gated()), 3, seed=1, engine="reference")
    assert torch.equal(torch.as_tensor(plain), torch.as_tensor(fused))


def test_a_model_without_gates_cannot_be_fused() -> None:
    with pytest.raises(InvalidInput, match="PixelCNN has no layer"):
        fuse_gates(PixelCNN((1, 7, 5), levels=3, features=6, blocks=1))
