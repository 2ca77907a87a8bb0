"""Element numbers: stepped tensors, which are never written out, move as the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Categorical, UnsupportedModel
from pixelfast.inputs.conditions import Conditions
from pixelfast.ir.graph import Node
from pixelfast.ir.program import Rect
from pixelfast.models import GatedPixelCNN
from pixelfast.trace import export
from pixelfast.trace.capture import Capture, capture, frozen_copy
from pixelfast.trace.convert import convert
from pixelfast.trace.index import ElementTable, all_elements, both_images, reshaped, written_out
from pixelfast.trace.layout_search import layout_by_elements
from pixelfast.trace.layout_types import PlainLayout
from pixelfast.trace.layouts import infer_layout
from pixelfast.trace.rules.layout import COPIES, LAYOUT, RESHAPES, VIEWS

aten = torch.ops.aten
ROWS, COLS, FEATURES = 4, 3, 6

MOVES: dict[str, Callable[[Tensor], Tensor]] = {  # of a tensor (2, FEATURES, ROWS, COLS)
    "nothing": lambda x: x,
    "features last": lambda x: aten.permute.default(x, [0, 2, 3, 1]),
    "half of the features": lambda x: aten.split_with_sizes.default(x, [2, 4], 1)[1],
    "every second feature": lambda x: aten.slice.Tensor(x, 1, 1, 6, 2),
    "a crop": lambda x: aten.slice.Tensor(aten.slice.Tensor(x, 2, 1, 4), 3, 0, 2),
    "one row": lambda x: aten.slice.Tensor(x, 2, 2, 3),
    "one feature for all": lambda x: aten.expand.default(aten.slice.Tensor(x, 1, 3, 4), [2, 6, 4, 3]),
    "features in two axes": lambda x: aten.view.default(x, [2, 3, 2, 4, 3]),
    "rows and columns in one axis": lambda x: aten.view.default(x, [2, 6, 12]),
    "columns before rows": lambda x: aten.transpose.int(x, 2, 3),
    "the second image": lambda x: aten.slice.Tensor(x, 0, 1, 2),
    "one pixel": lambda x: aten.select.int(aten.select.int(x, 3, 1), 2, 2),
    "neighbours as features": lambda x: aten.unfold.default(x, 3, 2, 1),
    "the diagonal": lambda x: aten.diagonal.default(x, 0, 2, 3),
}


@pytest.fixture
def table() -> ElementTable:
    """A table of three nodes, the last of which starts outside of the image."""
    table = ElementTable()
    for domain in (Rect(0, 5, 0, 5), Rect(0, 1, 0, 1), Rect(-1, ROWS - 1, 2, COLS + 2)):
        table.add(Node("node", "", FEATURES, domain, ()))
    return table


def numbers_of(table: ElementTable) -> Tensor:
    """Stepped numbers (2, FEATURES, ROWS, COLS) of one more node."""
    return both_images(table.add(Node("node", "", FEATURES, Rect(-1, ROWS - 1, 2, COLS + 2), ()))).permute(0, 3, 1, 2)


@pytest.mark.parametrize("move", sorted(MOVES))
def test_views_move_stepped_numbers_as_written_ones(table: ElementTable, move: str) -> None:
    numbers = numbers_of(table)
    moved = MOVES[move](numbers)
    assert moved.is_meta
    assert all_elements(moved)
    assert torch.equal(written_out(moved), MOVES[move](written_out(numbers)))


@pytest.mark.parametrize("move", sorted(MOVES))
def test_stepped_and_written_numbers_have_the_same_layout(table: ElementTable, move: str) -> None:
    moved = MOVES[move](numbers_of(table))
    found = []
    for numbers in (moved, written_out(moved)):
        try:
            layout = infer_layout(table, [numbers], "here")
        except UnsupportedModel as error:
            found.append(str(error))
            continue
        maps = layout.gather(numbers)
        rectangle = table.rectangle(maps)
        corner = None if rectangle is None else (rectangle.row0, rectangle.col1, rectangle.corner.feature.tolist())
        restored = written_out(layout.scatter(maps, tuple(numbers.shape)))
        assert torch.equal(restored, written_out(moved))
        found.append((layout.row0, layout.col0, layout.channel_dims, layout.index.tolist(), corner))
    assert found[0] == found[1]


GAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "a row of zeros": lambda x: F.pad(x, (0, 0, 1, 0))[:, :, :-1],
    "a column of zeros": lambda x: F.pad(x, (1, 0))[..., :-1],
    "no first pixel": lambda x: torch.where(torch.arange(x[0, 0].numel()).view(x.shape[2:]) > 0, x, 0),
    "channels at several offsets": lambda x: torch.cat([F.pad(x, (0, 0, 1, 0))[:, :, :-1], F.pad(x, (1, 0))[..., :-1]], 1),
    "channels of zeros": lambda x: torch.cat([F.pad(x, (2, 0, 1, 0)), torch.zeros_like(F.pad(x, (2, 0, 1, 0)))], 1),
    "every second pixel, features last": lambda x: F.pad(x[:, :, ::2, ::2], (1, 0, 1, 0)).permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("move", sorted(GAPS))
def test_layouts_with_gaps_are_found_at_once_and_by_elements_alike(table: ElementTable, move: str) -> None:
    numbers = GAPS[move](written_out(numbers_of(table)))
    found = infer_layout(table, [numbers], "here")
    searched = layout_by_elements(table, [numbers], "here", ())
    assert isinstance(found, PlainLayout)
    assert (found.row0, found.col0, found.steps, found.channel_dims) == (
        searched.row0, searched.col0, searched.steps, searched.channel_dims,
    )  # fmt: skip
    assert np.array_equal(found.index, searched.index)


def test_a_gap_hides_no_element_that_comes_from_elsewhere(table: ElementTable) -> None:
    numbers = GAPS["no first pixel"](written_out(numbers_of(table))).clone()
    numbers[:, 0, 1] = numbers[:, 0, 1].flip(1)
    with pytest.raises(UnsupportedModel, match="no common offset"):
        infer_layout(table, [numbers], "here")


def test_rows_and_columns_in_one_axis_need_no_search(table: ElementTable) -> None:
    numbers = numbers_of(table).flatten(2).unflatten(1, (-1, 1)).transpose(2, 3)  # (images, F, pixels, 1)
    found = infer_layout(table, [numbers], "here")
    searched = layout_by_elements(table, [numbers], "here", ())
    assert isinstance(found, PlainLayout)
    assert found.channel_dims == searched.channel_dims == (1, 3)
    assert np.array_equal(found.index, searched.index)
    assert torch.equal(written_out(found.scatter(found.gather(numbers), numbers.shape)), written_out(numbers))


@pytest.mark.parametrize("move", sorted(GAPS))
def test_maps_with_gaps_stand_where_their_elements_do(table: ElementTable, move: str) -> None:
    numbers = GAPS[move](written_out(numbers_of(table)))
    maps = numbers if "last" in move else numbers.permute(0, 2, 3, 1)
    row0, col0, steps = table.origin(maps, (ROWS, COLS))
    place = table.places(maps[0].numpy())
    row, col, feature = np.argwhere(place.known)[0]
    assert place.row[row, col, feature] == row0 + row * steps[0]
    assert place.col[row, col, feature] == col0 + col * steps[1]


def test_a_reshape_without_steps_writes_the_numbers_out(table: ElementTable) -> None:
    mixed = MOVES["features last"](numbers_of(table))
    assert torch.equal(reshaped(mixed, [2, -1]), written_out(mixed).reshape(2, -1))
    assert not reshaped(mixed, [2, -1]).is_meta


def test_places_are_where_the_node_is(table: ElementTable) -> None:
    place = table.places(written_out(numbers_of(table)).numpy())
    image, feature, row, col = np.indices((2, FEATURES, ROWS, COLS))
    assert place.known.all()
    assert (place.node == 3).all()
    for found, expected in ((place.image, image), (place.feature, feature), (place.row, row - 1), (place.col, col + 2)):
        assert (found == expected).all()


def test_views_are_layout_operations() -> None:
    assert VIEWS | RESHAPES | COPIES <= LAYOUT


# -------------------------------------------------------------------- capture


def captured(module: nn.Module, shape: tuple[int, int, int]) -> Capture:
    return capture(frozen_copy(module), shape, Categorical(4), Conditions.parse(None))


def test_one_trace_gives_the_graph_of_run_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    module, shape = GatedPixelCNN((3, 5, 4), levels=4, features=6, layers=2), (3, 5, 4)
    fast = captured(module, shape)
    monkeypatch.setattr(export, "_is_aten", lambda _: False)
    slow = captured(module, shape)
    graphs = [convert(c, shape, Categorical(4)).builder.nodes for c in (fast, slow)]
    assert [(type(n), n.features, n.domain, n.layer) for n in graphs[0]] == [
        (type(n), n.features, n.domain, n.layer) for n in graphs[1]
    ]


class Circular(nn.Module):
    """Circular padding, which PyTorch composes of operations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def test_what_is_composed_of_operations_in_place_is_decomposed_in_full() -> None:
    names = {node.name.rstrip("_0123456789") for node in captured(Circular(), (1, 5, 4)).graph.nodes}
    assert {"slice_scatter", "copy", "convolution"} <= names


class Mapped(nn.Module):
    """vmap, which export leaves in the graph as calls that change PyTorch's own state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, (1, 2)), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.pad(x, (2, 0, 0, 0))[..., :-1])
        return torch.vmap(lambda image: self.last(image[None].relu())[0])(h)


class Refused(Mapped):
    """The same, with a look at values in the middle of it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda image: self.last(image[None])[0] * float(self.last.weight.sum()))(self.first(x))


def test_a_refused_trace_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedModel, match="cannot be traced"):
        captured(Refused(), (1, 5, 4))
    assert capfd.readouterr() == ("", "")
    assert captured(Mapped(), (1, 5, 4)).image is not None
    assert type(frozen_copy(Mapped()).first.weight) is nn.Parameter
