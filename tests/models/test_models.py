"""The models: nothing depends on what comes later, everything on what it should, and wrong arguments are named."""

from __future__ import annotations

import pytest
import torch
from causal import dependencies
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.errors import InvalidInput
from pixelfast.models import MODELS, ChannelNorm, GatedPixelCNN, MaskedConv2d, PixelCNN, colour_groups
from pixelfast.models.masked import HorizontalConv2d, VerticalConv2d

SIZE = (7, 5)


def build(name: str, channels: int, colour: bool = True, features: int = 17, **more: object) -> nn.Module:
    """A small model whose weights are large enough for gradients that cannot be mistaken for zero."""
    torch.manual_seed(0)
    depth = {"pixelcnn": {"blocks": 2}, "gated": {"layers": 3}}[name]
    model = MODELS[name](shape=(channels, *SIZE), levels=3, features=features, colour=colour, **depth, **more).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("pixelcnn", {}),
        ("pixelcnn", {"norm": True, "skips": True, "features": 31}),
        ("pixelcnn", {"residual": "original", "skips": True}),
        ("gated", {}),
        ("gated", {"kernel": 5}),
        ("gated", {"stacks": 1, "kernel": 5}),
    ],
)
def test_model_sees_the_past_only(name: str, more: dict[str, object], channels: int, colour: bool) -> None:
    model = build(name, channels, colour, **more)
    images = torch.randn(3, 1, channels, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = torch.stack([dependencies(model, image) for image in images]).any(0)  # a ReLU may be shut in one of them
    place = torch.arange(seen.shape[0])
    time = place if colour else place // channels
    allowed = time.unsqueeze(0) < time.unsqueeze(1)
    assert not (seen & ~allowed).any()
    # The immediate past of every colour must be seen, or a model that predicts constants would pass.
    pixel = place // channels
    near = allowed & ((pixel.unsqueeze(1) - pixel.unsqueeze(0)).abs() <= 1) & (pixel.unsqueeze(1) % SIZE[1] > 0)
    assert seen[near].all()


def test_gated_model_has_no_blind_spot() -> None:
    image = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    seen = dependencies(build("gated", 1), image)
    place = torch.arange(seen.shape[0])
    row, col = place // SIZE[1], place % SIZE[1]
    above = (row.unsqueeze(0) < row.unsqueeze(1)) & (row.unsqueeze(1) - row.unsqueeze(0) <= 3)
    assert seen[above].all()
    assert not seen[(row.unsqueeze(0) == row.unsqueeze(1)) & (col.unsqueeze(0) >= col.unsqueeze(1))].any()


def test_single_stack_has_the_blind_spot_of_its_kernels() -> None:
    """By hand, on a 7x9 image: for each row up the first layer reaches 3 columns to the right at most, a 3x3 layer 1."""
    torch.manual_seed(0)
    model = GatedPixelCNN((1, 7, 9), levels=3, features=17, layers=1, stacks=1).double().eval()
    seen = dependencies(model, torch.randn(1, 1, 7, 9, dtype=torch.float64))[4 * 9 + 3].view(7, 9)  # of the pixel (4, 3)
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[4, :3] = True  # 3 + 1 columns to the left would reach out of the image
    for up, right in ((1, 3), (2, 4), (3, 4), (4, 4)):
        expected[4 - up, : 3 + right + 1] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("kind", ["classes", "map_channels"])
def test_condition_reaches_a_single_stack(kind: str) -> None:
    model = build("gated", 3, stacks=1, **{kind: 4})
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    conditions = [(torch.tensor([label]), None) for label in (0, 3)]
    if kind == "map_channels":
        conditions = [(None, torch.full((1, 4, *SIZE), value)) for value in (0.0, 1.0)]  # type: ignore[misc]
    one, other = (model(x, *condition) for condition in conditions)
    assert ((one - other).abs().amax((1, 2)) > 0).all()


@pytest.mark.parametrize("name", ["pixelcnn", "gated"])
@pytest.mark.parametrize("levels", [2, 5, 256, 300])
def test_logits_fit_cross_entropy(name: str, levels: int) -> None:
    model = MODELS[name](shape=(3, *SIZE), levels=levels, features=6)
    values = torch.randint(levels, (2, 3, 6, 9))  # another size than the model's own
    logits = model(model.head.encode_images(values))
    assert logits.shape == (2, levels, 3, 6, 9)
    by_hand = -logits.log_softmax(1).gather(1, values.unsqueeze(1)).mean()
    torch.testing.assert_close(F.cross_entropy(logits, values), by_hand)
    assert model.shape == (3, *SIZE)
    assert model.head.levels == levels


@pytest.mark.parametrize("name", ["pixelcnn", "gated"])
def test_config_builds_the_same_model(name: str) -> None:
    model = build(name, 3).float()
    again = MODELS[name](**model.config).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, *SIZE)
    assert torch.equal(model(x), again(x))
    assert again.config == model.config


@pytest.mark.parametrize(("layers", "least"), [(5, 1), (8, 1), (10, 1)])
def test_number_of_blocks(layers: int, least: int) -> None:
    assert len(PixelCNN(blocks=layers, features=8).blocks) == layers
    assert len(GatedPixelCNN(layers=layers, features=8).layers) == layers


def test_published_small_variant() -> None:
    """7x7 mask A with 64 features, blocks 64 -> 32 -> 64 with 7x7 inside (counted by hand for one block)."""
    block = PixelCNN(features=64, blocks=1).blocks[0]
    assert [tuple(c.weight.shape) for c in block.convolutions] == [(32, 64, 1, 1), (32, 32, 7, 7), (64, 32, 1, 1)]
    assert sum(p.numel() for p in block.parameters()) == 64 * 32 + 32 + 32 * 32 * 49 + 32 + 32 * 64 + 64


def test_colour_groups_are_contiguous_and_even() -> None:
    assert torch.bincount(colour_groups(128, 3)).tolist() == [43, 43, 42]
    assert colour_groups(17, 3).tolist() == [0] * 6 + [1] * 6 + [2] * 5
    assert colour_groups(8, 3, repeats=2).tolist() == [0, 0, 1, 2] * 2
    with pytest.raises(InvalidInput, match="every group needs a channel"):
        colour_groups(2, 3)


def test_masks_by_hand() -> None:
    first = MaskedConv2d(3, 3, 3, "A", 3).mask
    assert first[:, :, 0].all()
    assert first[:, :, 1, 0].all()
    assert not first[:, :, 2].any()
    assert not first[:, :, 1, 2].any()
    assert first[:, :, 1, 1].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert MaskedConv2d(3, 3, 3, "B", 3).mask[:, :, 1, 1].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert not MaskedConv2d(3, 3, 3, "A", 1).mask[:, :, 1, 1].any()
    assert MaskedConv2d(3, 3, 3, "B", 1).mask[:, :, 1, 1].all()


@pytest.mark.parametrize("mask", ["A", "B"])
def test_cropped_kernels_equal_full_masked_ones(mask: str) -> None:
    x = torch.randn(2, 4, *SIZE)
    vertical = VerticalConv2d(4, 6, 5, mask)
    full = torch.zeros(6, 4, 5, 5)
    full[:, :, :3] = vertical.weight * vertical.mask
    torch.testing.assert_close(vertical(x), F.conv2d(x, full, vertical.bias, padding=2))
    horizontal = HorizontalConv2d(4, 6, 5, mask)
    full = torch.zeros(6, 4, 1, 5)
    full[..., :3] = horizontal.weight * horizontal.mask
    torch.testing.assert_close(horizontal(x), F.conv2d(x, full, horizontal.bias, padding=(0, 2)))


def test_channel_norm_is_layer_norm_of_each_group() -> None:
    x = torch.randn(2, 7, 3, 4)
    norm = ChannelNorm(7, colours=3)
    nn.init.normal_(norm.weight)
    y = norm(x)
    for part in (slice(0, 3), slice(3, 5), slice(5, 7)):
        centred = x[:, part] - x[:, part].mean(1, keepdim=True)
        expected = centred / (x[:, part].var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(y[:, part], expected * norm.weight[part].view(1, -1, 1, 1))


@pytest.mark.parametrize("kind", ["classes", "vector", "map_channels"])
def test_condition_reaches_every_pixel_and_no_other_image(kind: str) -> None:
    model = build("gated", 3, **{kind: 4})
    x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    one, other = {
        "classes": ((torch.tensor([0, 1]),), (torch.tensor([0, 3]),)),
        "vector": ((torch.ones(2, 4),), (torch.tensor([[1.0] * 4, [0.0] * 4]),)),
        "map_channels": (
            (None, torch.ones(2, 4, *SIZE)),
            (None, torch.ones(2, 4, *SIZE) * torch.ones(2, 1, 1, 1).cumsum(0)),
        ),
    }[kind]
    difference = (model(x, *one) - model(x, *other)).abs().amax((1, 2))  # (2, H, W)
    assert not difference[0].any()
    assert (difference[1] > 0).all()


@pytest.mark.parametrize("kind", ["label", "vector", "map"])
@pytest.mark.parametrize("stack", ["vertical_condition", "horizontal_condition"])
def test_condition_is_in_the_gates_of_each_stack(stack: str, kind: str) -> None:
    """With the other stack's condition switched off, this stack's alone must still change the logits."""
    model = build("gated", 1, **{{"label": "classes", "vector": "vector", "map": "map_channels"}[kind]: 2})
    other = {"vertical_condition": "horizontal_condition", "horizontal_condition": "vertical_condition"}[stack]
    for layer in model.layers:
        nn.init.zeros_(getattr(getattr(layer, other), kind).weight)
    x = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    if kind == "map":
        one, two = model(x, None, torch.zeros(1, 2, *SIZE)), model(x, None, torch.ones(1, 2, *SIZE))
    elif kind == "vector":
        one, two = model(x, torch.zeros(1, 2)), model(x, torch.ones(1, 2))
    else:
        one, two = model(x, torch.tensor([0])), model(x, torch.tensor([1]))
    assert (one - two).abs().max() > 1e-3


def test_map_of_rows_below_is_not_seen() -> None:
    model = build("gated", 1, classes=3, map_channels=2)
    x = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    s = torch.randn(1, 2, *SIZE, dtype=torch.float64, requires_grad=True)
    model(x, torch.tensor([1]), s)[0, :, 0, 2, 2].sum().backward()
    assert s.grad is not None
    assert s.grad[0, :, 2, 2].any()  # the map of the own pixel counts: U s is a 1x1 convolution
    assert not s.grad[0, :, 3:].any()


@pytest.mark.parametrize(
    ("arguments", "label", "field", "message"),
    [
        ({"classes": 3}, None, None, "conditional on a class and got none"),
        ({"classes": 3}, torch.zeros(2), None, r"int64 labels of shape \(2,\).*got torch.float32"),
        ({"classes": 3}, torch.zeros(3, dtype=torch.long), None, r"of shape \(3,\)"),
        ({"classes": 3}, torch.tensor([0, 3]), None, "got labels from 0 to 3"),
        ({"classes": 3}, torch.tensor([-1, 0]), None, "got labels from -1 to 0"),
        ({"vector": 3}, None, None, "conditional on a vector and got none"),
        (
            {"vector": 3},
            torch.zeros(2, 4),
            None,
            r"float vector of shape \(2, 3\), got torch.float32 of shape \(2, 4\)",
        ),
        ({"vector": 3}, torch.zeros(2, 3, dtype=torch.long), None, "got torch.int64"),
        ({}, torch.zeros(2, dtype=torch.long), None, "not conditional on h"),
        ({}, None, torch.zeros(2, 1, *SIZE), "not conditional on a map"),
        ({"map_channels": 2}, None, None, "conditional on a map and got none"),
        ({"map_channels": 2}, None, torch.zeros(2, 2, 7, 6), r"shape \(2, 2, 7, 5\)"),
    ],
)
def test_wrong_conditions(arguments: dict[str, int], label: Tensor, field: Tensor, message: str) -> None:
    model = GatedPixelCNN((1, *SIZE), levels=2, features=4, layers=1, **arguments)
    with pytest.raises(InvalidInput, match=message):
        model(torch.zeros(2, 1, *SIZE), label, field)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pixelcnn", {"shape": (28, 28)}, "three positive integers"),
        ("gated", {"shape": (1, 0, 28)}, "three positive integers"),
        ("pixelcnn", {"levels": 1}, "at least 2 levels"),
        ("pixelcnn", {"blocks": 0}, "blocks must be an integer of at least 1"),
        ("pixelcnn", {"residual": "large"}, "residual must be one of"),
        ("pixelcnn", {"shape": (3, 8, 8), "features": 2}, "every group needs a channel"),
        ("pixelcnn", {"shape": (3, 8, 8), "features": 8, "norm": True}, "a group of one channel"),
        ("gated", {"features": 2.5}, "features must be an integer"),
        ("gated", {"kernel": 4}, "odd, positive integer"),
        ("gated", {"classes": 2, "vector": 3}, "not both"),
        ("gated", {"stacks": 3}, "stacks must be 1"),
    ],
)
def test_wrong_arguments(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MODELS[name](**arguments)


@pytest.mark.parametrize("strict", [False, True])
def test_models_can_be_exported(strict: bool) -> None:
    model = GatedPixelCNN((3, *SIZE), levels=4, features=6, layers=2, classes=3, map_channels=2).eval()
    inputs = (torch.randn(2, 3, *SIZE), torch.tensor([0, 2]), torch.randn(2, 2, *SIZE))
    program = torch.export.export(model, inputs, strict=strict)
    torch.testing.assert_close(program.module()(*inputs), model(*inputs))
