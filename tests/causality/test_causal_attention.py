"""Attention in whole models: leaks name their layer, what no engine can do is refused by name, and times are right."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from causal import dependencies
from foreign import GREY
from foreign_attention import Snail, Stem, causal, flat, grid
from leaks import HEAD, leak
from oracle import NATIVE, compare, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, NumericalError, UnsupportedModel
from pixelfast.causality.receptive_field import receptive_field
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.inputs.conditions import Conditions
from pixelfast.ops import CausalAttention
from pixelfast.pipeline import analyse
from pixelfast.trace.capture import frozen_copy

MASK = causal(7, 5)


class Attend(nn.Module):
    """Attention whose scores become weights by `weigh`; queries see the pixels before, keys and values the own one too."""

    def __init__(self, weigh: Callable[[Tensor], Tensor], own_query: bool = False) -> None:
        super().__init__()
        self.weigh, self.own_query = weigh, own_query
        self.query, self.key = nn.Conv2d(1 if own_query else 6, 4, 1), nn.Conv2d(7, 10, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        key, value = flat(self.key(torch.cat([x, y], 1))).split([4, 6], 2)
        scores = flat(self.query(x if self.own_query else y)) @ key.mT
        return grid(self.weigh(scores) @ value, x)


class Model(nn.Module):
    def __init__(self, weigh: Callable[[Tensor], Tensor], own_query: bool = False) -> None:
        super().__init__()
        self.stem, self.attend, self.out = Stem(1, 6), Attend(weigh, own_query), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.out(F.elu(y + self.attend(x, y)))


def masked(mask: Tensor, fill: float = -1e4, start: bool = True) -> Callable[[Tensor], Tensor]:
    """Weights by a mask, and those of the first pixel thrown away."""

    def weigh(scores: Tensor) -> Tensor:
        weights = scores.masked_fill(mask == 0, fill).softmax(2)
        return weights * (torch.arange(len(mask)) > 0).float()[:, None] if start else weights

    return weigh


# -------------------------------------------------------------------- leaks

LEAKS = {
    "nothing is masked": lambda scores: scores.softmax(2),
    "the own pixel": masked(causal(7, 5, 1)),
    "one pixel too many": masked(MASK + torch.eye(35).roll(1, 1) * (torch.arange(35) == 17)[:, None]),
    "the wrong way round": masked(MASK.T),
    "the first pixel sees all": masked(MASK, start=False),
    "the first pixel sees all, at -1e9": masked(MASK, -1e9, start=False),
    "a mask that multiplies scores": lambda scores: (scores * MASK).softmax(2) * (torch.arange(35) > 0)[:, None],
    "a mask after the softmax": lambda scores: scores.softmax(2) * MASK,
    "two pixels at the start, one thrown away": lambda s: masked(MASK * (torch.arange(35) > 1)[:, None])(s),
}


@pytest.mark.parametrize("name", LEAKS)
def test_masks_that_leak(name: str) -> None:
    error = leak(Model(LEAKS[name]))
    assert error.layer == "attend"


def test_the_first_pixel_sees_itself_and_all_of_it_is_thrown_away() -> None:
    """Which is no leak, wherever it is thrown away."""
    seen = MASK.clone()
    seen[0, 0] = 1
    assert pixelfast.check(Model(masked(seen)), GREY, HEAD).autoregressive


def test_not_a_number_times_0_is_none_either() -> None:
    with pytest.raises(NumericalError, match="image 0, row 0, column 0"):
        pixelfast.sample(Model(masked(MASK, -math.inf)), 1, shape=GREY, head=HEAD)


def test_a_query_that_sees_its_own_pixel() -> None:
    assert leak(Model(masked(MASK), own_query=True)).layer == "attend.query"


def test_keys_that_see_too_much() -> None:
    """The mask lets each pixel see itself, which is right for features of the pixels before: the first layer is wrong."""

    class Own(Model):
        def forward(self, x: Tensor) -> Tensor:
            y = self.stem.left(F.pad(x, (1, 0)))
            return self.out(F.elu(y + self.attend(x * 0, y)))

    assert leak(Own(masked(causal(7, 5, 1)))).layer == "stem.left"


# -------------------------------------------------------------------- what is not supported


class Linear(nn.Module):
    """Causal linear attention: no softmax."""

    def forward(self, x: Tensor) -> Tensor:
        y = flat(x)
        return grid((y @ y.mT * MASK) @ y, x)


class Reads(nn.Module):
    """The map of weights itself is what counts."""

    def forward(self, x: Tensor) -> Tensor:
        y = flat(x)
        return x + masked(MASK)(y @ y.mT).amax(2).view(len(x), 1, 7, 5)


class Adds(nn.Module):
    """Scores plus something that depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        y = flat(x)
        return grid(masked(MASK)(y @ y.mT + y[..., :1]) @ y, x)


class Axial(nn.Module):
    """Along each row alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1).flatten(0, 1)
        return ((y @ y.mT).softmax(2) @ y).view(len(x), 7, 5, -1).permute(0, 3, 1, 2)


class HalfSized(nn.Module):
    """Keys at every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        y = flat(x)
        return grid((y @ y[:, ::2].mT).softmax(2) @ y[:, ::2], x)


class AcrossColumns(nn.Module):
    """Pixels in the order of columns."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(2, 3).flatten(2).transpose(1, 2)
        mixed = masked(MASK)(y @ y.mT) @ y
        return mixed.mT.reshape(len(x), -1, 5, 7).transpose(2, 3)


UNSUPPORTED = [
    (Linear(), "without a softmax"), (Reads(), "attention weights is not supported"), (Adds(), "attention scores is not"),
    (Axial(), "attention is supported from all 7 x 5 pixels"), (HalfSized(), "35 by 35"), (AcrossColumns(), "row by row"),
]  # fmt: skip


@pytest.mark.parametrize(("between", "words"), UNSUPPORTED, ids=[type(u[0]).__name__ for u in UNSUPPORTED])
def test_what_is_not_supported_is_named(between: nn.Module, words: str) -> None:
    module = nn.Sequential(Stem(1, 4), between)
    with pytest.raises(UnsupportedModel, match=words) as caught:
        pixelfast.check(module, GREY, HEAD)
    assert "'1'" in str(caught.value), "the layer must be named"


def test_a_mask_that_masks_nothing_is_refused_where_nothing_leaks() -> None:
    """A score of 0 is not no score: keys know the pixels before only, so that the model is autoregressive all the same."""

    class Zeroed(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.attend(x * 0, self.stem(x)))

    half = torch.where(MASK.bool(), (torch.arange(35) % 2).float(), -torch.inf)
    with pytest.raises(UnsupportedModel, match="masks nothing"):
        pixelfast.compile(Zeroed(lambda s: torch.where(MASK.bool(), s * (torch.arange(35) % 2), half).softmax(2).nan_to_num()),
                          GREY, HEAD)  # fmt: skip


# -------------------------------------------------------------------- times


def test_times_and_receptive_field_against_gradients() -> None:
    """Windows, a mask for each head, several blocks: a prediction depends on what availability says, and on nothing else."""
    torch.manual_seed(0)
    distance = torch.arange(35)[:, None] - torch.arange(35)
    row = torch.arange(35) // 5
    seen = (distance >= 2) & (distance <= 8) | ((row[:, None] - row) == 2)

    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.out = Attend(masked(seen)), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            above = F.pad(x, (0, 0, 2, 0))[:, :, :-2].expand(len(x), 6, 7, 5)
            return self.out(self.attend(x, above))

    module = Far().eval()
    with torch.no_grad():  # rows that see nothing are uniform: the mask that throws them away must reach them
        module.attend.weigh = lambda s: masked(seen)(s) * seen.any(1).float()[:, None]
    analysis = analyse(frozen_copy(module), GREY, HEAD, Conditions())
    assert analysis.leak is None
    found = dependencies(module.double(), torch.randn(1, 1, 7, 5, dtype=torch.float64))
    for row_, col in ((0, 0), (1, 2), (3, 2), (6, 4)):
        pixel = row_ * 5 + col
        field = receptive_field(analysis.graph, row_, col).seen[0, 0].reshape(-1)
        moved = found.reshape(4, 35, 35)[:, pixel].any(0) if len(found) == 140 else found[pixel]
        np.testing.assert_array_equal(field, moved.numpy())
        (edge,) = analysis.graph.outputs[0]
        time = analysis.times[edge.source].at(int(edge.channels[0]), row_, col)
        assert time == max(np.flatnonzero(field), default=-1)


# -------------------------------------------------------------------- exactness


@pytest.mark.skipif(not NATIVE, reason="the native engine was not built")
def test_bits_are_an_image_s_own() -> None:
    torch.manual_seed(0)
    traced = trace(nn.Sequential(Twice(), nn.Conv2d(6, 4, 1)).eval(), GREY, HEAD)
    engine = CpuEngine(traced.compiled.program)
    whole = engine.run(traced.request(17, 0))
    for arrangement in ((1, 1, "none", 1), (1, 2, "rows", 2), (1, 3, "parts", 1), (2, 2, "rows", 2)):
        found = engine.run(traced.request(17, 0), arrangement=arrangement)
        assert found.parameters is not None
        assert whole.parameters is not None
        np.testing.assert_array_equal(found.parameters, whole.parameters, err_msg=str(arrangement))
    one = engine.run(traced.request(1, 0))
    assert one.parameters is not None
    np.testing.assert_array_equal(one.parameters[0], whole.parameters[0])


class Twice(nn.Module):
    """Two blocks, the second of which looks at what the first one found."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = Stem(1, 6), Snail(1, 6, 1), Snail(1, 6, 2)
        self.mix = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.first(x, y)
        return y + self.mix(self.second(x, y))


@pytest.mark.parametrize("size", [(1, 2), (1, 5), (7, 1), (2, 2)])
def test_small_images(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    traced = trace(nn.Sequential(Twice(), nn.Conv2d(6, 4, 1)).eval(), (1, *size), HEAD)
    assert compare(traced, 3) == 0


def test_only_what_is_read_is_kept() -> None:
    """The cache has all rows, its other sources few."""
    torch.manual_seed(0)
    traced = trace(nn.Sequential(Twice(), nn.Conv2d(6, 4, 1)).eval(), GREY, HEAD)
    assert sum(isinstance(node, CausalAttention) for node in traced.compiled.analysis.graph.nodes) == 2
    rows = {buffer.name: buffer.rows for buffer in traced.compiled.program.buffers}
    assert {name: n for name, n in rows.items() if n > 3} == {name: 7 for name in rows if name.endswith("_cache")}


class PartlyRead(nn.Module):
    """Attention of two heads, of whose channels only some are read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Conv2d(1, 6, 1) for _ in range(3))
        self.out = nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.out.weight[:, [0, 2, 4]] = 0

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        above = F.pad(x, (0, 0, 1, 0))[:, :, :-1]
        q, k, v = (part.view(n, 2, 3, -1).mT for part in (self.query(above), self.key(x), self.value(x)))
        before = torch.ones(height * width, height * width, dtype=torch.bool).tril(-1)
        mixed = (q @ k.mT).masked_fill(~before, -1e4).softmax(-1) @ v * before.any(1, keepdim=True)
        return self.out(mixed.mT.reshape(n, 6, height, width))


def test_channels_that_nobody_reads_leave_the_others_in_place() -> None:
    assert compare(trace(PartlyRead(), (1, 3, 2), Categorical(4)), 3) == 0
