"""Causality: leaks are caught and named, and so are operations that nobody can follow."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from foreign import COLOUR, GREY, DataMasked, down_shift, right_shift
from leaks import HEAD, leak
from oracle import compare, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, NotAutoregressive, UnsupportedModel
from pixelfast.models import GatedPixelCNN, PixelCNN


class Plain(nn.Module):
    """Three masked layers and whatever stands between them."""

    def __init__(self, between: nn.Module, first: str = "A", second: str = "B") -> None:
        super().__init__()
        self.first, self.second = DataMasked(first, 1, 8, 5, padding=2), DataMasked(second, 8, 8, 3, padding=1)
        self.between, self.out = between, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.second(self.between(F.relu(self.first(x))))))


# -------------------------------------------------------------------- leaks


def test_mask_b_in_the_first_layer() -> None:
    error = leak(Plain(nn.Identity(), first="B"))
    assert (error.layer, error.offset) == ("first", (0, 0))
    assert "depends on that very value" in str(error)
    assert "mask A in the first layer" in str(error)


@pytest.mark.parametrize("model", [PixelCNN, GatedPixelCNN])
def test_mask_b_in_the_first_layer_of_our_models(model: type[nn.Module]) -> None:
    module = model(shape=COLOUR, levels=4, features=6)
    layer = module.get_submodule("first" if model is PixelCNN else "first_horizontal")
    layer.mask[:, :, layer.mask.shape[2] // 2, -1 if model is GatedPixelCNN else 3] = 1
    error = leak(module, COLOUR)
    assert (error.layer, error.offset) == ("first" if model is PixelCNN else "first_horizontal", (0, 0))


# In a kernel of 7 x 7 the centre is (3, 3). Of 12 features four belong to R, four to G and four to B; inside a block two each.
PLACES = [
    ("first", (0, 0, 3, 3)), ("first", (10, 0, 3, 4)), ("first", (1, 2, 6, 0)),
    ("blocks.0.convolutions.0", (2, 9, 0, 0)), ("blocks.0.convolutions.1", (4, 5, 6, 6)),
    ("blocks.1.convolutions.1", (2, 2, 4, 0)), ("blocks.1.convolutions.2", (5, 4, 0, 0)),
    ("hidden", (1, 11, 0, 0)), ("logits", (0, 4, 0, 0)), ("logits", (3, 8, 0, 0)),
]  # fmt: skip


@pytest.fixture(scope="module")
def colour_model() -> nn.Module:
    torch.manual_seed(0)
    return PixelCNN(shape=COLOUR, levels=2, features=12, blocks=2)


@pytest.mark.parametrize(("layer", "weight"), PLACES, ids=[f"{layer}{weight}" for layer, weight in PLACES])
def test_one_unmasked_weight(colour_model: nn.Module, layer: str, weight: tuple[int, ...]) -> None:
    module = copy.deepcopy(colour_model)
    mask = module.get_submodule(layer).mask
    assert mask[weight] == 0, "the weight must be a masked one"
    mask[weight] = 1
    error = leak(module, COLOUR, Categorical(2))
    assert error.layer == layer
    assert (0, 0) <= error.offset <= (3, 3)


def test_one_unmasked_weight_among_many() -> None:
    """A single weight of 1e-12 among 28,224 of its layer."""
    module = PixelCNN(shape=(1, 5, 5), levels=2, features=48, blocks=1)
    convolution = module.blocks[0].convolutions[1]
    assert convolution.weight.numel() > 25_000
    convolution.mask[13, 7, 3, 5] = 1
    convolution.weight.data[13, 7, 3, 5] = 1e-12
    error = leak(module, (1, 5, 5), Categorical(2))
    assert error.layer == "blocks.0.convolutions.1"
    assert error.offset in ((0, 0), (0, 1), (0, 2))


def test_a_masked_weight_that_is_zero_is_no_leak() -> None:
    """Only weights that are not 0 count: an open mask over a zero weight changes nothing."""
    module = PixelCNN(shape=(1, 5, 5), levels=2, features=4, blocks=1)
    module.first.mask[:] = 1
    module.first.weight.data[:, :, 3, 3:] = 0
    module.first.weight.data[:, :, 4:] = 0
    assert pixelfast.check(module).autoregressive


def test_last_layer_without_colour_mask() -> None:
    module = PixelCNN(shape=COLOUR, levels=4, features=6, blocks=1)
    module.logits.mask[:] = 1
    error = leak(module, COLOUR)
    assert (error.layer, error.offset) == ("logits", (0, 0))
    assert "channel 0 at pixel (3, 2) depends on channel" in str(error)
    assert "the colour mask in every layer" in str(error)


class Shifts(nn.Module):
    """A vertical stream that must be shifted down, and a horizontal one that must be shifted to the right."""

    def __init__(self, down: Callable[[Tensor], Tensor], right: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.down, self.right = down, right
        self.vertical, self.horizontal = nn.Conv2d(1, 6, (2, 3)), nn.Conv2d(1, 6, (1, 2))
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        v = self.down(self.vertical(F.pad(x, (1, 1, 1, 0))))
        return self.out(F.elu(v + self.right(self.horizontal(F.pad(x, (1, 0, 0, 0))))))


def same(x: Tensor) -> Tensor:
    return x


def test_shifted_streams_are_autoregressive() -> None:
    assert pixelfast.check(Shifts(down_shift, right_shift), GREY, HEAD).autoregressive


def test_forgotten_shifts() -> None:
    error = leak(Shifts(same, right_shift))
    assert (error.layer, error.offset) == ("vertical", (0, 1))
    error = leak(Shifts(down_shift, same))
    assert (error.layer, error.offset) == ("horizontal", (0, 0))


def up_shift(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 1))[:, :, 1:]


def test_a_shift_the_wrong_way() -> None:
    error = leak(Shifts(up_shift, right_shift))
    assert error.layer == "vertical"
    assert error.offset[0] == 1


class AcrossImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((0, 2, 3), keepdim=True)


class OwnRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().amax(3, keepdim=True) + 1)


class SqueezeExcite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))


class BatchStatistics(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


STATISTICS = [
    nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.BatchNorm2d(8, track_running_stats=False), AcrossImages(), OwnRow(),
    SqueezeExcite(), BatchStatistics(), nn.LayerNorm((8, 7, 5)),
]  # fmt: skip


@pytest.mark.parametrize("norm", STATISTICS, ids=lambda norm: type(norm).__name__)
def test_statistics_over_pixels_or_images(norm: nn.Module) -> None:
    error = leak(Plain(norm))
    assert error.layer == "between"
    assert "takes statistics over rows, columns or images" in str(error)
    assert "layer normalisation" in str(error)


def test_normalisation_over_all_colours() -> None:
    """Layer normalisation over channels is fine for grey images, and lets R see B in a colour model."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.norm = PixelCNN(shape=COLOUR, levels=4, features=6, blocks=1), nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.model.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.model.logits(F.relu(h)).unflatten(1, (3, 4)).transpose(1, 2)

    error = leak(Normed(), COLOUR)
    assert (error.layer, error.offset) == ("norm", (0, 0))


# -------------------------------------------------------------------- what is not supported


class Attention(nn.Module):
    """Without a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return (flat @ torch.tril(flat.transpose(1, 2) @ flat).transpose(1, 2)).view_as(x)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Repeats each of 3 rows and 2 columns, but not equally often."""
        rows, cols = x.shape[2:]
        return self.down(F.interpolate(self.down(x), (2 * rows, 2 * cols)))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.up(x), 2)


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1)[0]


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 1, 1)


class Looking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8 * 35, 8 * 35)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1)).view_as(x)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half().float()


UNSUPPORTED = [
    (Attention(), "attention"),
    (Strided(), "rows or columns are mixed with channels"),
    (Transposed(), "gives maps finer than the image"),
    (Sorted(), "aten.sort"),
    (Pooled(), "max_pool2d"),
    (Looking(), "Python control flow"),
    (Half(), "sample model.float()"),
]


@pytest.mark.parametrize(("between", "words"), UNSUPPORTED, ids=[type(u[0]).__name__ for u in UNSUPPORTED])
def test_unsupported_operations_are_named(between: nn.Module, words: str) -> None:
    module = Plain(between)
    with pytest.raises(UnsupportedModel) as caught:
        pixelfast.sample(module, 1, shape=GREY, head=HEAD)
    assert words in str(caught.value)
    with pytest.raises(UnsupportedModel):
        pixelfast.check(module, GREY, HEAD)
    if not isinstance(between, Looking):
        assert "between" in str(caught.value), "the layer must be named"


def test_a_dense_layer_over_the_image_is_a_leak() -> None:
    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.sample(Plain(Flattened()), 1, shape=GREY, head=HEAD)
    assert caught.value.layer == "between.dense"
    assert caught.value.offset >= (0, 0)


@pytest.mark.parametrize("between", [Strided(), Transposed(), Sorted(), Pooled(), Attention()], ids=lambda m: type(m).__name__)
def test_the_naive_engine_samples_what_the_others_refuse(between: nn.Module) -> None:
    """As the messages promise; also models that are not autoregressive, whose loop is what it is, if nobody checks it."""
    images = pixelfast.sample(Plain(between), 2, shape=(1, 5, 3), head=HEAD, engine="naive", seed=0, self_check=False)
    assert images.shape == (2, 1, 5, 3)


def test_a_loop_over_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a number of operations, here a smaller one."""
    monkeypatch.setattr("pixelfast.trace.capture.NODE_LIMIT", 100)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.Linear(5, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            state, logits = x.new_zeros(len(x), 4), []
            for pixel in x.flatten(1).unbind(1):
                logits.append(self.out(state))
                state = torch.tanh(self.cell(torch.cat([state, pixel[:, None]], 1)))
            return torch.stack(logits, 2).view(len(x), 4, *x.shape[2:])

    with pytest.raises(UnsupportedModel, match="loop over pixels"):
        pixelfast.compile(Recurrent(), (1, 4, 4), HEAD)


def test_a_sequence_may_wrap_around() -> None:
    """Causal on every pixel, but by another offset at the edge: the last column is rolled into the next row's first."""

    class Rolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix, self.out = nn.Conv2d(1, 6, 1), nn.Linear(6, 6), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            n, _, rows, cols = x.shape
            late = F.pad(x.reshape(n, 1, rows * cols), (1, 0))[:, :, :-1].view(n, 1, rows, cols)
            tokens = torch.relu(self.conv(late)).permute(0, 2, 3, 1).reshape(-1, 6)
            return self.out(torch.tanh(self.mix(tokens)).view(n, rows, cols, 6).permute(0, 3, 1, 2))

    assert compare(trace(Rolled().eval(), GREY, HEAD), 2) == 0


def test_forwards_with_a_memory_or_chance() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = Plain(nn.Identity()), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x) + self.calls

    class Noisy(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(4, 1, 1)

    for module in (Counts(), Noisy(nn.Identity())):
        with pytest.raises(UnsupportedModel, match="memory or draws random numbers"):
            pixelfast.compile(module, GREY, HEAD)


def test_images_that_see_each_other() -> None:
    class Mixed(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(0))

    with pytest.raises(UnsupportedModel, match="image"):
        pixelfast.compile(Mixed(nn.Identity()), GREY, HEAD)
