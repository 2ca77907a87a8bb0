"""Random modules in which a share of the elements of every layer is constant, passed through every kind of product.

The image enters shifted by one pixel, so that a feature may know everything at its own place. A step first makes elements
constant (`MAKERS`: shifts, masks, assignments, conditions), then computes with all of them (`PRODUCTS`). Letters: N images,
F features, H rows, W columns, K levels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast

FEATURES, LEVELS, LABELS = 4, 3, 4
Op = Callable[[Tensor, "Step"], Tensor]


class Step(nn.Module):
    """One way of making elements constant and one product, with numbers of their own. Tensors are (N, F, H, W)."""

    def __init__(self, size: tuple[int, int], maker: str, product: str, generator: torch.Generator) -> None:
        super().__init__()
        self.size, self.maker, self.product = size, maker, product
        height, width = size

        def numbers(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.place, self.channel = numbers(FEATURES, height, width), numbers(FEATURES, 1, 1)
        self.table = nn.Embedding.from_pretrained(torch.randn(LABELS, FEATURES, generator=generator))
        self.matrix, self.bias = numbers(FEATURES, FEATURES), numbers(FEATURES)
        self.wide, self.states = numbers(FEATURES, FEATURES, 2, 3), numbers(2, FEATURES, 4 * FEATURES)
        self.row_bias = numbers(height * width, FEATURES)
        self.register_buffer("mask", torch.rand((height, width), generator=generator) < 0.75)
        self.register_buffer("kept", torch.arange(FEATURES).view(-1, 1, 1) % 2 == 0)
        self.row, self.col = (int(torch.randint(n, (), generator=generator)) for n in size)
        self.label: Tensor | None = None

    def forward(self, h: Tensor, label: Tensor | None) -> Tensor:
        self.label = label
        h = PRODUCTS[self.product](MAKERS[self.maker](h, self), self)
        self.label = None
        return h

    def given(self) -> Tensor:
        """Numbers (N, F, 1, 1) that depend on the label."""
        assert self.label is not None
        return self.table(self.label).view(-1, FEATURES, 1, 1)


# -------------------------------------------------------------------- constant elements


def assigned(h: Tensor, s: Step) -> Tensor:
    h = h.clone()
    h[:, :, s.row, s.col] = 0.5
    h[:, 1, -1, 0] = 0
    return h


def assigned_line(h: Tensor, s: Step) -> Tensor:
    h = h.clone()
    h[:, :, s.row] = s.place[:, s.row]
    h[:, :, :, 0].zero_()
    return h


def assigned_places(h: Tensor, s: Step) -> Tensor:
    rows, cols = torch.tensor([0, s.row, -1]), torch.tensor([0, s.col, -1])
    return torch.index_put(h, (torch.arange(len(h))[:, None], torch.tensor([[1]]), rows, cols), torch.tensor(0.7))


def put(h: Tensor, s: Step) -> Tensor:
    h = torch.select_scatter(h, s.place[:, :, 0].expand(len(h), -1, -1), 3, 0)
    return torch.slice_scatter(h, s.place[:, :1].expand(len(h), -1, -1, -1), 2, 0, 1)


def started(h: Tensor, s: Step) -> Tensor:
    return torch.cat((s.place[None, :, :, :1].expand(len(h), -1, -1, -1), h[..., :-1]), 3)


MAKERS: dict[str, Op] = {
    "none": lambda h, s: h,
    "right": lambda h, s: F.pad(h[..., :-1], (1, 0), value=-0.7),
    "down": lambda h, s: F.pad(h[:, :, :-1], (0, 0, 1, 0)),
    "corner": lambda h, s: F.pad(h[:, :, :-1, :-1], (1, 0, 1, 0), value=0.3) + s.place,
    "started": started,
    "where": lambda h, s: torch.where(s.mask, h, s.place),
    "masked": lambda h, s: h * s.mask,
    "faded": lambda h, s: h * (s.mask * s.place),
    "filled": lambda h, s: h.masked_fill(~s.mask, -1.5),
    "filled channels": lambda h, s: torch.where(s.kept & s.mask, h, s.channel),
    "channels": lambda h, s: torch.cat((h[:, :2], s.place[2:].expand(len(h), -1, -1, -1)), 1),
    "assigned": assigned,
    "assigned line": assigned_line,
    "assigned places": assigned_places,
    "put": put,
    "alone": lambda h, s: torch.where(s.place[:1].argmax() == torch.arange(h[0, 0].numel()).view(s.size), h, s.channel),
    "label": lambda h, s: torch.where(s.mask, h, s.given()),
    "label shifted": lambda h, s: torch.cat((s.given().expand(-1, -1, s.size[0], 1), h[..., :-1]), 3) + s.place,
    "label channels": lambda h, s: torch.cat((h[:, 1:], s.given()[:, :1].expand(-1, -1, *s.size)), 1),
    "positions": lambda h, s: F.pad(h[:, :, :-1], (0, 0, 1, 0)) + s.place,
}

# -------------------------------------------------------------------- products


def last(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1)


def first(h: Tensor) -> Tensor:
    return h.permute(0, 3, 1, 2)


def rows(h: Tensor) -> Tensor:
    return last(h).reshape(-1, FEATURES)


def unrows(h: Tensor, s: Step) -> Tensor:
    return first(h.view(-1, *s.size, FEATURES))


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def untokens(h: Tensor, s: Step) -> Tensor:
    return h.transpose(1, 2).unflatten(2, s.size)


def blocks(h: Tensor, s: Step) -> Tensor:
    """A strided convolution and its transpose, shifted down by one block."""
    small = F.conv2d(F.pad(h, (0, s.size[1] % 2, 0, s.size[0] % 2)), s.wide[:, :, :, :2], s.bias, stride=2)
    large = F.conv_transpose2d(small, s.wide[:, :, :, :2], s.bias, stride=2)
    return F.pad(large, (0, 0, 2, 0))[:, :, : s.size[0], : s.size[1]]


def attention(h: Tensor, s: Step, heads: int = 1) -> Tensor:
    q, k, v = (
        tokens(t).unflatten(2, (heads, -1)).transpose(1, 2)
        for t in (h, F.conv2d(h, s.matrix[..., None, None]), F.conv2d(h, s.wide[..., :1, :1], s.bias))
    )
    result = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return untokens(result.transpose(1, 2).flatten(2), s)


def known_values(h: Tensor, s: Step) -> Tensor:
    q = tokens(h)
    scores = (q @ q.transpose(1, 2)).masked_fill(torch.ones(q.shape[1], q.shape[1]).triu(1).bool(), -1e9)
    return untokens(torch.bmm(scores.softmax(2), s.place.flatten(1).T.expand(len(h), -1, -1)), s) + h


def scanned(h: Tensor, s: Step) -> Tensor:
    gates = F.conv2d(h, s.states[0].T[..., None, None], s.bias.repeat(4))
    return pixelfast.lstm_scan(gates, s.states[1:] / 4, ((-1, 0),), cell=(-1, 0))


def pooled(h: Tensor, s: Step) -> Tensor:
    above = F.pad(h, (2, 0, 1, 0), value=0.1)
    return F.max_pool2d(above, (2, 3), 1) + F.avg_pool2d(above, (2, 3), 1)


def compared(h: Tensor, s: Step) -> Tensor:
    return torch.where(h > s.place, torch.cos(h), s.channel * (h <= 0.2)) + (h == s.channel)


PRODUCTS: dict[str, Op] = {
    "conv": lambda h, s: F.conv2d(h, s.matrix[..., None, None], s.bias),
    "conv above": lambda h, s: F.conv2d(F.pad(h, (2, 0, 1, 0)), s.wide, s.bias),
    "conv unbiased": lambda h, s: F.conv2d(F.pad(h, (2, 0, 1, 0)), s.wide),
    "grouped": lambda h, s: F.conv2d(F.pad(h, (2, 0, 1, 0)), s.wide[:, :2], s.bias, groups=2),
    "transposed": lambda h, s: F.conv_transpose2d(h, s.wide[:, :, :, :1], s.bias)[:, :, :-1],
    "blocks": blocks,
    "conv1d rows": lambda h, s: (
        F.conv1d(h.transpose(1, 2).flatten(0, 1), s.matrix[..., None], s.bias).unflatten(0, (-1, s.size[0])).transpose(1, 2)
    ),
    "conv1d": lambda h, s: F.conv1d(h.flatten(2), s.matrix[..., None], s.bias).unflatten(2, s.size),
    "linear 4": lambda h, s: first(F.linear(last(h), s.matrix, s.bias)),
    "linear 3": lambda h, s: untokens(F.linear(tokens(h), s.matrix, s.bias), s),
    "linear 2": lambda h, s: unrows(F.linear(rows(h), s.matrix, s.bias), s),
    "linear unbiased": lambda h, s: unrows(F.linear(rows(h), s.matrix), s),
    "addmm": lambda h, s: unrows(torch.addmm(s.row_bias.repeat(len(h), 1), rows(h), s.matrix, beta=0.5, alpha=2), s),
    "mm": lambda h, s: unrows((s.matrix @ rows(h).T).T, s),
    "bmm": lambda h, s: torch.bmm(s.matrix.expand(len(h), -1, -1), h.flatten(2)).unflatten(2, s.size),
    "baddbmm": lambda h, s: untokens(
        torch.baddbmm(s.place.flatten(1).T[None], tokens(h), s.matrix.expand(len(h), -1, -1), beta=2, alpha=0.5), s
    ),
    "einsum": lambda h, s: torch.einsum("of,nfhw->nohw", s.matrix, h),
    "matmul": lambda h, s: first(last(h) @ s.matrix + s.bias),
    "layer norm": lambda h, s: first(F.layer_norm(last(h), (FEATURES,), s.bias, s.channel.flatten())),
    "layer norm rows": lambda h, s: unrows(F.layer_norm(rows(h), (FEATURES,), s.bias), s),
    "batch norm": lambda h, s: F.batch_norm(h, s.bias, s.bias.abs() + 1, s.channel.flatten(), s.bias),
    "softmax": lambda h, s: h.softmax(1) + F.log_softmax(h[:, :2], 1).repeat(1, 2, 1, 1),
    "softmax rows": lambda h, s: unrows(rows(h).softmax(1), s),
    "reduced": lambda h, s: h * h.mean(1, keepdim=True) + h.amax(1, keepdim=True) - h.var(1, keepdim=True),
    "reduced rows": lambda h, s: unrows(rows(h) - rows(h).logsumexp(1, keepdim=True), s),
    "normalised": lambda h, s: F.normalize(h, dim=1),
    "pooled": pooled,
    "compared": compared,
    "attention": attention,
    "two heads": lambda h, s: attention(h, s, 2),
    "known values": known_values,
    "scanned": scanned,
    "flipped twice": lambda h, s: F.conv2d(h.flip(1).roll(1, 1), s.matrix[..., None, None], s.bias).flip(1),
    "picked": lambda h, s: F.conv2d(h[:, [2, 0, 1, 1]], s.matrix[..., None, None], s.bias),
}


class ConstantModel(nn.Module):
    """(N, 1, H, W) and labels (N,), if any step wants them -> logits (N, K, H, W)."""

    def __init__(self, size: tuple[int, int], steps: list[tuple[str, str]], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.enter = nn.Parameter(torch.randn((2, FEATURES, 1, 1, 1), generator=generator))
        self.steps = nn.ModuleList(Step(size, *step, generator) for step in steps)
        self.leave = nn.Parameter(torch.randn((LEVELS, FEATURES, 1, 1), generator=generator))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        left, above = F.pad(x[..., :-1], (1, 0)), F.pad(x[:, :, :-1], (0, 0, 1, 0))
        h = F.conv2d(left, self.enter[0]) + F.conv2d(above, self.enter[1])
        for step in self.steps:
            h = torch.tanh(step(h, label)) + 0.3
        return F.conv2d(h, self.leave)


# -------------------------------------------------------------------- numbers that a forward reads

SCALE = torch.arange(1.0, 21.0).view(1, 1, 4, 5)


class Watched(nn.Module):
    """Masks, weight_norm and a constant that an assertion or a Python number reads."""

    def __init__(self, read: str, norm: str) -> None:
        super().__init__()
        self.read = read
        self.inner, self.out = nn.Conv2d(1, 4, 1), nn.Conv2d(4, LEVELS, 1)
        self.register_buffer("kept", torch.arange(4.0).view(4, 1, 1), persistent=False)
        self.register_buffer("moved", torch.arange(4.0).view(4, 1, 1) - 1)
        if norm:
            {"hook": nn.utils.weight_norm, "parametrised": nn.utils.parametrizations.weight_norm}[norm](self.inner)

    def forward(self, x: Tensor) -> Tensor:
        scale = SCALE
        if "assert" in self.read:
            assert torch.min(scale).item() >= 0.999
        if "number" in self.read:
            scale = scale * (torch.max(self.kept).item() + 0.5)
        if "sum" in self.read:
            scale = scale.sum(1).view(SCALE.shape)
        h = self.inner(F.pad(x, (1, 0))[..., :-1]) / scale
        return self.out(h * self.kept + self.moved)


class Conditional(nn.Module):
    """What the label gives enters where engines need known numbers, or as a number of Python's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner, self.out = kind, nn.Conv2d(1, 4, 1), nn.Conv2d(4, LEVELS, 1)
        self.table = nn.Embedding(LABELS, 4)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.inner(F.pad(x, (1, 0))[..., :-1])
        given = self.table(label[:1])[0]
        if self.kind == "memory":
            h = h.transpose(2, 3).as_strided(h.shape, h.stride())
        elif self.kind == "number":
            h = h * label.sum().item()
        elif self.kind == "index":
            h = h[:, label[:1].expand(4)]
        elif self.kind == "batch norm":
            h = F.batch_norm(h, given, given.abs() + 1, given, given)
        elif self.kind == "layer norm":
            h = F.layer_norm(h.permute(0, 2, 3, 1), (4,), given, given + 1).permute(0, 3, 1, 2)
        elif self.kind == "bias":
            return F.conv2d(h, self.out.weight, given[:LEVELS])
        elif self.kind == "asserted":
            assert label.max().item() >= 0
        return self.out(h)
