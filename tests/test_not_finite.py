"""NaN and infinity in weights, outputs and conditions: the error names the layer and the pixel."""

from __future__ import annotations

import pytest
import torch
from foreign import right_shift
from oracle import ENGINES
from small_models import Shifted
from torch import Tensor, nn

import pixelfast
from pixelfast import Bernoulli, Categorical, NumericalError
from pixelfast.models import GatedPixelCNN, PixelCNN

SHAPE = (1, 7, 5)
EVERY = ("naive", *ENGINES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_in_weights_names_the_weight(value: float) -> None:
    torch.manual_seed(0)
    broken = PixelCNN(SHAPE, levels=4, features=8, blocks=1)
    broken.blocks[0].convolutions[1].weight.data[1, 2, 0, 0] = value
    for function in (pixelfast.sample, pixelfast.check):
        with pytest.raises(NumericalError) as caught:
            function(broken)
        assert "'blocks.0.convolutions.1.weight' of PixelCNN holds 1 NaN or infinite values of 784" in str(caught.value)


@pytest.mark.parametrize("engine", EVERY)
def test_nan_in_a_buffer_names_layer_and_pixel(engine: str) -> None:
    module = nn.Sequential(Shifted(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    module[1].running_mean[2] = float("nan")
    with pytest.raises(NumericalError) as caught:
        pixelfast.sample(module, 2, shape=SHAPE, head=Categorical(4), engine=engine)
    assert "image 0, row 0, column 0, channel 0 describe no distribution" in str(caught.value)
    assert "first seen in layer '1' (BatchNorm2d)" in str(caught.value)


class LateNan(nn.Module):
    """NaN as soon as the pixel to the left is 3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.log = nn.Conv2d(1, 4, 1), Log()

    def forward(self, x: Tensor) -> Tensor:
        left = right_shift(x)
        return self.conv(left) + self.log(2.5 - left)


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


@pytest.mark.parametrize("engine", EVERY)
def test_nan_in_logits_names_layer_and_pixel(engine: str) -> None:
    """A 3 is given in the middle of row 4 of the second image; the pixel to its right is the first that is drawn."""
    torch.manual_seed(0)
    given = torch.zeros(2, *SHAPE, dtype=torch.int64)
    given[1, 0, 4, 2], given[:, 0, 4:, 3:] = 3, -1
    with pytest.raises(NumericalError) as caught:
        pixelfast.sample(LateNan(), 2, shape=SHAPE, head=Categorical(4, encode=(1.0, 0.0)), seed=0, given=given, engine=engine)
    assert "the parameters of image 1, row 4, column 3, channel 0 describe no distribution" in str(caught.value)
    assert "first seen in layer 'log' (Log)" in str(caught.value)


@pytest.mark.parametrize("engine", EVERY)
def test_infinite_logits(engine: str) -> None:
    """+infinity and nothing but -infinity are refused; -infinity means that a value never comes."""
    for bad in (torch.tensor([0.0, torch.inf, 0.0, 0.0]), torch.full((4,), -torch.inf)):
        with pytest.raises(NumericalError, match="describe no distribution"):
            pixelfast.sample(Shifted(lambda y, b=bad: y + b.view(4, 1, 1)), 2, shape=SHAPE, head=Categorical(4), engine=engine)
    never = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf]).view(4, 1, 1)
    images = pixelfast.sample(Shifted(lambda y: y + never), 8, shape=SHAPE, head=Categorical(4), engine=engine, seed=0)
    assert set(images.unique().tolist()) == {0, 2}


@pytest.mark.parametrize("engine", ENGINES)
def test_probabilities_outside_of_0_and_1(engine: str) -> None:
    module = Shifted(lambda y: y * 0 + 1.5, outputs=1)
    with pytest.raises(NumericalError, match="describe no distribution"):
        pixelfast.sample(module, 2, shape=SHAPE, head=Bernoulli(probability=True), engine=engine)


@pytest.mark.parametrize("engine", EVERY)
def test_nan_in_conditions(engine: str) -> None:
    model = GatedPixelCNN(SHAPE, levels=4, features=6, layers=1, vector=3)
    sampler = pixelfast.compile(model, cond=torch.zeros(1, 3), engine=engine)
    with pytest.raises(NumericalError, match=r"in what layer 'layers\.0\.vertical_condition\.vector' \(Linear\) is given"):
        sampler.sample(2, cond=torch.full((2, 3), torch.nan))
