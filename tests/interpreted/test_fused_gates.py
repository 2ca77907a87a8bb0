"""The fused gated convolution in Triton's interpreter, against its naive twin: values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import pixelfast
from pixelfast.errors import EngineUnavailable, InvalidInput
from pixelfast.kernels.gated_conv import GatedConv2d, Tap, gated_conv, live_taps, naive_gated_conv
from pixelfast.models import GatedPixelCNN, HorizontalConv2d, MaskedConv2d, PixelCNN, VerticalConv2d, fuse_gates

NAMES = ("x", "weight", "bias", "condition", "map", "residual")
# Largest difference from the twin in float64, relative to the largest number.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


@dataclass(frozen=True)
class Case:
    """A kernel's mask, where the pixel lies in it, and what is added; I channels in, F features."""

    mask: Tensor
    anchor: tuple[int, int]
    dilation: int = 1
    channels: int = 17
    features: int = 17
    extras: tuple[str, ...] = ("bias", "condition", "map", "residual")
    shape: tuple[int, int, int] = (3, 7, 5)  # N, H, W

    def inputs(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor | None]:
        """Leaves that want gradients. A dead cell of the weight is NaN: whoever reads it, shows."""
        generator = torch.Generator().manual_seed(seed)
        n, height, width = self.shape
        double, depth = 2 * self.features, self.channels * max(int(self.mask.count_nonzero()), 1)
        sizes = {"x": (n, self.channels, height, width), "weight": (double, self.channels, *self.mask.shape[-2:])}
        sizes |= {"bias": (double,), "condition": (n, double)}
        sizes |= {"map": (n, double, height, width), "residual": (n, self.features, height, width)}
        made = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
        made["weight"] = made["weight"] / math.sqrt(depth)
        made["weight"] = torch.where(self.mask != 0, made["weight"], math.nan)
        wanted = {"x", "weight", *self.extras}
        return {name: made[name].to(dtype).requires_grad_() if name in wanted else None for name in NAMES}

    def run(self, function: Callable[..., tuple[Tensor, Tensor]], given: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        others = {name: tensor for name, tensor in given.items() if name not in ("x", "weight")}
        return function(given["x"], given["weight"], live_taps(self.mask, self.anchor, self.dilation), **others)


def masked(mask: str, size: int) -> Tensor:
    return MaskedConv2d(1, 1, size, mask).mask[0, 0]


CASES = {
    "3x3 B": Case(masked("B", 3), (1, 1)),
    "3x3 A, an image's own channel": Case(masked("A", 3), (1, 1), channels=1, extras=("bias",)),
    "1x1": Case(torch.ones(1, 1), (0, 0), extras=("condition",)),
    "1x4, to the left": Case(torch.ones(1, 4), (0, 3), extras=("residual",)),
    "2x3, above": Case(torch.ones(2, 3), (1, 1), channels=5, extras=("map",)),
    "3x3 B, dilated": Case(masked("B", 3), (1, 1), dilation=2, extras=()),
    "further than the image": Case(masked("B", 3), (1, 1), dilation=6, extras=("bias",)),
    "one feature": Case(masked("B", 3), (1, 1), channels=1, features=1),
    "no tap at all": Case(torch.zeros(1, 1), (0, 0), channels=2),
    "more pixels than a block": Case(torch.ones(1, 2), (0, 1), channels=2, features=2, shape=(2, 12, 11)),
    "more features than a block": Case(torch.ones(1, 2), (0, 1), channels=33, features=67, extras=("bias",)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_the_twins(case: Case, dtype: torch.dtype) -> None:
    given = case.inputs(dtype)
    wide = {name: None if tensor is None else tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    found, expected = case.run(gated_conv, given), case.run(naive_gated_conv, wide)
    close("y", found[0], expected[0], TOLERANCE[dtype])
    close("sums", found[1], expected[1], TOLERANCE[dtype])
    pull(found, dtype)
    pull(expected, torch.float64)
    for name, tensor in wide.items():
        if tensor is not None:
            close(f"the gradient of {name}", gradient(given[name]), gradient(tensor), TOLERANCE[dtype])


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
    case = CASES[name]
    half = case.inputs(torch.float16)
    plain, wide = (
        {key: None if t is None else t.detach().to(dtype).requires_grad_() for key, t in half.items()}
        for dtype in (torch.float16, torch.float64)
    )
    results = [case.run(function, given) for function, given in ((gated_conv, half), (naive_gated_conv, plain))]
    expected = case.run(naive_gated_conv, wide)
    for result in (*results, expected):
        pull(result, result[0].dtype)
    found, usual, truth = (
        [*result, *(gradient(tensor) for tensor in given.values() if tensor is not None)]
        for result, given in ((results[0], half), (results[1], plain), (expected, wide))
    )
    for f, u, t in zip(found, usual, truth, strict=True):
        if t.numel():
            assert f.dtype == torch.float16
            assert error(f, t) <= 2 * max(error(u, t), 5e-4)


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


def pull(results: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """A gradient for both results, the same whatever their type."""
    generator = torch.Generator().manual_seed(9)
    grads = [torch.randn(result.shape, generator=generator, dtype=torch.float64).to(torch.float16) for result in results]
    torch.autograd.backward(results, [grad.to(dtype) for grad in grads])


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@torch.no_grad()
def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def close(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape, name
    if expected.numel():
        assert error(found, expected) <= tolerance, f"{name}: {error(found, expected):.2e}"
