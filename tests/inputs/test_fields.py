"""What follows from conditions alone: computed once for all images that share it, and never from other images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from foreign import right_shift
from foreign_models import FOREIGN
from oracle import compare, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, NumericalError, UnsupportedModel
from pixelfast.inputs.conditions import Conditions
from pixelfast.pipeline import evaluate_fields

SHAPE = (1, 5, 4)
HEAD = Categorical(4)


class Counted(nn.Module):
    """A label behind an encoder, which is expensive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed, self.encoder = nn.Conv2d(1, 4, 1), nn.Embedding(10, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.conv(right_shift(x)) + self.encoder(self.embed(label))[..., None, None]


def test_repeated_labels_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = pixelfast.compile(Counted(), SHAPE, HEAD, cond=torch.tensor([0, 1]))
    sampler.sample(2, cond=torch.tensor([0, 1]))  # two images that differ are also evaluated beside copies of themselves, once
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


OVER_THE_BATCH: dict[str, Callable[[Tensor], Tensor]] = {
    "less the mean": lambda told: told - told.mean(0),
    "the mean alone": lambda told: told.mean(0, keepdim=True),
    "normalised": lambda told: F.normalize(told, dim=0),
    "the images turned around": lambda told: told.flip(0),
    "a running sum": lambda told: told.cumsum(0),
    "attention": lambda told: (told @ told.T).softmax(-1) @ told,
    "beside a large number": lambda told: torch.cat([told[:, :1] * 0 - 1e9, (told - told.mean(0))[:, 1:]], 1),
}


class Together(nn.Module):
    """A model whose labels go through a function that may look at those of other images."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.embed, self.change = nn.Conv2d(1, 3, 1), nn.Embedding(4, 3), change

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.conv(right_shift(x)) + self.change(self.embed(label))[..., None, None]


@pytest.mark.parametrize("change", OVER_THE_BATCH.values(), ids=OVER_THE_BATCH)
def test_statistics_over_a_batch_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    """Two of them pass for right: they are evaluated two by two. So the first call with conditions that differ refuses."""
    for self_check in (True, False):
        sampler = pixelfast.compile(Together(change), (1, 2, 3), Categorical(3, encode="symmetric"), engine="reference",
                                    self_check=self_check)  # fmt: skip
        for labels in ([1, 3], [1, 1, 2], [0, 1, 2, 3]):
            with pytest.raises(UnsupportedModel, match=r"depends on those of the others .* Compute that outside of the model"):
                sampler.sample(len(labels), seed=0, cond=torch.tensor(labels))
    with pytest.raises(UnsupportedModel, match="Compute that outside of the model"):
        sampler.verify(torch.zeros(3, 1, 2, 3).long(), seed=0, cond=torch.tensor([0, 1, 2]))


def test_statistics_over_an_image_are_not() -> None:
    model = Together(lambda told: (told - told.mean(1, keepdim=True)).cumsum(1).log())  # NaN of two numbers below 0
    sampler = pixelfast.compile(model, (1, 2, 3), Categorical(3, encode="symmetric"), engine="reference")
    with pytest.raises(NumericalError):
        sampler.sample(3, seed=0, cond=torch.tensor([0, 1, 2]))
    model = Together(lambda told: F.layer_norm(told, (3,)).flip(1))
    sampler = pixelfast.compile(model, (1, 2, 3), Categorical(3, encode="symmetric"), engine="reference")
    labels = torch.tensor([0, 1, 2])
    assert sampler.verify(sampler.sample(3, seed=0, cond=labels), seed=0, cond=labels).ok


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
