"""The registry of rules: one rule for each operator, from every file of `trace/rules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pixelfast
from pixelfast import Categorical, UnsupportedModel
from pixelfast.trace import rules
from pixelfast.trace.context import Context, rule
from pixelfast.trace.expressions import EXPRESSIONS
from pixelfast.trace.index import stepped
from pixelfast.trace.nodes.builder import GraphBuilder
from pixelfast.trace.scores import Products
from pixelfast.trace.values import Value


def test_an_operator_has_one_rule() -> None:
    before = dict(rules.RULES[Value])
    with pytest.raises(ValueError, match=r"'convolution' has two rules for Value, .*rules\.products\.convolution and .*again"):

        @rule("convolution")
        def again(c: Context, target: Any, *args: Any) -> None: ...

    assert rules.RULES[Value] == before


def test_every_file_of_rules_is_loaded() -> None:
    files = {file.stem for file in Path(rules.__file__).parent.glob("*.py") if "\n@rule(" in file.read_text(encoding="utf-8")}
    loaded = {function.__module__.split(".")[-1] for table in rules.RULES.values() for function in table.values()}
    assert loaded == files


def test_every_expression_has_a_rule() -> None:
    assert EXPRESSIONS.keys() <= rules.RULES[Value].keys()


def test_names_are_operators() -> None:
    """A misspelt name would register a rule that nothing ever calls."""
    known = {name.split("::")[-1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert {name for table in rules.RULES.values() for name in table} - known == set()


def scores() -> Products:
    size = (2, 4, 4)
    queries = Value(stepped(1, (2, 4, 3), (12, 3, 1)))
    return Products(stepped(0, size, (16, 4, 1)), queries, queries, torch.ones(1, 1, 1), torch.zeros(1, 1, 1))


def test_a_tensor_like_scores_is_known() -> None:
    context = Context(GraphBuilder((1, 2, 2), 4), rules.RULES)
    found = context.call(torch.ops.aten.full_like.default, (scores(), 3.0), {})
    assert torch.equal(found.const, torch.full((2, 4, 4), 3.0))


def test_filling_with_scores_is_refused() -> None:
    context = Context(GraphBuilder((1, 2, 2), 4), rules.RULES)
    with pytest.raises(UnsupportedModel, match="attention scores is not supported"):
        context.call(torch.ops.aten.fill.Tensor, (Value(None, torch.zeros(2, 4, 4)), scores()), {})


class Summed(nn.Module):
    """Running sums."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, 4, -1, -1).cumsum(1)


def test_an_operator_without_rule_is_named() -> None:
    with pytest.raises(UnsupportedModel, match=r"the operation aten\.cumsum\.default at \w+ is not supported on values"):
        pixelfast.compile(Summed(), (1, 3, 3), Categorical(4, "unit"), engine="reference")
