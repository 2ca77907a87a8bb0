"""Conditions: whose they are, and that each image gets its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import ENGINES, agree, first, images_of, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, InvalidInput, Sampler
from pixelfast.inputs.conditions import Conditions

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
    assert signature({"a": 1, "b": 2}) != signature({"b": 2, "a": 1})  # a forward may take **options in their order


class Told(nn.Module):
    """A bias for all of the image, from whatever it is told."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.read = nn.Conv2d(1, 4, 1), read
        self.table = nn.Embedding(6, 4)
        nn.init.normal_(self.table.weight, std=3.0)

    def forward(self, x: Tensor, told: Any) -> Tensor:
        h = torch.as_tensor(self.read(told))
        h = h if h.dim() else h.reshape(1)
        return self.conv(F.pad(x, (1, -1))) + h.to(x.dtype).reshape(*h.shape, *(1,) * (4 - h.dim()))


class Mood:
    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __repr__(self) -> str:
        return "a mood"


def one_hot(label: Tensor) -> Tensor:
    return F.one_hot(label, 4) * 5.0


LABELS = [3, 1, 0, 2]
FIELD = 3 * torch.randn(4, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
TOLD: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "an array of labels": (one_hot, np.array(LABELS), np.array(LABELS[::-1], np.int32)),
    "a list of labels": (one_hot, LABELS, LABELS[::-1]),
    "a list of vectors": (torch.as_tensor, [[i * 2.0, 0.0, 1.0, 0.0] for i in LABELS], [[0, i * 2, 0, 1] for i in LABELS]),
    "one label for all images": (one_hot, 3, 1),
    "NumPy's label for all images": (one_hot, np.int64(3), np.int16(1)),
    "a Python number that decides": (lambda depth: 9.0 if depth == 3 else [[0.0, 0.0, 9.0, 0.0]], 3, 2),
    "a truth": (lambda on: [[0.0, 9.0, 0.0, 0.0]] if on else 0.0, True, False),
    "a text": (lambda text: [[float(len(text)), 0.0, 0.0, 0.0]], "a", "abcdef"),
    "a large array as it is": (lambda array: torch.from_numpy(array).reshape(1, 4, 5, 4), FIELD.numpy() * 0, FIELD.numpy()),
    "a large tensor in a list": (lambda held: held[0].reshape(1, 4, 5, 4), ([FIELD * 0],), ([FIELD],)),
    "a tensor in dictionaries": (
        lambda held: held["a"]["b"].reshape(1, 4, 5, 4),
        ({"a": {"b": FIELD * 0}},),
        ({"a": {"b": FIELD}},),
    ),
    "labels in a dictionary": (
        lambda held: one_hot(held["label"]),
        ({"label": torch.tensor(LABELS)},),
        ({"label": torch.tensor(LABELS[::-1])},),
    ),
    "an object": (lambda mood: [[mood.gain, 0.0, 0.0, 0.0]], Mood(0.0), Mood(9.0)),
    "a gradient": (one_hot, torch.tensor(LABELS), torch.tensor([0, 0, 1, 1])),
    "large integers": (lambda label: one_hot(label % 4), torch.tensor(LABELS) + 2**60, torch.tensor(LABELS[::-1]) + 2**60),
    "complex numbers": (lambda z: z.imag * 5, 1j * torch.eye(4), 1j * torch.eye(4).flip(0)),
    "doubles with a gradient": (
        lambda h: h, torch.randn(4, 4, dtype=torch.float64, requires_grad=True), torch.ones(4, 4, dtype=torch.float64) * 4
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_whatever_a_module_is_told_is_told_apart(case: str) -> None:
    """The second call of a sampler, with another condition of the same kind, equals the naive loop, as the first does."""
    read, *told = TOLD[case]
    model = Told(read)
    sampler = pixelfast.compile(model, SHAPE, HEAD, cond=told[0], engine="reference")
    naive = pixelfast.compile(model, SHAPE, HEAD, engine="naive")
    images = [sampler.sample(4, seed=1, cond=cond) for cond in told]
    assert not torch.equal(*images)
    for found, cond in zip(images, told, strict=True):
        assert torch.equal(found, naive.sample(4, seed=1, cond=cond))
        assert sampler.verify(found, seed=1, cond=cond).ok


def test_an_object_that_changes_between_calls_is_noticed() -> None:
    mood = Mood(0.0)
    model = Told(lambda mood: [[mood.gain, 0.0, 0.0, 0.0]])
    sampler = pixelfast.compile(model, SHAPE, HEAD, cond=mood, engine="reference")
    before = sampler.sample(4, seed=1, cond=mood)
    mood.gain = 9.0
    now = sampler.sample(4, seed=1, cond=mood)
    assert not torch.equal(now, before)
    assert torch.equal(now, pixelfast.sample(model, 4, shape=SHAPE, head=HEAD, engine="naive", seed=1, cond=mood))


def test_the_order_of_arguments_by_name_counts() -> None:
    class First(Told):
        def forward(self, x: Tensor, **by_name: float) -> Tensor:
            return super().forward(x, next(iter(by_name.values())))

    model = First(lambda gain: [[gain, 0.0, 0.0, 0.0]])
    told: list[dict[str, float]] = [{"one": 0.0, "other": 9.0}, {"other": 9.0, "one": 0.0}]
    sampler = pixelfast.compile(model, SHAPE, HEAD, cond=told[0], engine="reference")
    images = [sampler.sample(4, seed=1, cond=cond) for cond in told]
    naive = pixelfast.compile(model, SHAPE, HEAD, engine="naive")
    assert all(map(torch.equal, images, (naive.sample(4, seed=1, cond=cond) for cond in told)))
    assert not torch.equal(*images)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"cond= holds a builtins\.generator whose contents cannot be compared .* pass "):
        pixelfast.compile(Told(lambda _: 0.0), SHAPE, HEAD, cond=((i for i in range(3)),), engine="reference")


@pytest.mark.parametrize("tensor", [torch.zeros(1, device="meta"), torch.eye(2).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_numbers_are_refused(tensor: Tensor) -> None:
    with pytest.raises(InvalidInput, match=r"cond\[0\] "):
        pixelfast.compile(Told(one_hot), SHAPE, HEAD, cond=tensor)


@pytest.mark.parametrize(
    ("cond", "name"),
    [
        (np.ma.masked_equal(np.arange(4), 2), "0"),
        ((torch.arange(4), np.ma.masked_equal(np.arange(4.0), 2)), "1"),
        ({"told": [np.arange(4), {"more": np.ma.masked_equal(np.arange(4), 2)}]}, "'told'"),
        (np.ma.masked, "0"),
    ],
    ids=["alone", "positional", "nested", "a number"],
)
def test_masked_entries_are_refused(cond: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"cond\[{name}\] holds masked entries"):
        Conditions.parse(cond)


def test_an_array_with_nothing_masked_is_an_array() -> None:
    given = np.ma.array(np.arange(4))
    (told,) = Conditions.parse(given).readings(4)[0].args
    assert isinstance(told, Tensor)
    assert told.tolist() == [0, 1, 2, 3]


def test_errors_name_all_conditions() -> None:
    model = Told(one_hot)
    sampler = pixelfast.compile(model, SHAPE, HEAD, engine="naive")
    wanted = r"with cond\['told'\] \(5,\) int64 \(.* as it is.*\), cond\['more'\] str 'text', cond\['size'\] int 3: Type"
    with pytest.raises(InvalidInput, match=wanted):
        sampler.sample(4, cond={"told": np.arange(5), "more": "text", "size": 3})
    with pytest.raises(InvalidInput, match="with no conditions: TypeError"):
        pixelfast.sample(model, 4, shape=SHAPE, head=HEAD)
    with pytest.raises(InvalidInput, match=r"cond\[0\] has 5 entries .* but 4 images"):
        sampler.sample(4, cond=torch.arange(5))


def test_numbers_in_a_list_may_be_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor, gain: float, offset: float) -> Tensor:
            return self.conv(F.pad(x, (1, -1))) * gain + offset

    sampler = pixelfast.compile(Two(), SHAPE, HEAD, engine="reference", cond=[2.0, 3.0])
    assert torch.equal(sampler.sample(2, seed=0, cond=[2.0, 3.0]), sampler.sample(2, seed=0, cond=(2.0, 3.0)))


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
