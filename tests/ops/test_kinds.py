"""Kinds of node answer all that the passes ask; none is passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from oracle import trace

from pixelfast import Categorical
from pixelfast.causality.availability import availability
from pixelfast.causality.receptive_field import receptive_field
from pixelfast.ir.graph import Graph, Node
from pixelfast.ir.scan_order import ORDERS
from pixelfast.ir.schedule import Schedule
from pixelfast.lowering.lower import lower
from pixelfast.models import PixelCNN
from pixelfast.ops import Operation, verify
from pixelfast.ops.evaluate import evaluate_nodes
from pixelfast.ops.reduce import ChannelReduce
from pixelfast.ops.shared import Local
from pixelfast.passes.reorder import reordered
from pixelfast.passes.scheduler import schedule
from pixelfast.passes.simplify import prune, simplify

HEAD = Categorical(4, encode="symmetric")
ANSWERS = [name for name in dir(Operation) if getattr(getattr(Operation, name, None), "__isabstractmethod__", False)]
CONSTANTS = list(Operation.__annotations__)


def test_there_are_questions() -> None:
    assert {"evaluated", "times", "cause", "reach", "needs", "restricted", "reordered", "lags", "lower"} <= set(ANSWERS)


@pytest.mark.parametrize("missing", [*ANSWERS, *CONSTANTS])
def test_a_kind_that_lacks_an_answer_fails_where_it_is_defined(missing: str) -> None:
    answers = {name: getattr(ChannelReduce, name) for name in (*ANSWERS, *CONSTANTS)}
    type("Complete", (Operation,), dict(answers))
    del answers[missing]
    with pytest.raises(TypeError, match=f"kind Incomplete have no answer for {missing}: "):
        type("Incomplete", (Operation,), answers)


def test_what_kinds_share_does_not_answer_for_them() -> None:
    with pytest.raises(TypeError, match="kind Half have no answer for cause, check"):

        @dataclass(frozen=True)
        class Half(Local):
            pass


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A graph whose last node is of a class that is no kind."""
    torch.manual_seed(0)
    model = PixelCNN((1, 3, 4), levels=4, features=4).eval()
    known = trace(model, (1, 3, 4), HEAD).compiled.analysis.graph
    last = known.nodes[-1]
    odd = Node("odd", "", last.features, last.domain, last.edges)
    return replace(known, nodes=(*known.nodes[:-1], odd))


def without_pieces(graph: Graph) -> Schedule:
    return Schedule(graph, (), ())


PASSES: dict[str, Callable[[Graph], object]] = {
    "verify": verify,
    "prune": prune,
    "simplify": simplify,
    "reorder": lambda graph: reordered(graph, ORDERS["columns"]),
    "availability": availability,
    "receptive field": lambda graph: receptive_field(graph, 1, 1),
    "schedule": schedule,
    "lower": lambda graph: lower(without_pieces(graph), HEAD),
    "evaluate": lambda graph: evaluate_nodes(graph.nodes, graph.fields, [], torch.zeros(2, 3, 4, 1)),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_node_of_no_kind_is_an_error_of_the_first_pass_that_meets_it(graph: Graph, name: str) -> None:
    with pytest.raises(TypeError, match="odd is a Node, which is no kind of node"):
        PASSES[name](graph)


def test_edges_are_replaced_in_every_kind(graph: Graph) -> None:
    for node in graph.nodes:
        moved = node.with_edges(replace(edge, row=edge.row - 1) for edge in node.edges)
        assert [edge.row for edge in moved.edges] == [edge.row - 1 for edge in node.edges]
        assert type(moved) is type(node)
        assert np.array_equal([edge.source for edge in moved.edges], [edge.source for edge in node.edges])
