"""Models as other people write them, at the sizes that they publish: nothing here knows pixelfast.

Each follows the habits of a kind of published code (masks in buffers or written through `.data`, stacks by pad and crop,
embedded codes, one number out); weights are random. Letters: N images, C channels, H rows, W columns, K levels, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DataMaskedConv2d(nn.Conv2d):
    """A convolution whose forward writes the mask into the weight."""

    mask: Tensor

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, kernel // 2, kernel // 2 + (kind == "B") :] = 0
        self.mask[:, :, kernel // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class PlainStack(nn.Module):
    """Eight 7x7 convolutions of 64 features with batch normalisation, as in the short PixelCNN scripts for MNIST."""

    def __init__(self, features: int = 64, layers: int = 8, levels: int = 256) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for layer in range(layers):
            kind, inputs = ("B", features) if layer else ("A", 1)
            steps += [DataMaskedConv2d(kind, inputs, features, 7, bias=False), nn.BatchNorm2d(features), nn.ReLU(True)]
        self.net = nn.Sequential(*steps, nn.Conv2d(features, levels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) in 0 .. 1 -> logits (N, K, H, W)."""
        return self.net(x)


class StackConv2d(nn.Conv2d):
    """A masked convolution that multiplies weight and mask, with dilation; the mask comes from outside."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, mask: Tensor, dilation: int = 1) -> None:
        rows, cols = mask.shape
        padding = (dilation * (rows - 1) // 2, dilation * (cols - 1) // 2)
        super().__init__(inputs, outputs, (rows, cols), padding=padding, dilation=dilation)
        self.register_buffer("mask", mask[None, None])

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class DilatedGate(nn.Module):
    """A gated layer of a vertical and a horizontal stack: (N, F, H, W) twice -> the same."""

    def __init__(self, features: int, dilation: int) -> None:
        super().__init__()
        self.vertical = StackConv2d(features, 2 * features, above(3, own_row=True), dilation)
        self.horizontal = StackConv2d(features, 2 * features, left(3, own_pixel=True), dilation)
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        vertical = self.vertical(v)
        value, gate = vertical.chunk(2, dim=1)
        horizontal = self.horizontal(h) + self.link(vertical)
        h_value, h_gate = horizontal.chunk(2, dim=1)
        return torch.tanh(value) * torch.sigmoid(gate), self.out(torch.tanh(h_value) * torch.sigmoid(h_gate)) + h


class DilatedGated(nn.Module):
    """Gated layers with dilations 1, 2, 1, 4, 1, 2, 1 and 64 features, as tutorials teach it on MNIST."""

    def __init__(self, features: int = 64, dilations: tuple[int, ...] = (1, 2, 1, 4, 1, 2, 1), levels: int = 256) -> None:
        super().__init__()
        self.levels = levels
        self.vertical = StackConv2d(1, features, above(5, own_row=False))
        self.horizontal = StackConv2d(1, features, left(5, own_pixel=False))
        self.layers = nn.ModuleList(DilatedGate(features, dilation) for dilation in dilations)
        self.out = nn.Conv2d(features, levels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Values 0 .. K-1 as floats (N, 1, H, W) -> logits (N, K, 1, H, W)."""
        x = x / (self.levels - 1) * 2 - 1
        v, h = self.vertical(x), self.horizontal(x)
        for layer in self.layers:
            v, h = layer(v, h)
        out = self.out(F.elu(h))
        return out.reshape(out.shape[0], self.levels, out.shape[1] // self.levels, out.shape[2], out.shape[3])


def above(size: int, own_row: bool) -> Tensor:
    """A square mask that sees the rows above, and the own row if asked."""
    mask = torch.ones(size, size)
    mask[size // 2 + own_row :] = 0
    return mask


def left(size: int, own_pixel: bool) -> Tensor:
    """A mask of one row that sees what lies to the left, and the own pixel if asked."""
    mask = torch.ones(1, size)
    mask[:, size // 2 + own_pixel :] = 0
    return mask


class CodeLayer(nn.Module):
    """A gated layer with a label's bias; its convolutions are padded on both sides and cropped: (N, F, H, W) twice."""

    def __init__(self, features: int, kernel: int, residual: bool, classes: int) -> None:
        super().__init__()
        self.kernel, self.residual = kernel, residual
        self.label = nn.Embedding(classes, 2 * features)
        self.vertical = nn.Conv2d(features, 2 * features, (kernel // 2 + 1, kernel), padding=(kernel // 2, kernel // 2))
        self.horizontal = nn.Conv2d(features, 2 * features, (1, kernel // 2 + 1), padding=(0, kernel // 2))
        self.link, self.out = nn.Conv2d(2 * features, 2 * features, 1), nn.Conv2d(features, features, 1)

    def hide(self) -> None:
        """Mask A: neither the own row above nor the own pixel is seen."""
        self.vertical.weight.data[:, :, -1].zero_()
        self.horizontal.weight.data[:, :, :, -1].zero_()

    def forward(self, v: Tensor, h: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if not self.residual:
            self.hide()
        bias = self.label(label)[:, :, None, None]
        vertical = self.vertical(v)[:, :, : v.size(2), :]
        horizontal = self.horizontal(h)[:, :, :, : h.size(3)] + self.link(vertical) + bias
        x, y = (vertical + bias).chunk(2, dim=1)
        value, gate = horizontal.chunk(2, dim=1)
        out = self.out(torch.tanh(value) * torch.sigmoid(gate))
        return torch.tanh(x) * torch.sigmoid(y), out + h if self.residual else out


class CodePrior(nn.Module):
    """A prior over VQ-VAE codes: an embedding, 15 gated layers of 64 features, a label in each, 512 codes."""

    def __init__(self, codes: int = 512, features: int = 64, layers: int = 15, classes: int = 10) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, features)
        self.layers = nn.ModuleList(CodeLayer(features, 3 if i else 7, i > 0, classes) for i in range(layers))
        self.out = nn.Sequential(nn.Conv2d(features, 512, 1), nn.ReLU(True), nn.Conv2d(512, codes, 1))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Codes (N, 1, H, W) or (N, H, W) and labels (N,) -> logits (N, K, H, W)."""
        x = self.embedding(x.reshape(-1, *x.shape[-2:])).permute(0, 3, 1, 2)
        v, h = x, x
        for layer in self.layers:
            v, h = layer(v, h, label)
        return self.out(h)


class LatticeNet(nn.Module):
    """Masked convolutions over a lattice of spins, one number for each site: a variational autoregressive network.

    The kernel has `rows` rows, the last of which is the own one; ReLU between the layers. It is the network of NetKet's
    ARNNConv2D with the difference of that one's two outputs as the logit.
    """

    def __init__(self, layers: int = 4, features: int = 32, rows: int = 3, cols: int = 5) -> None:
        super().__init__()
        widths = [1, *[features] * (layers - 1), 1]
        self.rows, self.cols = rows, cols
        self.convolutions = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], (rows, cols)) for i in range(layers))
        for i, mask in enumerate(self.masks()):
            self.register_buffer(f"mask{i}", mask, persistent=False)

    def masks(self) -> list[Tensor]:
        """A mask (rows, cols) for each layer: the first one does not see its own site."""
        result = [torch.ones(self.rows, self.cols) for _ in self.convolutions]
        for i, mask in enumerate(result):
            mask[-1, self.cols // 2 + (i > 0) :] = 0
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Spins -1 or 1 (N, 1, H, W) -> the logit of 1 (N, 1, H, W)."""
        for i, convolution in enumerate(self.convolutions):
            assert isinstance(convolution, nn.Conv2d)
            x = F.relu(x) if i else x
            x = F.pad(x, (self.cols // 2, self.cols // 2, self.rows - 1, 0))
            x = F.conv2d(x, convolution.weight * self.get_buffer(f"mask{i}"), convolution.bias)
        return x


class BinaryResidual(nn.Module):
    """Binarised MNIST: a 7x7 convolution, 15 residual blocks of 32 features, ReLU and 1x1s, one logit for each pixel."""

    class Block(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            half = features // 2
            self.net = nn.Sequential(
                nn.ReLU(), nn.Conv2d(features, half, 1), nn.ReLU(), DataMaskedConv2d("B", half, half, 3), nn.ReLU(),
                nn.Conv2d(half, features, 1),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.net(x)

    def __init__(self, features: int = 32, blocks: int = 15) -> None:
        super().__init__()
        self.first = DataMaskedConv2d("A", 1, features, 7)
        self.blocks = nn.ModuleList(self.Block(features) for _ in range(blocks))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(features, 32, 1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) of 0 and 1 -> logits (N, 1, H, W)."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
