"""Which foreign module covers which idiom and which operation of published models: none may be without one.

The rows are the habits that we have met in published code, and the operations that two or more of 29 published architectures
need on what depends on the image. `test_foreign.py` takes each of these modules through all engines.
"""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from foreign import GREY, DataMasked
from foreign_models import FOREIGN
from torch import Tensor, nn

import pixelfast
from pixelfast import Bernoulli, Categorical, MixtureOfLogistics, NotAutoregressive
from pixelfast.inputs.conditions import Conditions
from pixelfast.trace.capture import call, capture, frozen_copy
from pixelfast.trace.output import OutputLayout

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

ENCODINGS: dict[str, tuple[str, tuple[float, ...]]] = {
    "{0, 1}": ("BinaryLogits", (0, 1)),
    "{-1, 1}": ("Spins", (-1, 1)),
    "k/255": ("TensorsOfBytes", tuple(k / 255 for k in range(256))),
    "k/(K-1)": ("DataMasks", (0, 1 / 3, 2 / 3, 1)),
    "k/256": ("QuantisedBytes", tuple(k / 256 for k in range(256))),
    "2k/(K-1)-1": ("LazyBuffers", (-1, -1 / 3, 1 / 3, 1)),
    "raw 0..K-1": ("RawBytes", tuple(range(256))),
    "integers": ("OneHotInput", (0, 1, 2, 3)),
    "a table": ("CachedMasks", (0.0, 0.1, 0.4, 0.9, 1.6)),
}
"""What the first channel of the image is fed as."""

OUTPUTS: dict[str, tuple[str, str]] = {
    "(N, K, C, H, W)": ("RawBytes", "NKCHW"),
    "(N, C, H, W, K)": ("ContiguousThirds", "NCHWK"),
    "(N, K*C, H, W)": ("ShiftedStreams", "N(KC)HW"),
    "(N, C*K, H, W)": ("NormalisedOutside", "N(CK)HW"),
    "(N, K, H, W)": ("DataMasks", "NKHW"),
    "(N, 1, H, W), a logit": ("Spins", "NCHW"),
    "(N, 1, H, W), a probability": ("ValidAfterOnePad", "NCHW"),
    "log-probabilities": ("DilatedText", "NHWK"),
    "rows (N*H*W, C*K)": ("RowsOut", "(NHW)(CK)"),
    "a tuple whose first item counts": ("GreyMixture", "NHWK"),
    "a mixture, colour-major": ("ColourMajorMixture", "NKHW"),
    "a mixture, mixture-major, in rows": ("MixtureMajorRows", "(NHW)K"),
}
"""The layout that reads the same numbers."""

HABITS: dict[str, str] = {
    "normalised outside of the model": "NormalisedOutside",
    "embedded values": "EmbeddedColours",
    "floats that are made integers again": "BackToIntegers",
    "label integers": "KeywordLabels",
    "one-hot floats": "CoarseCodes",
    "a label image": "LabelImage",
    "lower-resolution codes": "CoarseCodes",
    "encoder outputs": "GivenByAnEncoder",
    "masks as arguments": "Spins",
    "contiguous thirds": "ContiguousThirds",
    "interleaved i::3": "InterleavedColours",
    "masks written through .data": "DataMasks",
    "masks written in place": "WeightsWrittenInPlace",
    "masks from a cache": "CachedMasks",
    "masks made when first called": "LazyBuffers",
    "masks put on by a hook": "RoundedOneHot",
    "weight norm, old": "ShiftedStreams",
    "weight norm, new": "ParametrizedNorm",
    "an overridden __call__": "OwnCall",
}

OPERATIONS: dict[str, tuple[str, str]] = {
    "convolution": ("convolution", "DataMasks"),
    "add": ("add", "ShiftedStreams"),
    "mul": ("mul", "CroppedStacks"),
    "sigmoid": ("sigmoid", "CroppedStacks"),
    "view": ("view", "ShiftedStreams"),
    "relu": ("relu", "DataMasks"),
    "permute": ("permute", "ShiftedStreams"),
    "split": ("split_with_sizes", "CroppedStacks"),
    "slice": ("slice", "RolledAndAssigned"),
    "cat": ("cat", "DilatedText"),
    "clone": ("clone", "ContiguousThirds"),
    "tanh": ("tanh", "CroppedStacks"),
    "elu": ("elu", "QuantisedBytes"),
    "pad": ("constant_pad_nd", "ConstantPad"),
    "div": ("div", "TensorsOfBytes"),
    "expand": ("expand", "GreyMixture"),
    "batch norm in eval mode": ("native_batch_norm", "DataMasks"),
    "bmm": ("bmm", "MixedChannels"),
    "unsqueeze": ("unsqueeze", "CroppedStacks"),
    "where": ("where", "TensorsOfBytes"),
    "softmax": ("_softmax", "MixedChannels"),
    "sub": ("sub", "TensorsOfBytes"),
    "neg": ("neg", "TensorsOfBytes"),
    "to_copy": ("_to_copy", "QuantisedBytes"),
    "addmm": ("addmm", "RowsOut"),
    "eq": ("eq", "QuantisedBytes"),
    "slice_scatter": ("slice_scatter", "GivenByAnEncoder"),
    "layer_norm": ("native_layer_norm", "DilatedText"),
    "select": ("select", "EmbeddedColours"),
    "copy": ("copy", "GivenByAnEncoder"),
    "transposed convolution": ("transposed convolution", "StridedAndTransposed"),
}
"""The ATen name, and a module that has it on what depends on the image."""


def built(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return frozen_copy(FOREIGN[name].build())


@cache
def operations_of(name: str) -> frozenset[str]:
    """ATen names of a module's operations on what depends on the image."""
    foreign = FOREIGN[name]
    captured = capture(built(name), foreign.shape, foreign.head, Conditions.parse(foreign.cond(2)))
    dependent, result = set(), set()
    for node in captured.graph.nodes:
        if node.name == captured.image or any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
            if isinstance(node.target, torch._ops.OpOverload):
                operation = node.target.overloadpacket.__name__
                transposed = operation == "convolution" and bool(node.args[6])
                result.add("transposed convolution" if transposed else operation)
    return frozenset(result)


def output_of(name: str) -> Tensor:
    """What a module gives for two blank images."""
    foreign = FOREIGN[name]
    blank = foreign.head.encode_images(torch.zeros(2, *foreign.shape, dtype=torch.int64))
    return call(built(name), blank, Conditions.parse(foreign.cond(2)))


@pytest.mark.parametrize("idiom", ENCODINGS)
def test_encodings(idiom: str) -> None:
    name, numbers = ENCODINGS[idiom]
    foreign = FOREIGN[name]
    torch.testing.assert_close(foreign.head.table(foreign.shape)[0].double(), torch.tensor(numbers, dtype=torch.float64))
    assert foreign.head.table(foreign.shape).is_floating_point() == (idiom != "integers")


@pytest.mark.parametrize("idiom", OUTPUTS)
def test_outputs(idiom: str) -> None:
    """The module's own output has the shape that the row names."""
    name, layout = OUTPUTS[idiom]
    foreign = FOREIGN[name]
    channels, height, width = foreign.shape
    sizes = {"N": 2, "K": foreign.head.parameters, "C": channels, "H": height, "W": width}
    expected, inside = [], False
    for letter in layout:
        if letter in "()":
            inside = letter == "("
            expected += [1] * inside
        elif inside:
            expected[-1] *= sizes[letter]
        else:
            expected.append(sizes[letter])
    assert tuple(output_of(name).shape) == tuple(expected)


def test_outputs_mean_what_their_rows_say() -> None:
    heads = {idiom: FOREIGN[name].head for idiom, (name, _) in OUTPUTS.items()}
    logit, probability = (heads[f"(N, 1, H, W), a {what}"] for what in ("logit", "probability"))
    assert isinstance(logit, Bernoulli)
    assert not logit.probability
    assert isinstance(probability, Bernoulli)
    assert probability.probability
    for order in ("colour-major", "mixture-major"):
        head = next(head for idiom, head in heads.items() if order in idiom)
        assert isinstance(head, MixtureOfLogistics)
        assert (head.parameter_layout, head.channels) == (order, 3)
    torch.testing.assert_close(output_of("DilatedText").exp().sum(-1), torch.ones(2, 7, 5))


@pytest.mark.parametrize("idiom", HABITS)
def test_habits(idiom: str) -> None:
    assert HABITS[idiom] in FOREIGN


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations(operation: str) -> None:
    wanted, name = OPERATIONS[operation]
    if name == "StridedAndTransposed" and name not in FOREIGN:
        pytest.xfail("modules with strides stand in a file of their own")
    assert wanted in operations_of(name)


def test_at_least_fifteen() -> None:
    named = {name for table in (ENCODINGS, OUTPUTS) for name, _ in table.values()}
    named |= {*HABITS.values(), *(name for _, name in OPERATIONS.values())}
    assert len(named) >= 15


@pytest.mark.parametrize("name", sorted({name for name, _ in OUTPUTS.values()}))
def test_what_stands_in_pixels_that_are_not_drawn_is_of_no_matter(name: str) -> None:
    """Zeros, -1 or noise, of embeddings any value: the parameters of what is drawn next are the same."""
    foreign, module = FOREIGN[name], built(name)
    generator = torch.Generator().manual_seed(0)
    drawn = foreign.head.encode_images(torch.randint(foreign.head.levels, (2, *foreign.shape), generator=generator))
    known = torch.arange(35).view(7, 5) < 17  # the pixel (3, 2) comes next
    found = []
    noise = torch.rand(drawn.shape, generator=generator) * foreign.head.levels
    ones = -torch.ones_like(drawn) if drawn.is_floating_point() else torch.ones_like(drawn)
    for unset in (torch.zeros_like(drawn), ones, noise.to(drawn.dtype)):
        output = call(module, torch.where(known, drawn, unset), Conditions.parse(foreign.cond(2)))
        found.append(read(output, foreign.shape, OUTPUTS[name_of_row(name)][1]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def name_of_row(name: str) -> str:
    return next(idiom for idiom, (module, _) in OUTPUTS.items() if module == name)


def read(output: Tensor, shape: tuple[int, int, int], layout: str) -> Tensor:
    """The parameters of the next sub-pixel, in the module's own layout: channel 0 at pixel (3, 2)."""
    channels, height, width = shape
    parameters = output.numel() // (2 * height * width * (channels if "C" in layout else 1))
    return OutputLayout(layout, channels, height, width, parameters).read(output, 2)[:, 3, 2, 0]


# Leaks that published code has.


class RowBelow(nn.Module):
    """The mask of the second layer ends a row too late: one row below is open."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataMasked("A", 1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.second.weight[:, :, 1, 2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.second(torch.relu(self.first(x)))))


class WidthWithChannels(nn.Module):
    """Rows for a linear layer, by a view without a permutation: each row holds columns of a few features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = DataMasked("A", 1, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.second(h.view(len(x), 7, 5, 6)).permute(0, 3, 1, 2)


def test_a_row_below_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.compile(RowBelow(), GREY, Categorical(4))
    assert caught.value.layer == "second"
    assert caught.value.offset >= (0, 0)
    assert "convolution_1" in str(caught.value)


def test_a_view_that_mixes_width_and_channels_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.compile(WidthWithChannels(), GREY, Categorical(4))
    assert caught.value.layer == "second"
    assert caught.value.offset >= (0, 0)
