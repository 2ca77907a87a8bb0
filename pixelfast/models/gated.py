"""Gated PixelCNN: a vertical and a horizontal stack without blind spot, conditional on a label, a vector or a map.

The vertical stack sees the rows above a pixel, the horizontal stack what lies to its left, and the first feeds the
second in every layer. Each layer computes, with h a vector, s a map, and * the stack's masked convolution,

    y = tanh(W_f * x + V_f^T h + U_f * s) . sigmoid(W_g * x + V_g^T h + U_g * s)

With one stack instead, each layer has one masked k x k convolution, and part of what lies above and to the right is never seen:
the blind spot that the two stacks were made for.

Paper: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional image generation with PixelCNN
decoders", NeurIPS 2016. Letters: N images, C colours, F features, K levels, D and M the sizes of vector and map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.categorical import Categorical
from ..errors import InvalidInput
from ..kernels.gated_conv import Taps, gated_conv, interpreted
from .condition import Condition, Wanted, check_integer
from .masked import HorizontalConv2d, MaskedConv2d, VerticalConv2d
from .pixelcnn import check_shape, split_logits


class GatedLayer(nn.Module):
    """One layer of both stacks: (N, F, H, W) twice -> (N, F, H, W) twice; the horizontal stack has a residual."""

    def __init__(self, features: int, kernel: int, colours: int, classes: int, vector: int, map_channels: int) -> None:
        super().__init__()
        self.vertical = VerticalConv2d(features, 2 * features, kernel, "B")
        self.horizontal = HorizontalConv2d(features, 2 * features, kernel, "B", colours, repeats=2)
        # The vertical stack knows rows above only, so every colour group may see all of it.
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.out = MaskedConv2d(features, features, 1, "B", colours)
        self.vertical_condition = Condition(features, classes, vector, map_channels)
        self.horizontal_condition = Condition(features, classes, vector, map_channels)
        self.fused: tuple[Taps, ...] | None = None  # by fused kernels on CUDA: see fuse_gates

    def forward(self, v: Tensor, h: Tensor, label: Tensor | None, field: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.fused is not None and runs_fused(v):
            return self._fused(self.fused, v, h, label, field)
        above = self.vertical(v)  # (N, 2F, H, W)
        left = self.horizontal(h) + self.link(above)  # (N, 2F, H, W)
        v = gate(self.vertical_condition(above, label, field))
        return v, h + self.out(gate(self.horizontal_condition(left, label, field)))

    def _fused(
        self, taps: tuple[Taps, ...], v: Tensor, h: Tensor, label: Tensor | None, field: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same by fused kernels."""
        vertical, horizontal = self.vertical, self.horizontal
        vector, map = self.vertical_condition.parts(label, field)  # (N, 2F), (N, 2F, H, W)
        v, above = gated_conv(v, vertical.weight * vertical.mask, taps[0], vertical.bias, vector, map)
        vector, map = self.horizontal_condition.parts(label, field)
        linked = self.link(above) if map is None else self.link(above) + map
        gated, _ = gated_conv(h, horizontal.weight * horizontal.mask, taps[1], horizontal.bias, vector, linked)
        return v, h + self.out(gated)


class SingleLayer(nn.Module):
    """One layer of a single stack, whose masked convolutions leave a blind spot: (N, F, H, W) -> (N, F, H, W)."""

    def __init__(self, features: int, kernel: int, colours: int, classes: int, vector: int, map_channels: int) -> None:
        super().__init__()
        self.seen = MaskedConv2d(features, 2 * features, kernel, "B", colours, repeats=2)
        self.out = MaskedConv2d(features, features, 1, "B", colours)
        self.condition = Condition(features, classes, vector, map_channels)
        self.fused: tuple[Taps, ...] | None = None  # by a fused kernel on CUDA: see fuse_gates

    def forward(self, x: Tensor, label: Tensor | None, field: Tensor | None) -> Tensor:
        if self.fused is not None and runs_fused(x):
            return self._fused(self.fused, x, label, field)
        return x + self.out(gate(self.condition(self.seen(x), label, field)))

    def _fused(self, taps: tuple[Taps, ...], x: Tensor, label: Tensor | None, field: Tensor | None) -> Tensor:
        """The same by a fused kernel."""
        vector, map = self.condition.parts(label, field)
        gated, _ = gated_conv(x, self.seen.weight * self.seen.mask, taps[0], self.seen.bias, vector, map)
        return x + self.out(gated)


def gate(x: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second: (N, 2F, H, W) -> (N, F, H, W)."""
    signal, valve = x.chunk(2, 1)
    return signal.tanh() * valve.sigmoid()


def runs_fused(x: Tensor) -> bool:
    """Whether x is where the fused kernels run; a trace wants PyTorch's own operations."""
    return (x.is_cuda or interpreted()) and not torch.compiler.is_compiling()


class GatedPixelCNN(nn.Module):
    """Logits of every sub-pixel given the sub-pixels before it.

    Args:
        shape: the image's (C, H, W) of training and of default sampling; other H and W work too.
        levels: K, how many values a sub-pixel takes.
        features: F, channels of each stack.
        layers: gated layers after the first 7x7 convolution.
        kernel: width of the gated layers' convolutions, odd.
        colour: G is predicted given R, and B given R and G; False predicts all colours from the pixels before only.
        stacks: 2, vertical and horizontal; or 1, a single stack with a blind spot.
        classes: number of labels to condition on: ``forward`` then needs h, int64 (N,).
        vector: size D of a vector to condition on: ``forward`` then needs h, float (N, D). One of the two at most.
        map_channels: channels M of a spatial map to condition on: ``forward`` then needs s, float (N, M, H, W).

    Attributes:
        head: the distribution of a sub-pixel and the encoding of the input, ``Categorical(levels)``.
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> model = pixelfast.models.GatedPixelCNN((1, 7, 5), levels=4, features=8, layers=1, classes=10)
        >>> pixelfast.sample(model, n=2, seed=0, cond=torch.tensor([3, 8])).shape
        torch.Size([2, 1, 7, 5])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        features: int = 64,
        layers: int = 8,
        kernel: int = 3,
        colour: bool = True,
        classes: int = 0,
        vector: int = 0,
        map_channels: int = 0,
        stacks: int = 2,
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        check_integer("features", features, 1)
        check_integer("layers", layers, 1)
        if isinstance(stacks, bool) or stacks not in (1, 2):
            raise InvalidInput(f"stacks must be 1 (with a blind spot) or 2, got {stacks!r}")
        self.wanted = Wanted(classes, vector, map_channels)
        self.head = Categorical(levels, encode="symmetric")
        self.classes, self.vector, self.map_channels = classes, vector, map_channels
        self.config = {
            "shape": list(self.shape), "levels": levels, "features": features, "layers": layers, "kernel": kernel,
            "colour": colour, "classes": classes, "vector": vector, "map_channels": map_channels,
            "stacks": stacks,
        }  # fmt: skip
        channels = self.shape[0]
        colours = channels if colour else 1
        self.stacks = stacks
        if stacks == 1:
            self.first = MaskedConv2d(channels, features, 7, "A", colours)
        else:
            self.first_vertical = VerticalConv2d(channels, features, 7, "A")
            self.first_horizontal = HorizontalConv2d(channels, features, 7, "A", colours)
        layer = SingleLayer if stacks == 1 else GatedLayer
        self.layers = nn.ModuleList(layer(features, kernel, colours, classes, vector, map_channels) for _ in range(layers))
        self.hidden = MaskedConv2d(features, features, 1, "B", colours)
        self.logits = MaskedConv2d(features, levels * channels, 1, "B", colours)

    def forward(self, x: Tensor, h: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Logits (N, K, C, H, W) of an encoded image (N, C, H, W), label (N,) or vector (N, D), and map (N, M, H, W).

        Raises:
            InvalidInput: a condition is missing, not wanted, or has the wrong type, shape or range.
        """
        h, s = self.wanted.check(x, h, s)
        y = self._one_stack(x, h, s) if self.stacks == 1 else self._two_stacks(x, h, s)  # (N, F, H, W)
        return split_logits(self.logits(F.relu(self.hidden(F.relu(y)))), self.shape[0])

    def _two_stacks(self, x: Tensor, h: Tensor | None, s: Tensor | None) -> Tensor:
        vertical, horizontal = self.first_vertical(x), self.first_horizontal(x)  # (N, F, H, W) each
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, h, s)
        return horizontal

    def _one_stack(self, x: Tensor, h: Tensor | None, s: Tensor | None) -> Tensor:
        y = self.first(x)
        for layer in self.layers:
            y = layer(y, h, s)
        return y
