"""PixelRNN: LSTMs over rows or diagonals with residual connections and colour masks.

The state of each pixel is (N, h) numbers, computed once from the features at the pixel and from states of pixels before it:

    o, f, i, g = input-to-state(x) + state-to-state(states before),   gates sigmoid(o, f, i), tanh(g)
    c = f . c_before + i . g,   h = o . tanh(c)

Row LSTM: the states before are k pixels of the row above, and c_before is the one right above. Diagonal BiLSTM: the pixels
above and to the left, c_before to the left; a second LSTM runs from right to left.

Training runs the recurrences here, a row or a diagonal at a time. Traced, these loops would come to thousands of operations,
and flips and skews would hide in which order the pixels come; so while a module is exported, and only then, a layer says what
its recurrence is, by `pixelfast.ops.recurrence.lstm_scan`, and gives the same numbers.

Paper: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016. Letters: N images, C colours,
F features (2h in the paper), K levels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.categorical import Categorical
from ..errors import InvalidInput
from ..ops.recurrence import lstm_scan
from .condition import check_integer
from .masked import HorizontalConv2d, MaskedConv2d, check_kernel
from .pixelcnn import check_shape, split_logits
from .shifted import down_shift

KINDS = ("row", "diagonal")


class RowLSTM(nn.Module):
    """(N, F, H, W) -> (N, h, H, W), row after row, all columns of a row at once.

    A pixel sees a triangle: each row further up, k // 2 columns more to both sides.
    """

    def __init__(self, features: int, hidden: int, kernel: int, colours: int) -> None:
        super().__init__()
        self.input_to_state = HorizontalConv2d(features, 4 * hidden, kernel, "B", colours, repeats=4)
        # All colours of the row above are known: no mask.
        self.state_to_state = nn.Conv1d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gates, kernel = self.input_to_state(x), self.state_to_state.kernel_size[0]
        if torch.compiler.is_exporting():
            offsets = [(-1, tap - kernel // 2) for tap in range(kernel)]
            return lstm_scan(gates, taps_of(self.state_to_state), offsets, (-1, 0))
        return scan(gates, self.state_to_state, 2)


class DiagonalBiLSTM(nn.Module):
    """(N, F, H, W) -> (N, h, H, W), diagonal after diagonal, from the left and from the right: a pixel sees all before it.

    Row i is moved i columns to the right, so that one column of the skewed image holds a diagonal, and the state's own pixel
    above and pixel to the left stand in the column before. From the right, the pixel to the right is in the future; that
    direction's states therefore serve the row below.
    """

    def __init__(self, features: int, hidden: int, colours: int) -> None:
        super().__init__()
        self.input_to_state = nn.ModuleList(
            HorizontalConv2d(features, 4 * hidden, 1, "B", colours, repeats=4) for _ in range(2)
        )
        self.state_to_state = nn.ModuleList(nn.Conv1d(hidden, 4 * hidden, 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        left, right = (gates(x) for gates in self.input_to_state)  # (N, 4h, H, W)
        if torch.compiler.is_exporting():
            from_left, from_right = (
                lstm_scan(gates, taps_of(layer), [(-1, 0), beside], beside)  # type: ignore[arg-type]
                for gates, layer, beside in zip((left, right), self.state_to_state, ((0, -1), (0, 1)), strict=True)
            )
            return from_left + down_shift(from_right)
        from_left = self._scan(left, 0)
        from_right = self._scan(right.flip(3), 1).flip(3)
        return from_left + down_shift(from_right)

    def _scan(self, gates: Tensor, direction: int) -> Tensor:
        layer = self.state_to_state[direction]
        return unskew(scan(skew(gates), lambda state: layer(F.pad(state, (1, 0))), 3))


def taps_of(layer: nn.Conv1d) -> Tensor:
    """The weights (T, h, 4h) of a convolution's T taps, as `lstm_scan` takes them."""
    return layer.weight.permute(2, 1, 0)


def scan(gates: Tensor, state_to_state: object, axis: int) -> Tensor:
    """An LSTM along ``axis`` (2 rows, 3 columns): gates of the input (N, 4h, H, W) -> states (N, h, H, W).

    ``state_to_state`` gives the gates (N, 4h, L) of a line from the states (N, h, L) of the line before. Before the first one
    all is 0.
    """
    assert callable(state_to_state)
    lines = gates.unbind(axis)
    state = torch.zeros_like(lines[0][:, : gates.shape[1] // 4])
    cell, states = state, []
    for line in lines:
        out, forget, take, new = (line + state_to_state(state)).chunk(4, 1)
        cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
        state = out.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states, axis)


def skew(x: Tensor) -> Tensor:
    """Row i moved i columns to the right, 0 around it: (N, F, H, W) -> (N, F, H, H + W - 1)."""
    height, width = x.shape[2:]
    # In lines of H + W the rows begin below each other; in lines one shorter, each begins one further.
    flat = F.pad(x, (0, height)).flatten(2)[..., : height * (height + width - 1)]
    return flat.unflatten(2, (height, height + width - 1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`: (N, F, H, H + W - 1) -> (N, F, H, W)."""
    height, width = x.shape[2], x.shape[3] - x.shape[2] + 1
    return F.pad(x.flatten(2), (0, height)).unflatten(2, (height, height + width))[..., :width]


class Layer(nn.Module):
    """x plus what the LSTM of h = F/2 numbers saw: (N, F, H, W) -> (N, F, H, W)."""

    def __init__(self, features: int, kind: str, kernel: int, colours: int) -> None:
        super().__init__()
        hidden = max(features // 2, colours)
        self.lstm = RowLSTM(features, hidden, kernel, colours) if kind == "row" else DiagonalBiLSTM(features, hidden, colours)
        self.out = MaskedConv2d(hidden, features, 1, "B", colours)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.lstm(x))


class PixelRNN(nn.Module):
    """Logits of every sub-pixel given the sub-pixels before it.

    Args:
        shape: the image's (C, H, W) of training and of default sampling; other H and W work too.
        levels: K, how many values a sub-pixel takes.
        features: F, channels between the layers; the LSTMs have half as many.
        layers: LSTM layers after the first 7x7 convolution (7 for MNIST and 12 for CIFAR-10 in the paper).
        lstm: ``"row"`` or ``"diagonal"``.
        kernel: k of the Row LSTM, odd.
        colour: G is predicted given R, and B given R and G; False predicts all colours from the pixels before only.

    Attributes:
        head: the distribution of a sub-pixel and the encoding of the input, ``Categorical(levels)``.
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> model = pixelfast.models.PixelRNN((1, 7, 5), levels=4, features=8, layers=1, lstm="diagonal")
        >>> pixelfast.sample(model, n=2, seed=0).shape
        torch.Size([2, 1, 7, 5])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        features: int = 32,
        layers: int = 7,
        lstm: Literal["row", "diagonal"] = "row",
        kernel: int = 3,
        colour: bool = True,
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_integer("features", features, 1)
        check_integer("layers", layers, 1)
        check_kernel(kernel)
        if lstm not in KINDS:
            raise InvalidInput(f"lstm must be one of {', '.join(map(repr, KINDS))}, got {lstm!r}")
        self.head = Categorical(levels, encode="symmetric", layout="NKCHW")
        self.config = {
            "shape": list(self.shape), "levels": levels, "features": features, "layers": layers, "lstm": lstm,
            "kernel": kernel, "colour": colour,
        }  # fmt: skip
        channels = self.shape[0]
        colours = channels if colour else 1
        self.first = MaskedConv2d(channels, features, 7, "A", colours)
        self.layers = nn.ModuleList(Layer(features, lstm, kernel, colours) for _ in range(layers))
        self.hidden = MaskedConv2d(features, features, 1, "B", colours)
        self.logits = MaskedConv2d(features, levels * channels, 1, "B", colours)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K, C, H, W) of an encoded image (N, C, H, W)."""
        y = self.first(x)  # (N, F, H, W)
        for layer in self.layers:
            y = layer(y)
        return split_logits(self.logits(F.relu(self.hidden(F.relu(y)))), self.shape[0])
