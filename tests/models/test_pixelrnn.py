"""PixelRNN: both recurrences by hand, what they see, colours, learning, the usual loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from causal import assert_causal, dependencies, randomise
from torch import Tensor

import pixelfast
from learning import digits, emoji, falls
from pixelfast.errors import InvalidInput
from pixelfast.models import PixelRNN
from pixelfast.models.pixelrnn import DiagonalBiLSTM, RowLSTM, skew, unskew

SIZE = (7, 5)
KINDS = ["row", "diagonal"]


def small(channels: int = 1, **more: object) -> PixelRNN:
    torch.manual_seed(0)
    return PixelRNN((channels, *SIZE), **({"levels": 4, "features": 18, "layers": 2} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lstm", KINDS)
def test_sees_the_past_only(lstm: str, channels: int, colour: bool) -> None:
    model = randomise(small(channels, lstm=lstm, colour=colour))
    images = torch.randn(5, 1, channels, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = torch.stack([dependencies(model, image) for image in images]).any(0)  # a ReLU may be shut in one of them
    assert_causal(seen, channels, per_pixel=not colour or channels == 1, width=SIZE[1])


def places() -> tuple[Tensor, Tensor]:
    """Row and column of the 35 pixels of an image, in the order of drawing."""
    place = torch.arange(SIZE[0] * SIZE[1])
    return place // SIZE[1], place % SIZE[1]


def test_diagonal_layers_see_everything_before() -> None:
    """Without a first convolution: own pixel, all to its left, all rows above, and nothing else."""
    layer = randomise(DiagonalBiLSTM(3, 4, 1), std=1.0)
    seen = dependencies(lambda x: layer(x), torch.randn(1, 3, *SIZE, dtype=torch.float64)).view(35, 35, 3)
    row, col = places()
    above, left = row < row.unsqueeze(1), (row == row.unsqueeze(1)) & (col <= col.unsqueeze(1))
    assert torch.equal(seen.any(-1), above | left)


def test_row_layers_see_a_triangle_and_their_own_row_to_the_left() -> None:
    layer = randomise(RowLSTM(3, 4, 3, 1), std=1.0)
    seen = dependencies(lambda x: layer(x), torch.randn(1, 3, *SIZE, dtype=torch.float64)).view(35, 35, 3)
    row, col = places()
    up, right = row.unsqueeze(1) - row, col - col.unsqueeze(1)
    # Each row up reaches a column further; the input-to-state adds one to the left.
    assert torch.equal(seen.any(-1), (up >= 0) & (right <= up) & (right >= -up - 1))


def lstm_by_hand(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    out, forget, take, new = gates.reshape(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


@torch.no_grad()
def test_row_lstm_by_hand() -> None:
    torch.manual_seed(0)
    layer = RowLSTM(2, 3, 3, 1)
    x = torch.randn(1, 2, *SIZE)
    gates, weight = layer.input_to_state(x)[0], layer.state_to_state.weight  # (12, H, W), (12, 3, 3)
    states, cells = torch.zeros(2, SIZE[0] + 1, SIZE[1] + 2, 3).unbind()  # a row above, a column at either side
    for row in range(SIZE[0]):
        for col in range(SIZE[1]):
            before = states[row, col : col + 3]  # (3 columns, h)
            total = gates[:, row, col] + torch.einsum("ohk,kh->o", weight, before)
            states[row + 1, col + 1], cells[row + 1, col + 1] = lstm_by_hand(total, cells[row, col + 1])
    torch.testing.assert_close(layer(x)[0].permute(1, 2, 0), states[1:, 1:-1])


@torch.no_grad()
def test_diagonal_lstm_by_hand() -> None:
    torch.manual_seed(0)
    layer = DiagonalBiLSTM(2, 3, 1)
    x = torch.randn(1, 2, *SIZE)
    found = torch.zeros(*SIZE, 3)
    for direction, step in enumerate((1, -1)):
        gates, weight = layer.input_to_state[direction](x)[0], layer.state_to_state[direction].weight  # (12, 3, 2)
        states, cells = torch.zeros(2, SIZE[0] + 1, SIZE[1] + 2, 3).unbind()
        for row in range(SIZE[0]):
            for col in list(range(SIZE[1]))[::step]:
                above, beside = states[row, col + 1], states[row + 1, col + 1 - step]
                total = gates[:, row, col] + weight[:, :, 0] @ above + weight[:, :, 1] @ beside
                states[row + 1, col + 1], cells[row + 1, col + 1] = lstm_by_hand(total, cells[row + 1, col + 1 - step])
        found += states[1:, 1:-1] if step == 1 else states[:-1, 1:-1]
    torch.testing.assert_close(layer(x)[0].permute(1, 2, 0), found)


def test_skewed_rows_stand_on_diagonals() -> None:
    x = torch.arange(1, 36).view(1, 1, *SIZE)
    skewed = skew(x)
    assert skewed.shape == (1, 1, 7, 11)
    assert skewed[0, 0, 2].tolist() == [0, 0, 11, 12, 13, 14, 15, 0, 0, 0, 0]
    assert torch.equal(unskew(skewed), x)


@pytest.mark.parametrize("pixels", [digits, emoji])
@pytest.mark.parametrize("lstm", KINDS)
def test_learns(lstm: str, pixels: object, tmp_path: Path) -> None:
    images, _, levels = pixels(9, 7)  # type: ignore[operator]
    torch.manual_seed(0)
    model = PixelRNN(tuple(images.shape[1:]), levels, features=18, layers=1, lstm=lstm)  # type: ignore[arg-type]
    falls(model, images, None, tmp_path, lr=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lstm", KINDS)
def test_sampled_by_the_usual_loop(lstm: str, channels: int) -> None:
    sampler = pixelfast.compile(small(channels, lstm=lstm), (channels, 5, 4), engine="naive")
    images = sampler.sample(3, seed=0)
    assert sampler.verify(images, seed=0).ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lstm": "column"}, "lstm must be one of 'row', 'diagonal'"),
        ({"layers": 0}, "layers must be an integer of at least 1"),
        ({"kernel": 2}, "odd, positive integer"),
        ({"shape": (3, 8, 8), "features": 2}, "every group needs a channel"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PixelRNN(**arguments)  # type: ignore[arg-type]
