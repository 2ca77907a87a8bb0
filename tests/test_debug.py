"""`pixelfast.debug`: a fault put into one stage is found there, and its first wrong sub-pixel is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from programs import with_body
from torch import Tensor, nn

import pixelfast
from pixelfast import pipeline
from pixelfast.debug import first_difference
from pixelfast.engines import registry
from pixelfast.errors import InvalidInput
from pixelfast.ir.graph import Graph
from pixelfast.ir.program import Map, Op, Product, Program
from pixelfast.models import GatedPixelCNN, PixelCNN
from pixelfast.ops import TapConv
from pixelfast.trace.expressions import EXPRESSIONS

Fault = Callable[[pytest.MonkeyPatch], None]
LAYERS = 2


def gated() -> nn.Module:
    torch.manual_seed(0)
    return GatedPixelCNN((3, 6, 5), levels=5, features=12, layers=LAYERS, classes=3)


def images() -> Tensor:
    return torch.randint(5, (3, 3, 6, 5), generator=torch.Generator().manual_seed(1))


def found(monkeypatch: pytest.MonkeyPatch, fault: Fault | None, **options: Any) -> Any:
    """What is found in a gated model that is compiled, or run, with a fault."""
    if fault is not None:
        fault(monkeypatch)
    sampler = pixelfast.compile(gated(), cond=torch.tensor([0]), self_check=False, **options)
    return first_difference(sampler, images(), cond=torch.tensor([0, 1, 2]))


def wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPRESSIONS, "tanh", EXPRESSIONS["sigmoid"])


def wrong_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    simplify = pipeline.simplify

    def changed(graph: Graph) -> Graph:
        nodes = [replace(node, bias=node.bias + 1) if isinstance(node, TapConv) else node for node in simplify(graph).nodes]
        return replace(simplify(graph), nodes=tuple(nodes))

    monkeypatch.setattr(pipeline, "simplify", changed)


def wrong_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    lower = pipeline.lower

    def changed(*args: Any) -> Any:
        program, fields = lower(*args)
        return replace(program, row=tuple(doubled(instruction) for instruction in program.row)), fields

    monkeypatch.setattr(pipeline, "lower", changed)


def doubled(instruction: Any) -> Any:
    body = instruction.body
    return with_body(instruction, weights=2 * body.weights) if isinstance(body, Product) else instruction


def wrong_engine(change: Callable[[Any], Any], steps: range) -> Fault:
    """An engine that runs other instructions in some steps than those it is told to."""

    def put(monkeypatch: pytest.MonkeyPatch) -> None:
        entry = registry.ENGINES["cpu"]

        def make(program: Program, *how: Any) -> Any:
            lists = [tuple(map(change, step)) if k in steps else step for k, step in enumerate(program.steps)]
            return entry.make(replace(program, steps=tuple(lists)), *how)

        monkeypatch.setitem(registry.ENGINES, "cpu", replace(entry, make=make))

    return put


def without_tanh(instruction: Any) -> Any:
    body = instruction.body
    if not isinstance(body, Map):
        return instruction
    return with_body(instruction, ops=tuple(Op("sigmoid", op.args) if op.name == "tanh" else op for op in body.ops))


def test_nothing_is_found_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, None) is None


@pytest.mark.parametrize("order", ["raster", "columns-bottom-up"])
def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    wrong_rule(monkeypatch)
    torch.manual_seed(0)
    model = Turned(order).eval()
    sampler = pixelfast.compile(model, (1, 4, 3), pixelfast.Categorical(4), order=order, self_check=False)
    difference = first_difference(sampler, torch.zeros(2, 1, 4, 3, dtype=torch.int64))
    assert difference is not None
    assert difference.stage == "trace"
    assert difference.where == "tanh = aten.tanh.default"
    assert difference.layer == "squash"
    assert difference.expected == pytest.approx(torch.tanh(torch.logit(torch.tensor(difference.found))).item(), rel=1e-3)


class Turned(nn.Module):
    """A PixelCNN of rows from the top, or of columns from the bottom, with a tanh of its own."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.columns = order != "raster"
        self.net = PixelCNN((1, 3, 4) if self.columns else (1, 4, 3), levels=4, features=6, blocks=1)
        self.squash = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        if not self.columns:
            return self.squash(self.net(x))
        return self.squash(self.net(x.flip(2).transpose(2, 3))).transpose(-1, -2).flip(-2)


@pytest.mark.parametrize(("fault", "stage"), [(wrong_pass, "passes"), (wrong_lowering, "lowering")])
def test_a_wrong_stage_is_found(monkeypatch: pytest.MonkeyPatch, fault: Fault, stage: str) -> None:
    difference = found(monkeypatch, fault)
    assert difference.stage == stage
    assert difference.expected != difference.found


@pytest.mark.skipif("cpu" in registry.refusals(pixelfast.Categorical(5)), reason="the native engine is not built")
@pytest.mark.parametrize("step", range(3))
def test_a_wrong_instruction_is_found(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    difference = found(monkeypatch, wrong_engine(without_tanh, range(step, step + 1)), engine="cpu")
    assert (difference.stage, difference.layer) == ("engine", "layers.0")
    assert "Map into" in difference.where
    assert difference.expected != difference.found
    assert "first sub-pixel" in str(difference)
    assert difference.where in str(difference)


def test_the_module_itself_has_no_difference() -> None:
    sampler = pixelfast.compile(gated(), cond=torch.tensor([0]), engine="naive")
    with pytest.raises(InvalidInput, match="nothing that could differ"):
        first_difference(sampler, images(), cond=torch.tensor([0, 1, 2]))
