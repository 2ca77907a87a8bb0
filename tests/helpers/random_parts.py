"""What the layers of random models share: activations, elements that are made constant, products over a pixel's features.

Letters: N images, F features, H rows, W columns, L = H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast.ir.scan_order import Order

Given = Mapping[str, Tensor]
"""Conditions by name."""

SMOOTH = ("elu", "gelu", "silu", "sin", "softplus", "tanh")
FUNCTIONS = {
    "relu": F.relu, "elu": F.elu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "softplus": F.softplus,
    "leaky": F.leaky_relu, "hardswish": F.hardswish, "sin": torch.sin, "none": lambda x: x, "mish": F.mish, "relu6": F.relu6,
    "softsign": F.softsign, "logsigmoid": F.logsigmoid, "hardsigmoid": F.hardsigmoid, "tanhshrink": F.tanhshrink,
}  # fmt: skip
LAYERS: dict[str, Any] = {
    "prelu": nn.PReLU, "softplus 3": lambda: nn.Softplus(3.0, 5.0), "hardtanh": lambda: nn.Hardtanh(-0.5, 2.0),
    "celu": lambda: nn.CELU(0.6), "softshrink": lambda: nn.Softshrink(0.3), "gelu tanh": lambda: nn.GELU("tanh"),
}  # fmt: skip
LEARNT = ("prelu of each", "where", "maximum", "swish", "glu", "snake")
"""With a number for each feature."""
ACTIVATIONS = (*FUNCTIONS, *LAYERS, *LEARNT)


class Activation(nn.Module):
    def __init__(self, name: str, features: int) -> None:
        super().__init__()
        self.name = name
        self.layer = nn.PReLU(features) if name == "prelu of each" else LAYERS[name]() if name in LAYERS else None
        self.slope = nn.Parameter(torch.rand(features, 1, 1) + 0.1) if name in LEARNT else None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is not None:
            return self.layer(x)
        if self.name in FUNCTIONS:
            return FUNCTIONS[self.name](x)
        if self.name == "where":
            return torch.where(x > 0, x, x * self.slope)
        if self.name == "maximum":
            return torch.max(x, x * self.slope)
        if self.name == "swish":
            return x * torch.sigmoid(x * self.slope)
        if self.name == "glu":
            return F.glu(torch.cat([x, x * self.slope], 1), 1)
        return x + torch.sin(x * self.slope) ** 2 / self.slope


CONSTANTS = (
    "none", "down", "right", "sequence", "first pixel", "last pixel", "line", "row", "column", "rows", "places", "features",
    "positions", "tokens",
)  # fmt: skip
FILLS = ("zero", "number", "learnt", "places", "condition")


class Fixed(nn.Module):
    """Makes some elements of (N, F, H, W) constant, or adds constants to them, as people do who write start tokens, blank
    corners and positions; shifts go on in the order of generation, so nothing later is seen.
    """

    seen: Tensor

    def __init__(
        self, kind: str, fill: str, features: int, size: tuple[int, int], order: Order, parts: tuple[str, ...]
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.fill, self.order, self.size, self.token = kind, fill, order, size, 1
        placed = fill == "places" or kind in ("positions", "tokens")
        self.register_buffer("seen", torch.rand(size) < 0.6)
        self.learnt = nn.Parameter(torch.randn(features, 1, 1)) if fill in ("learnt", "condition") else None
        self.places = nn.Parameter(torch.randn(features, *size)) if placed else None
        self.vector = nn.Linear(3, features) if fill == "condition" and "vector" in parts else None
        self.label = nn.Embedding(4, features) if fill == "condition" and "label" in parts else None

    def number(self, h: Tensor) -> float:
        """What stands there if it is one number; codes of an image become this token."""
        return 0.7 if h.is_floating_point() else self.token

    def filling(self, h: Tensor, given: Given) -> Tensor:
        """What stands at the constant elements: (N, F, H, W)."""
        if self.fill == "zero" or (self.fill != "number" and not h.is_floating_point()):
            return torch.zeros_like(h)
        if self.fill == "number":
            return torch.full_like(h, self.number(h))
        if self.fill == "places":
            return self.places.expand_as(h)
        if self.vector is not None:
            return self.vector(given["vector"])[..., None, None].expand_as(h)
        if self.label is not None:
            return self.label(given["label"])[..., None, None].expand_as(h)
        return self.learnt.expand_as(h)

    def forward(self, h: Tensor, given: Given) -> Tensor:
        if self.kind == "none" or (self.kind in ("positions", "tokens") and not h.is_floating_point()):
            return h
        if self.kind == "positions":
            return h + self.places
        if self.kind == "tokens":
            return (h.flatten(2).mT + self.places.flatten(1).mT).mT.unflatten(2, self.size)
        fill = self.filling(h, given)
        if self.kind in ("down", "right", "sequence"):
            return self.moved(h, fill)
        if self.kind == "features":
            return torch.cat([fill[:, :1], h[:, 1:]], 1)
        if self.kind == "rows":
            mask = (torch.arange(h.shape[2]) % 2).to(h.dtype).view(-1, 1)
            return h * mask + fill * (1 - mask)
        if self.kind == "places":
            return h.masked_fill(~self.seen, self.number(h)) if self.fill == "number" else torch.where(self.seen, h, fill)
        h = h.clone()
        place: Any = {
            "first pixel": (..., 0, 0), "last pixel": (..., -1, -1), "line": (..., 0, slice(None)),
            "row": (..., h.shape[2] // 2, slice(None)), "column": (..., h.shape[3] // 2),
        }[self.kind]  # fmt: skip
        h[place] = self.number(h) if self.fill == "number" else fill[place]
        return h

    def moved(self, h: Tensor, fill: Tensor) -> Tensor:
        """One line, one pixel, or one pixel of the sequence of all pixels later."""
        order, size = self.order, h.shape[2:]
        line_back, pixel_back = (order.left, order.up) if order.columns else (order.up, order.left)
        if self.kind == "down":
            return shifted(h, 3 if order.columns else 2, line_back, fill)
        if self.kind == "right" or line_back != pixel_back:
            return shifted(h, 2 if order.columns else 3, pixel_back, fill)
        if order.columns:
            return shifted(h.mT.flatten(2), 2, line_back, fill.mT.flatten(2)).unflatten(2, size[::-1]).mT
        return shifted(h.flatten(2), 2, line_back, fill.flatten(2)).unflatten(2, size)


def shifted(h: Tensor, axis: int, back: bool, fill: Tensor) -> Tensor:
    """By one along an axis, to its end or `back` to its start; what comes in is the filling's."""
    count = h.shape[axis] - 1
    if back:
        return torch.cat([h.narrow(axis, 1, count), fill.narrow(axis, count, 1)], axis)
    return torch.cat([fill.narrow(axis, 0, 1), h.narrow(axis, 0, count)], axis)


PRODUCTS = (
    "none", "none", "conv2d", "conv1d", "linear", "linear of tokens", "linear of rows", "addmm", "addmm of itself", "baddbmm",
    "bmm", "matmul", "matmul of tokens", "einsum", "tensordot",
)  # fmt: skip


class Mix(nn.Module):
    """(N, F, H, W) -> (N, F, H, W): a product over the features of each pixel with a masked matrix, in some notation."""

    mask: Tensor

    def __init__(self, notation: str, mask: Tensor, bias: bool) -> None:
        super().__init__()
        self.notation = notation
        self.register_buffer("mask", mask)
        self.weight = nn.Parameter(torch.randn(mask.shape) * (2 / mask.shape[1]) ** 0.5)
        self.bias = nn.Parameter(torch.randn(len(mask))) if bias else None

    def forward(self, h: Tensor) -> Tensor:
        n, features, rows, cols = h.shape
        w, b = self.weight * self.mask, self.bias
        column = 0.0 if b is None else b.unsqueeze(-1)
        pixels = h.flatten(2)  # (N, F, L)
        flat = h.permute(0, 2, 3, 1).contiguous().view(-1, features)  # (N L, F)
        if self.notation == "none":
            return h
        if self.notation == "conv2d":
            return F.conv2d(h, w[..., None, None], b)
        if self.notation == "linear":
            return F.linear(h.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2)
        if self.notation == "einsum":
            return torch.einsum("nfhw,gf->nghw", h, w) + (0.0 if b is None else b.view(-1, 1, 1))
        if self.notation == "tensordot":
            return (torch.tensordot(h, w, ([1], [1])) + (0.0 if b is None else b)).movedim(3, 1)
        if self.notation in ("linear of rows", "addmm", "addmm of itself"):
            if self.notation == "linear of rows":
                y = F.linear(flat, w, b)
            elif self.notation == "addmm of itself":
                y = torch.addmm(flat, flat, w.T, beta=0.5)
            else:
                y = flat.mm(w.T) if b is None else torch.addmm(b, flat, w.T)
            return y.view(n, rows, cols, -1).permute(0, 3, 1, 2)
        if self.notation == "conv1d":
            y = F.conv1d(pixels, w.unsqueeze(-1), b)
        elif self.notation == "linear of tokens":
            y = F.linear(pixels.mT, w, b).mT
        elif self.notation == "matmul of tokens":
            y = (pixels.mT @ w.T).mT + column
        elif self.notation == "matmul":
            y = w @ pixels + column
        elif self.notation == "baddbmm" and b is not None:
            y = torch.baddbmm(column.expand(n, -1, rows * cols), w.expand(n, -1, -1), pixels)
        else:
            y = torch.bmm(w.expand(n, -1, -1), pixels) + column
        return y.unflatten(2, (rows, cols))
