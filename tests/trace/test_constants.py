"""Elements that depend on no sub-pixel have the value that PyTorch computes for them, whatever is done with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from constant_models import LABELS, LEVELS, MAKERS, PRODUCTS, Conditional, ConstantModel, Watched
from oracle import NATIVE, PARAMETERS, trace
from torch import Tensor, nn
from torch.nn import functional as F

from pixelfast import Categorical, UnsupportedModel
from pixelfast.inputs.conditions import Conditions
from pixelfast.trace import export

IMAGES = 2
SIZE = (4, 5)


def error(
    module: nn.Module, size: tuple[int, int] = SIZE, cond: Any = None, other: Any = None, engine: str = "reference"
) -> float:
    """The largest error of a log-probability, under teacher forcing; compiled with `cond`, drawn with `other`.

    One by one, and less their log-sum-exp: a logit of -1e9 hides nothing.
    """
    head = Categorical(LEVELS, "integer" if getattr(module, "integer", False) else "unit")
    traced = trace(module.eval(), (1, *size), head, cond)
    other = cond if other is None else other
    result = traced.run(engine, traced.request(IMAGES, 0, other), other)
    forced = traced.oracle.parameters(torch.from_numpy(result.values).long(), Conditions.parse(other))
    assert result.parameters is not None
    found, expected = (torch.as_tensor(p).double().log_softmax(-1) for p in (result.parameters, forced))
    finite = expected.isfinite()
    assert torch.equal(found[~finite], expected[~finite])
    return float((found - expected)[finite].abs().max())


# -------------------------------------------------------------------- every maker, every product


def pairs() -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Two steps for a model: every product once, every way of making elements constant once at least."""
    makers = [maker for maker in MAKERS if maker != "none"]
    steps = [(makers[(5 * i) % len(makers)], product) for i, product in enumerate(PRODUCTS)]
    steps += [("none", "conv above")] * (len(steps) % 2)
    return list(zip(steps[::2], steps[1::2], strict=True))


@pytest.mark.parametrize("steps", pairs(), ids=lambda steps: " then ".join(f"{a}, {b}" for a, b in steps))
def test_constants_go_through_every_product(steps: tuple[tuple[str, str], ...]) -> None:
    labelled = any(maker.startswith("label") for maker, _ in steps)
    cond, other = (torch.tensor([0, 1]), torch.tensor([LABELS - 1, 1])) if labelled else (None, None)
    assert error(ConstantModel(SIZE, list(steps), 3), SIZE, cond, other) <= PARAMETERS


@pytest.mark.skipif(not NATIVE, reason="needs the native engine")
@pytest.mark.parametrize("step", [("assigned", "conv above"), ("started", "attention"), ("label shifted", "linear 2")])
def test_the_native_engine_computes_them_alike(step: tuple[str, str]) -> None:
    cond = torch.tensor([2, 1]) if "label" in step[0] else None
    assert error(ConstantModel(SIZE, [step], 4), SIZE, cond, engine="cpu") <= PARAMETERS


@pytest.mark.parametrize(("size", "step"), [((1, 8), ("started", "linear 2")), ((8, 1), ("positions", "blocks"))])
def test_one_row_or_column(size: tuple[int, int], step: tuple[str, str]) -> None:
    assert error(ConstantModel(size, [step], 5), size) <= PARAMETERS


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ((3, 4), [("positions", "layer norm rows"), ("none", "linear 2")]),
        ((3, 4), [("alone", "linear 3"), ("put", "conv1d")]),
        ((2, 2), [("right", "linear 2"), ("alone", "bmm")]),
        ((6, 2), [("right", "conv1d rows"), ("assigned line", "addmm")]),
    ],
)
def test_tokens_of_which_lines_are_constant(size: tuple[int, int], steps: list[tuple[str, str]]) -> None:
    """Where tokens stand in the image shows although whole rows, columns, or all but one of them come from no pixel."""
    assert error(ConstantModel(size, steps, 7), size) <= PARAMETERS


def test_constants_of_a_float64_module() -> None:
    model = ConstantModel(SIZE, [("positions", "conv above"), ("right", "linear 2")], 6).double()

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.double())

    assert error(Doubled()) <= PARAMETERS


# -------------------------------------------------------------------- values that sums and zeros spoil


class Wild(nn.Module):
    """Infinite, huge and undefined constants beside elements of the image, which what follows never mixes with them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner, self.out = kind, nn.Conv2d(1, 4, 1), nn.Conv2d(4, LEVELS, 1)
        self.register_buffer("mask", torch.arange(20).view(4, 5) % 7 != 2)
        self.table = nn.Embedding(LABELS, 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.inner(F.pad(x, (1, 0))[..., :-1])
        if self.kind == "infinite":
            wild = torch.where(self.mask, h, -torch.inf)
            h = wild.exp() + wild.clamp_min(-3)
        elif self.kind == "replaced":  # a product with 0 would keep what a division by 0 gives
            h = torch.where(self.mask, h / self.mask, 0.5)
        elif self.kind == "huge":
            h = torch.cat((h[:, :3], torch.full_like(h[:, :1], 1e30)), 1).clamp_max(2)
        else:  # the first element of what the label gives is infinite
            assert label is not None
            given = self.table(label).view(-1, 1, 1, 1).expand(-1, 4, 4, 5)
            given = torch.where(torch.arange(20).view(4, 5) == 0, -torch.inf, given)
            h = torch.where(self.mask, h, given).exp()
        return self.out(h)


@pytest.mark.parametrize("kind", ["infinite", "replaced", "huge", "label"])
def test_wild_constants_stay_where_they_are(kind: str) -> None:
    torch.manual_seed(0)
    cond, other = (torch.tensor([0, 1]), torch.tensor([3, 1])) if kind == "label" else (None, None)
    assert error(Wild(kind), SIZE, cond, other) <= PARAMETERS


class Forbidden(nn.Module):
    """A level that is forbidden where nothing else is known either, and one that the label forbids."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.inner, self.table, self.value = nn.Conv2d(1, LEVELS, 1), nn.Embedding(LABELS, 1), value

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = self.inner(F.pad(x[:, :, :-1], (0, 0, 1, 0)))
        last = torch.where(torch.arange(5) % 2 == 0, self.table(label).view(-1, 1, 1, 1).expand(-1, -1, 4, -1), self.value)
        return torch.cat((y[:, :2], last), 1)


@pytest.mark.parametrize("value", [-1e9, -torch.inf])
def test_outputs_may_be_constant(value: float) -> None:
    torch.manual_seed(1)
    assert error(Forbidden(value), SIZE, torch.tensor([0, 1]), torch.tensor([2, 3])) <= PARAMETERS


# -------------------------------------------------------------------- types


class Codes(nn.Module):
    """Integer images whose shifted pixels meet start codes, assignments, comparisons and masks of booleans."""

    integer = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.embed = kind, nn.Embedding(LEVELS + 2, 4, padding_idx=LEVELS)
        self.out = nn.Linear(4, LEVELS)
        self.register_buffer("start", torch.tensor([[LEVELS], [LEVELS + 1], [0], [1]]), persistent=False)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        codes = x[:, 0]
        if self.kind == "start":
            codes = torch.cat((self.start.expand(len(x), -1, -1), codes[..., :-1]), 2)
        elif self.kind == "put":
            places = torch.arange(len(x))[:, None], torch.tensor([1, 2]), torch.tensor([0, 3])
            codes = F.pad(codes[..., :-1], (1, 0)).index_put(places, torch.tensor(1))
        elif self.kind == "label":
            assert label is not None
            codes = torch.cat((label.view(-1, 1, 1).expand(-1, 4, 1), codes[..., :-1]), 2)
        else:
            known = F.pad(torch.ones_like(codes)[..., :-1], (1, 0)) > 0
            seen = F.pad(codes[..., :-1] == 1, (1, 0))
            codes = (~seen & known).long() + 2 * (seen | ~known).long()
        return self.out(self.embed(codes)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["start", "put", "label", "booleans"])
def test_constants_keep_their_types(kind: str) -> None:
    torch.manual_seed(2)
    cond, other = (torch.tensor([0, 1]), torch.tensor([LEVELS + 1, 2])) if kind == "label" else (None, None)
    assert error(Codes(kind), SIZE, cond, other) <= PARAMETERS


# -------------------------------------------------------------------- which constant is which


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("slow", [False, True], ids=["one trace", "run_decompositions"])
@pytest.mark.parametrize(("read", "norm"), [("assert", ""), ("number, sum", "hook"), ("assert, number", "parametrised")])
def test_constants_are_not_mixed_up(read: str, norm: str, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if slow:
        monkeypatch.setattr(export, "_is_aten", lambda _: False)
    torch.manual_seed(3)
    assert error(Watched(read, norm)) <= PARAMETERS


@pytest.mark.parametrize(("kind", "said"), [
    ("number", "a Python number from its conditions"), ("index", "indexes .* conditions"),
    ("memory", "as_strided"), ("batch norm", "that depends on conditions belongs to batch normalisation"),
])  # fmt: skip
def test_what_would_be_frozen_is_refused(kind: str, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        error(Conditional(kind), SIZE, torch.tensor([1, 1]))


@pytest.mark.parametrize("kind", ["layer norm", "bias", "asserted"])
def test_scales_and_biases_may_depend_on_conditions(kind: str) -> None:
    torch.manual_seed(4)
    assert error(Conditional(kind), SIZE, torch.tensor([1]), torch.tensor([3])) <= PARAMETERS
