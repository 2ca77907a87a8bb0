"""Orders of generation: modules that draw from other corners, or by columns, against the usual loop in that order."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import ENGINES, NATIVE, compare, trace
from torch import Tensor, nn

import pixelfast
from pixelfast import Categorical, InvalidInput, NotAutoregressive, NumericalError
from pixelfast.cli.main import main
from pixelfast.distributions import noise
from pixelfast.ir.scan_order import ORDERS, RASTER
from pixelfast.models import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN, PixelSNAIL
from pixelfast.passes.reorder import reordered
from pixelfast.pictures import Drawing

OTHERS = [name for name in ORDERS if name != "raster"]
HEAD = Categorical(4)


class Turning(nn.Module):
    """A raster network that is shown its image, and its map, in an order of its own; (N, K, C, H, W)."""

    def __init__(self, net: nn.Module, order: str) -> None:
        super().__init__()
        self.net, self.order = net, order

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        conditions = {} if cond is None else {"s": self.reordered(cond)}
        return self.restored(self.net(self.reordered(x), **conditions))

    def reordered(self, x: Tensor) -> Tensor:
        x = x.flip(-2) if "bottom-up" in self.order else x
        x = x.flip(-1) if "right-to-left" in self.order else x
        return x.transpose(-1, -2) if self.order.startswith("columns") else x

    def restored(self, y: Tensor) -> Tensor:
        y = y.transpose(-1, -2) if self.order.startswith("columns") else y
        y = y.flip(-1) if "right-to-left" in self.order else y
        return y.flip(-2) if "bottom-up" in self.order else y


def lively(net: nn.Module) -> nn.Module:
    """The network with weights large enough that what it sees decides what it draws."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


def turning(order: str, channels: int = 1, height: int = 7, width: int = 5) -> Turning:
    torch.manual_seed(3)
    inner = ORDERS[order].shape((channels, height, width))
    return Turning(lively(PixelCNN(inner, levels=4, features=9, blocks=1)), order)


def with_map(order: str) -> Turning:
    torch.manual_seed(4)
    inner = ORDERS[order].shape((1, 7, 5))
    return Turning(lively(GatedPixelCNN(inner, levels=4, features=8, layers=2, map_channels=2)), order)


# -------------------------------------------------------------------- engines


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_engines_draw_what_the_usual_loop_draws(order: str, channels: int) -> None:
    shape = (channels, 7, 5)
    traced = trace(turning(order, channels), shape, HEAD, order=order)
    given = np.where(np.random.default_rng(0).random((3, 7, 5, channels)) < 0.3, 2, -1).astype(np.int32)
    assert compare(traced, 3, seed=1) == 0
    assert compare(traced, 3, seed=2, given=given, temperature=0.7) == 0


class Corner(nn.Module):
    """Masked convolutions whose kernels lie in an order of their own, over the image as it is; a stride, a map, attention."""

    def __init__(self, order: str, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.turn = Turning(nn.Identity(), order)
        self.first, self.second = nn.Conv2d(channels, 8, (5, 3), padding=(2, 1)), nn.Conv2d(8, 8, 3, padding=1)
        self.out, self.given = nn.Conv2d(8, 4 * channels, 1), nn.Conv2d(2, 8, 1)

    def masked(self, layer: nn.Conv2d, x: Tensor, own: float) -> Tensor:
        rows, cols = layer.kernel_size
        raster = self.turn.reordered(torch.zeros(rows, cols)).clone()
        flat = raster.flatten()
        flat[: rows * cols // 2], flat[rows * cols // 2] = 1, own
        mask = self.turn.restored(flat.view(raster.shape))
        return nn.functional.conv2d(x, layer.weight * mask, layer.bias, padding=layer.padding)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        y = self.masked(self.first, x, 0)
        if cond is not None:
            y = y + self.given(cond)
        return self.out(torch.relu(self.masked(self.second, torch.relu(y), 1)))


@pytest.mark.parametrize("order", ORDERS)
def test_masks_may_lie_in_an_order(order: str) -> None:
    given = np.where(np.random.default_rng(0).random((3, 7, 5, 3)) < 0.3, 2, -1).astype(np.int32)
    traced = trace(lively(Corner(order, 3)), (3, 7, 5), Categorical(4, layout="N(CK)HW"), order=order)
    assert compare(traced, 3, seed=1) == 0
    assert compare(traced, 3, seed=2, given=given, temperature=0.7) == 0
    cond = torch.randn(3, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    traced = trace(lively(Corner(order)), (1, 7, 5), HEAD, cond, order=order)
    assert compare(traced, 3, seed=3, cond=cond) == 0


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 4, 1), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("order", OTHERS)
def test_one_row_or_column_with_a_condition(order: str, shape: tuple[int, int, int]) -> None:
    """NumPy takes a flipped axis of length 1 for contiguous, and PyTorch refuses its negative stride."""
    cond = torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    traced = trace(lively(Corner(order, shape[0])), shape, Categorical(4, layout="N(CK)HW"), cond, order=order)
    assert compare(traced, 2, seed=3, cond=cond) == 0


def same(a: Any, b: Any) -> bool:
    """Whether two graphs, or parts of graphs, say the same."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool((a == b).all())
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    return bool(a == b)


@pytest.mark.parametrize("order", OTHERS)
@pytest.mark.parametrize(
    "net",
    [
        PixelSNAIL((1, 8, 4), levels=4, features=6, blocks=1, residuals=1),
        PixelCNNpp((1, 8, 4), levels=4, features=4, blocks=1, mixtures=1),
        GatedPixelCNN((1, 8, 4), levels=4, features=4, layers=1, map_channels=2),
    ],
    ids=["attention", "strides", "map"],
)
def test_turning_a_graph_back_gives_it_again(net: nn.Module, order: str) -> None:
    torch.manual_seed(0)
    cond = {"s": torch.zeros(2, 2, 8, 4)} if isinstance(net, GatedPixelCNN) else None
    graph = pixelfast.compile(net, engine="reference", cond=cond).prepare(cond).analysis.graph
    turn = ORDERS[order]
    back = next(
        other for other in ORDERS.values()
        if np.array_equal(other.reordered(turn.reordered(np.arange(32).reshape(8, 4), 0), 0), np.arange(32).reshape(8, 4))
    )  # fmt: skip
    there = reordered(graph, turn)
    assert not same(there, graph)
    assert same(reordered(there, back), graph)


@pytest.mark.parametrize("order", OTHERS)
def test_the_usual_loop_in_plain_words(order: str) -> None:
    module = turning(order).eval()
    numbers = torch.from_numpy(noise.uniforms(5, 0, 2, (1, 7, 5)))
    images = torch.zeros(2, 1, 7, 5, dtype=torch.int64)
    rows = range(7)[:: -1 if "bottom-up" in order else 1]
    cols = range(5)[:: -1 if "right-to-left" in order else 1]
    by_rows, by_columns = itertools.product(rows, cols), ((row, col) for col in cols for row in rows)
    for row, col in by_columns if order.startswith("columns") else by_rows:
        with torch.no_grad():
            logits = module(HEAD.encode_images(images))[:, :, 0, row, col]
        images[:, 0, row, col] = HEAD.draw(logits, numbers[:, row, col, 0])
    for engine in (*ENGINES, "naive"):
        assert torch.equal(pixelfast.sample(module, 2, shape=(1, 7, 5), head=HEAD, seed=5, engine=engine).long(), images)


@pytest.mark.parametrize("order", ORDERS)
def test_conditions_given_values_and_scores_stay_where_they_are(order: str) -> None:
    torch.manual_seed(5)
    module, shape, cond = with_map(order), (1, 7, 5), torch.randn(3, 2, 7, 5)
    given = torch.full((3, 1, 7, 5), -1)
    given[:, :, 1:3, 3:] = torch.randint(4, (3, 1, 2, 2))
    naive = pixelfast.compile(module, shape, HEAD, engine="naive")
    expected, expected_log_prob = naive.sample(3, seed=0, cond=cond, given=given, return_log_prob=True)
    for engine in ENGINES:
        sampler = pixelfast.compile(module, shape, HEAD, cond=cond, engine=engine)
        images, log_prob = sampler.sample(3, seed=0, cond=cond, given=given, return_log_prob=True)
        assert torch.equal(images, expected)
        assert torch.equal(images[given >= 0], given[given >= 0].to(torch.uint8))
        torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-4, atol=1e-4)
        assert sampler.verify(images, seed=0, cond=cond, given=given).ok
        torch.testing.assert_close(sampler.log_prob(images, cond), naive.log_prob(images, cond))
        free, drawn = sampler.sample(3, seed=1, cond=cond, return_log_prob=True)
        torch.testing.assert_close(sampler.log_prob(free, cond), drawn, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["raster-bottom-up-right-to-left", "columns"])
@pytest.mark.parametrize("net", [PixelSNAIL, PixelRNN])
def test_attention_and_recurrences_between_the_turns(net: Any, order: str) -> None:
    torch.manual_seed(6)
    options = {"blocks": 1, "residuals": 1, "key": 2} if net is PixelSNAIL else {"layers": 1, "lstm": "diagonal"}
    inner = net(ORDERS[order].shape((1, 5, 4)), levels=4, features=8, **options)
    module = Turning(lively(inner), order).eval()
    assert compare(trace(module, (1, 5, 4), inner.head), 3) == 0


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 3, 2), (1, 4, 4), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("order", ["raster-bottom-up", "columns-right-to-left", "columns"])
def test_a_short_axis_may_be_turned(order: str, shape: tuple[int, int, int]) -> None:
    """The flip of an axis of two to four pixels also passes for maps that take turns, for which no schedule exists."""
    traced = trace(turning(order, *shape), shape, HEAD, order=order)
    assert compare(traced, 3, seed=1) == 0


@pytest.mark.parametrize("way", ["transposed", "rotated", "indexed", "gathered"])
def test_a_module_may_work_in_a_frame_of_its_own(way: str) -> None:
    """It draws in raster order, over an image that it turns by itself: the masks within lie in another order."""
    back = torch.arange(4, -1, -1)
    turn = {
        "transposed": (lambda x: x.transpose(-1, -2), lambda y: y.transpose(-1, -2), "columns"),
        "rotated": (lambda x: x.rot90(1, (2, 3)), lambda y: y.rot90(-1, (2, 3)), "columns-bottom-up"),
        "indexed": (lambda x: x[..., [4, 3, 2, 1, 0]], lambda y: y[..., [4, 3, 2, 1, 0]], "raster-right-to-left"),
        "gathered": (lambda x: x.gather(3, back.expand(x.shape)), lambda y: y.flip(3), "raster-right-to-left"),
    }[way]

    class Within(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = lively(Corner(turn[2]))

        def forward(self, x: Tensor) -> Tensor:
            return turn[1](self.net(turn[0](x)))

    assert compare(trace(Within(), (1, 3, 5), HEAD), 2, seed=1) == 0


@pytest.mark.skipif(not NATIVE, reason="the native engine is not built")
@pytest.mark.parametrize("order", ["columns-right-to-left", "raster-bottom-up"])
def test_an_image_is_the_same_in_any_batch(order: str) -> None:
    sampler = pixelfast.compile(turning(order), (1, 7, 5), HEAD, engine="cpu")
    whole = sampler.sample(5, seed=9)
    assert torch.equal(sampler.sample(2, seed=9, first=3, threads=1), whole[3:])
    assert torch.equal(sampler.sample(5, seed=9, batch_size=2), whole)


# -------------------------------------------------------------------- the interface


def test_the_module_may_name_its_order() -> None:
    module = turning("columns-bottom-up")
    own = pixelfast.sample(module, 2, shape=(1, 7, 5), head=HEAD, seed=0)
    named = pixelfast.sample(module, 2, shape=(1, 7, 5), head=HEAD, seed=0, order="columns-bottom-up")
    assert torch.equal(own, named)
    with pytest.raises(NotAutoregressive, match="Or is columns not"):  # not the sampler that was kept
        pixelfast.sample(module, 2, shape=(1, 7, 5), head=HEAD, seed=0, order="columns")
    assert pixelfast.check(module, (1, 7, 5), HEAD).order == "columns-bottom-up"
    module.order = "mixture-major"  # means something else
    assert pixelfast.check(module, (1, 7, 5), HEAD).order == "raster"
    assert pixelfast.compile(PixelCNN((1, 7, 5), levels=4, features=9, blocks=1)).order == RASTER


def test_a_wrong_name_is_refused() -> None:
    module = turning("raster")
    with pytest.raises(InvalidInput, match=r'"raster-right-to-left".*"columns-bottom-up"'):
        pixelfast.compile(module, (1, 7, 5), HEAD, order="diagonal")
    with pytest.raises(InvalidInput, match="no order"):
        pixelfast.sample(module, 1, shape=(1, 7, 5), head=HEAD, order=3)  # type: ignore[arg-type]


class Lines(nn.Module):
    """A layer in the user's orientation that sees the pixel below: no image is turned."""

    def forward(self, x: Tensor) -> Tensor:
        below = nn.functional.pad(x, (0, 0, 0, 1))[:, :, 1:]
        return torch.cat([below * k for k in range(1, 5)], 1)


@pytest.mark.parametrize("order", ORDERS)
def test_a_leak_is_named_in_the_users_coordinates(order: str) -> None:
    report = pixelfast.check(Lines(), (1, 7, 5), HEAD, order=order)
    if "bottom-up" in order:
        assert report.autoregressive
        assert compare(trace(Lines(), (1, 7, 5), HEAD, order=order), 3) == 0
        return
    assert report.leak is not None
    assert report.leak.offset == (1, 0)
    assert "at pixel (3, 2) depends on channel 0 at pixel (4, 2)" in str(report.leak)
    with pytest.raises(NotAutoregressive):
        pixelfast.sample(Lines(), 1, shape=(1, 7, 5), head=HEAD, order=order)


@pytest.mark.parametrize("order", OTHERS)
def test_a_raster_model_in_another_order_is_refused(order: str) -> None:
    with pytest.raises(NotAutoregressive, match=f"is {order} not the model's order of generation"):
        pixelfast.compile(turning("raster"), (1, 7, 5), HEAD, order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_check_speaks_of_the_users_image(order: str) -> None:
    inner = ORDERS[order].shape((1, 15, 13))
    net = PixelCNN(inner, levels=4, features=8, blocks=1)
    report, plain = pixelfast.check(Turning(net, order), (1, 15, 13), HEAD), pixelfast.check(net)
    turn = ORDERS[order]
    assert report.field is not None
    assert plain.field is not None
    # The middle pixel stays in the middle.
    np.testing.assert_array_equal(turn.reordered(report.field.pixels, 0), plain.field.pixels)
    np.testing.assert_array_equal(turn.reordered(report.blind_spot, 0), plain.blind_spot)
    assert (report.field.row, report.field.col) == (7, 6)
    assert report.blind_spot.any()
    assert (turn.ranks(15, 13)[report.blind_spot] < 97).all()
    assert (report.field.down > 0) == ("bottom-up" in order or order.startswith("columns"))
    assert ("order of generation" in str(report)) == (order != "raster")


@pytest.mark.parametrize("order", ["raster-bottom-up", "columns-right-to-left"])
def test_lines_are_reported_as_they_are_finished(order: str) -> None:
    turn = ORDERS[order]
    seen: list[tuple[int, Tensor]] = []
    lines = turn.shape((1, 7, 5))[1]
    for engine in (*ENGINES, "naive"):
        sampler = pixelfast.compile(turning(order), (1, 7, 5), HEAD, engine=engine)
        drawing = Drawing(4, order=turn)

        def finished(line: int, images: Tensor, drawing: Drawing = drawing) -> None:
            drawing(line, images)
            seen.append((line, images.clone()))

        seen.clear()
        whole = sampler.sample(2, seed=0, on_row=finished)
        assert [line for line, _ in seen] == list(range(lines))
        for (line, images), frame in zip(seen, drawing._rows, strict=True):
            done = turn.ranks(7, 5) < (line + 1) * (35 // lines)
            assert torch.equal(images[:, :, torch.from_numpy(done)], whole[:, :, torch.from_numpy(done)])
            np.testing.assert_array_equal(frame >= 0, np.broadcast_to(done, frame.shape))


class Breaking(nn.Module):
    """NaN at the pixel (2, 4), where the pixel below it is not 0."""

    def forward(self, x: Tensor) -> Tensor:
        below = nn.functional.pad(x, (0, 0, 0, 1))[:, :, 1:]
        place = torch.zeros(7, 5)
        place[2, 4] = 1e38
        return torch.cat([below * k * (1 + place) * (1 + place) for k in range(4)], 1)


@pytest.mark.parametrize("engine", [*ENGINES, "naive"])
def test_broken_parameters_are_named_by_the_users_pixel(engine: str) -> None:
    sampler = pixelfast.compile(Breaking(), (1, 7, 5), Categorical(4, "integer"), order="columns-bottom-up", engine=engine)
    with pytest.raises(NumericalError, match="row 2, column 4"):
        sampler.sample(8, seed=0)


MINE = """
import torch
from torch import nn


class Upwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-3, 3, 36).view(4, 1, 3, 3))
            self.conv.weight[:, :, 1, 1:] = self.conv.weight[:, :, 2] = 0

    def forward(self, x):
        return self.conv(x.flip(2)).flip(2)
"""


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    model = ["--model", f"{tmp_path / 'mine.py'}:Upwards", "--levels", "4", "--shape", "1,7,5"]
    order = ["--order", "raster-bottom-up"]
    assert main(["check", *model, *order]) == 0
    assert "order of generation: raster-bottom-up" in capsys.readouterr().out
    files = ["-o", str(tmp_path / "out.npy"), "--gif", str(tmp_path / "out.gif")]
    assert main(["sample", *model, *order, "-n", "3", "--seed", "7", "--verify", *files]) == 0
    assert " 0 wrong" in capsys.readouterr().out
    assert np.load(tmp_path / "out.npy").shape == (3, 1, 7, 5)
    assert main(["check", *model]) == 1
    assert "order of generation? Then pass order=" in capsys.readouterr().out
    assert main(["sample", "--checkpoint", "digits", *order]) == 2
    assert "--order describe" in capsys.readouterr().err
