"""Strided models: PixelCNN++ and what is particular to lattices. Other people's: tests/helpers/foreign_strided.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import ENGINES, NATIVE, agree, compare, images_of, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, NotAutoregressive
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.ir.program import EVERYWHERE, Lattice, Rect
from pixelfast.models import PixelCNNpp
from pixelfast.models.shifted import network_in_network
from pixelfast.ops import TapConv

HEAD = Categorical(4, layout="NCKHW")


class Plusplus(nn.Module):
    """PixelCNN++ with the levels' logits for each colour."""

    def __init__(self, shape: tuple[int, int, int], classes: int = 0) -> None:
        super().__init__()
        self.net = PixelCNNpp(shape, 4, features=6, blocks=1, classes=classes)
        self.net.parameters_of_pixels = network_in_network(6, 4 * shape[0])
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self.net(x, h).view(len(x), *self.net.shape[:1], 4, *self.net.shape[1:])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 12), (1, 12, 4)])
def test_pixelcnnpp(shape: tuple[int, int, int]) -> None:
    """Drawn, with given pixels, one image by itself, and no more work than one forward does."""
    traced = trace(Plusplus(shape).eval(), shape, HEAD)
    assert compare(traced, 3) == 0
    request = traced.request(3, 4)
    naive = traced.run("naive", request)
    given = np.where(np.random.default_rng(0).random(naive.values.shape) < 0.3, naive.values, -1).astype(np.int32)
    given[:, :2] = naive.values[:, :2]
    known = traced.request(3, 4, given=given)
    completed = traced.run("naive", known)
    for engine in ENGINES:
        assert agree(traced, traced.run(engine, known), completed, known, None, engine) == 0
        alone = traced.run(engine, traced.request(1, 4))
        np.testing.assert_array_equal(alone.values, images_of(naive, 1).values)
    program, graph = traced.compiled.program, traced.compiled.analysis.graph
    assert 0.9 * graph.dense_macs < program.macs <= graph.dense_macs
    assert {node.lattice.steps for node in graph.nodes} == {(1, 1), (2, 2), (4, 4)}


def test_pixelcnnpp_with_labels() -> None:
    labels = torch.tensor([2, 0, 1])
    traced = trace(Plusplus((1, 8, 8), 3).eval(), (1, 8, 8), HEAD, labels)
    assert compare(traced, 3, cond=labels) == 0
    assert compare(traced, 1, 5, labels[:1]) == 0


@pytest.mark.parametrize("shape", [(1, 8, 4), (3, 4, 8)])
def test_pixelcnnpp_with_its_own_head(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    model = PixelCNNpp(shape, 7, features=5, blocks=1, mixtures=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert compare(trace(model, shape, model.head), 3) == 0


@pytest.mark.skipif(not NATIVE, reason="no native engine")
def test_bits_do_not_depend_on_the_arrangement() -> None:
    traced = trace(Plusplus((1, 8, 8)).eval(), (1, 8, 8), HEAD)
    request = traced.request(5, 0)
    for isa in pixelfast.engines.native.engine.native().isas():
        engine = CpuEngine(traced.compiled.program, isa=isa)
        whole = engine.run(request, arrangement=(1, 0, "none", 1))
        for arrangement in [(1, 1, "none", 1), (1, 1, "none", 3), (2, 2, "rows", 2), (1, 2, "rows", 3), (1, 3, "parts", 1)]:
            found = engine.run(request, arrangement=arrangement)
            assert found.parameters.tobytes() == whole.parameters.tobytes(), (isa, arrangement)


class Coarse(nn.Module):
    """A map of half the resolution, made finer again by `up`, without any shift."""

    def __init__(self, up: nn.Module, kernel: int = 2) -> None:
        super().__init__()
        self.first, self.low, self.up, self.out = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, kernel, stride=2), up, nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(F.pad(F.elu(self.first(x)), (0, 1, 0, 1)))
        return self.out(F.elu(self.up(low)[:, :, : x.shape[2], : x.shape[3]]))


SHUFFLE = nn.Sequential(nn.Conv2d(6, 24, 1), nn.PixelShuffle(2))
UPS = [nn.Upsample(scale_factor=2), nn.ConvTranspose2d(6, 6, 2, stride=2), SHUFFLE]


@pytest.mark.parametrize("up", UPS, ids=lambda up: type(up).__name__)
def test_a_coarse_pixel_that_covers_what_is_predicted(up: nn.Module) -> None:
    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.compile(Coarse(up), (1, 7, 5), Categorical(4))
    assert caught.value.offset[0] >= 0
    assert caught.value.layer in ("first", "low")
    assert "(offset +" in str(caught.value)


def test_one_coarse_column_late_is_not_enough() -> None:
    """It hides the block of the pixel, but not the next row of the block to the left."""

    class Late(Coarse):
        def forward(self, x: Tensor) -> Tensor:
            low = self.low(F.pad(F.elu(self.first(x)), (0, 1, 0, 1)))
            return self.out(self.up(F.pad(low, (1, 0))[..., :-1])[:, :, : x.shape[2], : x.shape[3]])

    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.compile(Late(nn.Upsample(scale_factor=2)), (1, 7, 5), Categorical(4))
    assert caught.value.offset[0] == 1


def test_taps_stand_at_constant_offsets() -> None:
    """A strided convolution, and the transposed one that undoes its stride, as nodes."""

    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.Conv2d(1, 5, (1, 2), stride=(1, 2), bias=False)
            self.up = nn.ConvTranspose2d(5, 4, (1, 2), stride=(1, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.up(F.pad(self.low(F.pad(x, (0, 1))), (1, 0))[..., :-1])[..., :5]

    graph = trace(Down(), (1, 3, 5), Categorical(4)).compiled.analysis.graph
    low, up = (node for node in graph.nodes if isinstance(node, TapConv))
    assert (low.lattice.steps, up.lattice) == ((1, 2), EVERYWHERE)
    assert sorted(edge.col for edge in low.edges) == [0, 1]
    assert sorted(edge.col for edge in up.edges) == [-1, 0]


class Grown(nn.Module):
    """A map of `low` pixels, brought to the image's size by `up`, some rows late; and the pixel to the left."""

    def __init__(self, low: nn.Module, up: str, late: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.low, self.up, self.late = low, up, late
        self.first, self.mid, self.out = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        h = torch.tanh(2 * self.first(x))
        low = torch.tanh(2 * self.mid(self.low(h)))
        scale = [-(-whole // part) for whole, part in zip(size, low.shape[2:], strict=True)]
        if self.up == "interleaved":
            fine = low.repeat_interleave(scale[0], 2).repeat_interleave(scale[1], 3)
        elif self.up == "scaled":
            fine = F.interpolate(low, scale_factor=scale)
        else:
            fine = F.interpolate(low, size=size, mode=self.up)
        fine = F.pad(fine[:, :, : size[0], : size[1]], (0, 0, self.late, 0))[:, :, : size[0]]
        return self.out(torch.cat([F.pad(h, (1, 0))[..., :-1], fine], 1))


@pytest.mark.parametrize(
    ("low", "size", "late", "up"),
    [
        (nn.Conv2d(4, 4, 2, stride=2), (7, 5), 4, "nearest"),  # 3 x 2 pixels, whose first ones are repeated three times
        (nn.Conv2d(4, 4, 2, stride=2), (7, 5), 4, "nearest-exact"),
        (nn.MaxPool2d(3), (7, 4), 6, "nearest"),
        (nn.AvgPool2d((2, 1), (3, 1)), (8, 1), 5, "nearest"),
        (nn.AvgPool2d((2, 1), (3, 1)), (8, 1), 5, "interleaved"),
        (nn.Conv2d(4, 4, (5, 2), stride=(2, 3)), (6, 2), 5, "scaled"),  # one pixel
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), (5, 1), 3, "scaled"),
    ],
    ids=str,
)
def test_upsampling_to_sizes_that_are_no_multiples(low: nn.Module, size: tuple[int, int], late: int, up: str) -> None:
    assert compare(trace(Grown(low, up, late), (1, *size), Categorical(4)), 2) == 0


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
@pytest.mark.parametrize("up", UPS, ids=lambda up: type(up).__name__)
def test_images_about_as_small_as_a_stride(up: nn.Module, shape: tuple[int, int]) -> None:
    """A row of blocks, or one block, that the next row reads; in an image of one row nothing does."""

    class Late(Coarse):
        def forward(self, x: Tensor) -> Tensor:
            low = self.up(self.low(F.pad(F.elu(self.first(x)), (0, 1, 0, 1))))
            left = F.pad(F.elu(self.first(x)), (1, 0))[..., :-1]
            late = F.pad(low, (0, 0, 2, 0))[:, :, : x.shape[2], : x.shape[3]]
            return self.out(F.elu(torch.cat([left, late], 1)[:, ::2] + left))

    torch.manual_seed(2)
    assert compare(trace(Late(up), (1, *shape), Categorical(4)), 2) == 0


def test_lattices() -> None:
    odd = Lattice(2, 1, 3, 2)
    assert odd == Lattice.through(-1, 5, (2, 3))
    assert odd.shifted(1, -2) == Lattice(2, 0, 3, 0)
    assert odd.within(Rect(0, 7, 0, 7)) == Rect(1, 6, 2, 6)
    assert odd.within(Rect(0, 1, 0, 7)).empty
    assert odd.count(Rect(-3, 7, 0, 7)) == 5 * 2
    assert list(odd.columns(-4, 6)) == [-4, -1, 2, 5]
    assert EVERYWHERE.contains(odd)
    assert not odd.contains(EVERYWHERE)
    assert odd.meets(Lattice(3, 0, 2, 0))
    assert not odd.meets(Lattice(4, 2, 1, 0))
