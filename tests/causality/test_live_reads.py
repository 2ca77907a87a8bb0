"""What a known mask does not choose is not seen: in times, in receptive fields, in the path of a leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast.causality.availability import availability
from pixelfast.causality.leak_report import find_leak
from pixelfast.causality.receptive_field import receptive_field
from pixelfast.ir.graph import Edge, FieldEdge, FieldSpec, Graph
from pixelfast.ir.program import Op, Rect
from pixelfast.ops import Input, Operand, Pointwise, verify

IMAGE = Rect(0, 2, 0, 3)
CHOSEN = np.array([[True, False, True], [False, True, True]])


def graph_of(mask: Operand, fields: tuple[FieldSpec, ...] = ()) -> Graph:
    """Two features: the own pixel where the mask is not 0, elsewhere the pixel before."""
    image = Input("image", "", 1, IMAGE, (), np.array([0]), np.array([[0.0, 1.0]]))
    features = np.array([0, 0])
    leaves = (mask, Edge(0, 0, 0, features, IMAGE), Edge(0, 0, -1, features, IMAGE))
    chosen = Pointwise.of("chosen", "", 2, IMAGE, leaves, (Op("where", (0, 1, 2)),))
    outputs = ((Edge(1, 0, 0, np.array([0, 1]), IMAGE),),)
    graph = Graph((1, 2, 3), 2, (image, chosen), fields, outputs, 0)
    verify(graph)
    return graph


def by_place() -> Graph:
    """The mask is CHOSEN for the first feature and the opposite for the second, in a field that begins outside of the image."""
    values = np.zeros((1, 4, 4, 2), dtype=np.float32)
    values[0, 1:3, :3] = np.stack([CHOSEN, ~CHOSEN], -1)
    return graph_of(FieldEdge(0, np.array([0, 1])), (FieldSpec(-1, 0, values),))


OWN, BEFORE = np.arange(6).reshape(2, 3), np.array([[-1, 0, 1], [-1, 3, 4]])


def test_times_are_those_of_what_is_chosen() -> None:
    times = availability(by_place())[1]
    found = times.maps[times.classes]
    assert (found == np.stack([np.where(CHOSEN, OWN, BEFORE), np.where(CHOSEN, BEFORE, OWN)])).all()
    for mask, expected in ((1.0, (OWN, OWN)), (0.0, (BEFORE, BEFORE)), (np.array([0.0, 2.0]), (BEFORE, OWN))):
        times = availability(graph_of(mask))[1]
        assert (times.maps[times.classes] == np.stack(expected)).all()


def test_a_mask_that_is_not_known_chooses_both() -> None:
    unknown = FieldSpec(0, 0, None, 0, np.zeros((1, 1, 1, 1), dtype=np.int64))
    times = availability(graph_of(FieldEdge(0, np.array([0])), (unknown,)))[1]
    assert (times.maps[times.classes] == OWN).all()


def test_receptive_fields_are_those_of_what_is_chosen() -> None:
    assert receptive_field(by_place(), 1, 1).seen[0, 0].tolist() == [[False, False, False], [True, True, False]]
    never = graph_of(0.0)
    assert receptive_field(never, 1, 1).seen[0, 0].tolist() == [[False, False, False], [True, False, False]]
    assert find_leak(never, availability(never)) is None


def test_the_path_of_a_leak_leads_through_what_is_chosen() -> None:
    """The later pixel is read and never chosen; the leak is the own one."""
    graph = graph_of(0.0)
    features = np.array([0, 0])
    leaves = (0.0, Edge(0, 0, 1, features, IMAGE), Edge(0, 0, 0, features, IMAGE))
    node = Pointwise.of("chosen", "", 2, IMAGE, leaves, (Op("where", (0, 1, 2)),))
    own = Graph(graph.shape, 2, (graph.nodes[0], node), (), graph.outputs, 0)
    leak = find_leak(own, availability(own))
    assert leak is not None
    assert leak.offset == (0, 0)


class Holes(nn.Module):
    """A map whose elements that come from the image are no neighbours across rows, through a product over all pixels."""

    def __init__(self, sees_itself: bool) -> None:
        super().__init__()
        self.sees_itself = sees_itself
        self.first, self.mix = nn.Conv2d(1, 3, (2, 3)), nn.Linear(3, 3)
        self.second, self.out = nn.Conv2d(3, 3, (1, 2)), nn.Conv2d(3, 3, 1)
        self.register_buffer("seen", torch.tensor([[False, False, True, True], [True, True, False, False]]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.pad(x, (1, 1, 2, 0)))
        h = F.elu(torch.where(self.seen, h[:, :, 1:] if self.sees_itself else h[:, :, :-1], 0.7))
        n, features, rows, cols = h.shape
        h = self.mix(h.permute(0, 2, 3, 1).reshape(-1, features)).view(n, rows, cols, features).permute(0, 3, 1, 2)
        return self.out(self.second(F.pad(h, (1, 0))))


@pytest.mark.parametrize("sees_itself", [False, True])
def test_holes_in_a_map_are_no_leak(sees_itself: bool) -> None:
    torch.manual_seed(0)
    found = pixelfast.check(Holes(sees_itself).eval(), (1, 2, 4), pixelfast.Categorical(3))
    assert found.autoregressive == (not sees_itself)
