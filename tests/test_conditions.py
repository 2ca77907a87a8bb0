"""Conditions: whose they are, how often they are evaluated, and that each image gets its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign import FOREIGN, right_shift
from oracle import ENGINES, agree, compare, first, images_of, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, InvalidInput, Sampler
from pixelfast.conditions import Conditions
from pixelfast.pipeline import evaluate_fields

SHAPE = (1, 5, 4)
HEAD = Categorical(4)


# -------------------------------------------------------------------- whose they are


def test_parsing() -> None:
    label, vector = torch.tensor([1, 2]), torch.zeros(2, 3)
    assert Conditions.parse(None) == Conditions()
    assert Conditions.parse(label).args == (label,)
    assert Conditions.parse([label, 3]).args == (label, 3)
    assert Conditions.parse({"h": vector, "strength": 2.0}).kwargs == {"h": vector, "strength": 2.0}
    parsed = Conditions.parse((label,))
    assert Conditions.parse(parsed) is parsed
    names = [name for name, _ in Conditions((label, 3), {"h": vector}).tensors()]
    assert names == ["cond[0]", "cond['h']"]


def test_one_entry_for_each_image_or_one_for_all() -> None:
    conditions = Conditions((torch.arange(4), torch.tensor([[7.0]]), torch.tensor(5.0), "text"))
    conditions.check(4)
    picked = conditions.rows(torch.tensor([3, 1]), 4)
    assert picked.args[0].tolist() == [3, 1]
    assert picked.args[1].tolist() == [[7.0], [7.0]]
    assert picked.args[2].item() == 5.0
    assert picked.args[3] == "text"
    with pytest.raises(InvalidInput, match=r"cond\[0\] has 4 entries .* but 5 images"):
        conditions.check(5)


def test_what_a_compiled_program_is_specialised_to() -> None:
    def signature(cond: Any) -> object:
        return Conditions.parse(cond).signature()

    assert signature(torch.zeros(3, 2)) == signature(torch.ones(7, 2))
    different = [torch.zeros(3, 2), torch.zeros(3, 4), torch.zeros(3, 2, dtype=torch.int64), (torch.zeros(3, 2), 1), None]
    different += [{"h": torch.zeros(3, 2)}, (torch.zeros(3, 2), 2), torch.zeros(()), {"g": torch.zeros(3, 2)}]
    assert len({signature(cond) for cond in different}) == len(different)
    assert signature({"a": 1, "b": 2}) == signature({"b": 2, "a": 1})


# -------------------------------------------------------------------- each image gets its own


class Everywhere(nn.Module):
    """A label, a vector, a map and a number, wherever they can enter: added, multiplied, joined, selecting, at the border."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.label, self.vector = nn.Embedding(5, 16), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8))
        self.map, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.LayerNorm(8)

    def forward(self, x: Tensor, label: Tensor, vector: Tensor, field: Tensor, strength: float = 1.0) -> Tensor:
        x = torch.cat([x, field], 1)
        h = F.pad(self.conv(x), (0, 0, 2, 0))[:, :, :-2]
        scale, shift = self.label(label)[:, :, None, None].chunk(2, 1)
        h = self.norm((h * (1 + scale) + strength * shift).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = torch.where(vector[:, :1, None, None] > 0, h, torch.tanh(h)) + self.vector(vector)[..., None, None]
        return self.out(torch.cat([F.relu(h), self.map(field)], 1))


def everything(n: int) -> tuple[Tensor, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(0)
    label, vector = torch.randint(5, (n,), generator=generator), torch.randn(n, 3, generator=generator)
    return label, vector, torch.randn(n, 2, *SHAPE[1:], generator=generator), 1.7


@pytest.fixture(scope="module")
def model() -> Everywhere:
    torch.manual_seed(0)
    return Everywhere()


def test_odd_and_even_batches_match_the_naive_loop(model: Everywhere) -> None:
    """Conditions are evaluated for two images at a time; the last of an odd number is not lost."""
    traced, cond = trace(model, SHAPE, HEAD, everything(5)), everything(5)
    naive = traced.run("naive", traced.request(5, 0, cond), cond)
    for n in (1, 2, 3, 4, 5):
        part = first(cond, n)
        request = traced.request(n, 0, part)
        for engine in ENGINES:
            assert agree(traced, traced.run(engine, request, part), images_of(naive, n), request, part, engine) == 0


@pytest.fixture(scope="module", params=ENGINES)
def sampler(request: pytest.FixtureRequest, model: Everywhere) -> Sampler:
    return pixelfast.compile(model, SHAPE, HEAD, cond=everything(2), engine=request.param)


def test_an_image_does_not_depend_on_the_others(sampler: Sampler) -> None:
    cond = everything(7)
    images = sampler.sample(7, seed=4, cond=cond)
    assert torch.equal(sampler.sample(7, seed=4, cond=cond, batch_size=3), images)
    alone = [sampler.sample(1, seed=4, cond=Conditions.parse(cond).rows(torch.tensor([i]), 7), first=i) for i in range(7)]
    assert torch.equal(torch.cat(alone), images)
    turned = tuple(c.flip(0) if isinstance(c, Tensor) else c for c in cond)
    assert not torch.equal(sampler.sample(7, seed=4, cond=turned), images)
    assert sampler.verify(images, seed=4, cond=cond).ok
    assert torch.allclose(sampler.log_prob(images, cond=cond, batch_size=2), sampler.log_prob(images, cond=cond))


def test_shared_and_own_conditions_may_be_mixed(sampler: Sampler) -> None:
    label, vector, field, strength = everything(4)
    mixed = sampler.sample(4, seed=1, cond=(label[:1], vector, field[2:3], strength))
    spelt = (label[:1].expand(4), vector, field[2:3].expand(4, -1, -1, -1), strength)
    assert torch.equal(mixed, sampler.sample(4, seed=1, cond=spelt))


def test_a_tuple_and_keywords_are_the_same(sampler: Sampler) -> None:
    label, vector, field, strength = everything(3)
    by_name = {"strength": strength, "field": field, "label": label, "vector": vector}
    assert torch.equal(
        sampler.sample(3, seed=1, cond=by_name), sampler.sample(3, seed=1, cond=(label, vector, field, strength))
    )


def test_numbers_are_part_of_the_program(sampler: Sampler, model: Everywhere) -> None:
    """Another number compiles another program: it may decide what the forward does."""
    label, vector, field, _ = everything(3)
    images = [sampler.sample(3, seed=1, cond=(label, vector, field, strength)) for strength in (0.0, 9.0)]
    naive = pixelfast.compile(model, SHAPE, HEAD, engine="naive")
    for strength, found in zip((0.0, 9.0), images, strict=True):
        assert torch.equal(found, naive.sample(3, seed=1, cond=(label, vector, field, strength)))


# -------------------------------------------------------------------- what they cost


class Counted(nn.Module):
    """A label behind an encoder, which is expensive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed, self.encoder = nn.Conv2d(1, 4, 1), nn.Embedding(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.conv(right_shift(x)) + self.encoder(self.embed(label))[..., None, None]


def test_repeated_labels_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = pixelfast.compile(Counted(), SHAPE, HEAD, cond=torch.tensor([0, 1]))
    compiled = sampler.prepare(torch.tensor([0, 1]))
    seen: list[int] = []
    graph = compiled.analysis.condition_graph
    assert graph is not None
    forward = graph.forward
    monkeypatch.setattr(graph, "forward", lambda *tensors: (seen.append(len(tensors[0])), forward(*tensors))[1])
    labels = torch.arange(100) % 3
    (field,) = (f for f in evaluate_fields(compiled, Conditions((labels,)), 100) if len(f) > 1)
    assert len(field) == 100
    assert sum(seen) == 4, "three labels, two at a time"
    assert (field[::3] == field[0]).all()
    assert not (field[1] == field[0]).all()


def test_a_condition_without_the_image_is_a_field() -> None:
    """The encoder of a foreign model runs in PyTorch, group normalisation, upsampling and all, and leaves a field."""
    foreign = FOREIGN["CoarseCodes"]
    sampler = pixelfast.compile(foreign.build(), foreign.shape, foreign.head, cond=foreign.cond(2))
    program = sampler.prepare(foreign.cond(2)).program
    own = [field for field in program.fields if field.value is None]
    assert {(field.rows, field.cols) for field in own} == {(7, 5), (1, 1)}


def test_a_product_with_a_condition_is_refused_by_name() -> None:
    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
            return torch.einsum("nchw,ncd->ndhw", self.conv(right_shift(x)), matrix)

    with pytest.raises(pixelfast.UnsupportedModel, match="a matrix that depends on conditions multiplies the image"):
        pixelfast.compile(Matrix(), SHAPE, HEAD, cond=torch.randn(2, 4, 4))


# -------------------------------------------------------------------- predictions that no sub-pixel enters


class RowsAbove(nn.Module):
    """Sees the row above, and what it is given: of an image of one row, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.label, self.out = nn.Linear(1, 6), nn.Embedding(5, 6), nn.Linear(6, 4)
        self.map = nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor, label: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.first(F.pad(x, (0, 0, 1, 0))[:, :, :-1].permute(0, 2, 3, 1)) + 0.5)
        h = h if label is None else h + self.label(label)[:, None, None]
        y = 3 * self.out(h).permute(0, 3, 1, 2)
        return y if place is None else y + self.map(place)


@pytest.mark.parametrize("order", ["raster", "columns-right-to-left"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("given", ["nothing", "label", "place"])
def test_what_no_sub_pixel_enters_is_drawn_all_the_same(given: str, shape: tuple[int, int, int], order: str) -> None:
    place = torch.randn(3, 2, *shape[1:], generator=torch.Generator().manual_seed(0))
    cond = {"nothing": None, "label": {"label": torch.tensor([1, 3, 0])}, "place": {"place": place}}[given]
    assert compare(trace(RowsAbove(), shape, HEAD, cond, order), 3, cond=cond) == 0


def test_a_model_that_ignores_the_image() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(1, 4, 5, 4, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), -1, -1, -1)

    assert compare(trace(Constant(), SHAPE, HEAD), 2) == 0
