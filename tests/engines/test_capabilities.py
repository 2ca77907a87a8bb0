"""What engines can run, as data: every kind of instruction and of head is listed by an engine, or refused in words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import Case, program_of
from programs import Builder, by_phases, probe, swept
from torch import Tensor

import pixelfast
from pixelfast import Bernoulli, Categorical, CustomHead, EngineUnavailable, MixtureOfGaussians, MixtureOfLogistics
from pixelfast.distributions.base import Head
from pixelfast.engines import registry
from pixelfast.engines.base import LIMITS, Capabilities, Engine, why_not
from pixelfast.engines.registry import ENGINES
from pixelfast.engines.triton.arrangement import PERSISTENT
from pixelfast.ir.program import BODIES, CUSTOM, HEADS, Attention, Body, Instruction, Map, Op, Program, Rect, Slot
from pixelfast.lowering.draws import head_name
from pixelfast.precision import PRECISIONS

EVERYTHING = Capabilities(BODIES, (*HEADS, CUSTOM), tuple(PRECISIONS), lattices=True, sweeps=True)
LISTED = {**{name: entry.capabilities for name, entry in ENGINES.items()}, "persistent": PERSISTENT}
IMAGE = Rect(0, 1, 0, 1)


def softmax(parameters: Tensor) -> Tensor:
    return parameters.softmax(-1)


HEAD_OBJECTS: dict[str, Head] = {
    "categorical": Categorical(4), "bernoulli_logit": Bernoulli(), "bernoulli_probability": Bernoulli(probability=True),
    "mixture_of_logistics": MixtureOfLogistics(4), "mixture_of_gaussians": MixtureOfGaussians(4, 2),
    CUSTOM: CustomHead(4, 4, softmax),
}  # fmt: skip


def program() -> Program:
    return Builder(np.random.default_rng(0), (1, 3, 2), features=5).build()


def program_with(body: type[Body]) -> Program:
    """One that has such an instruction, for a layer of that name."""
    found = program_of(Case(), np.random.default_rng(0)) if body is Attention else program()
    row, *steps = (
        tuple(replace(i, layer=f"my.{type(i.body).__name__}") for i in instructions)
        for instructions in (found.row, *found.steps)
    )
    found = replace(found, row=row, steps=tuple(steps))
    assert any(type(instruction.body) is body for instruction in found.instructions())
    return found


def test_all_kinds_are_tried() -> None:
    assert set(HEAD_OBJECTS) == {*HEADS, CUSTOM}
    assert {head_name(head) for head in HEAD_OBJECTS.values()} == set(HEAD_OBJECTS)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", LISTED)
def test_every_body_is_listed_or_refused_in_words(name: str, body: type[Body]) -> None:
    has = LISTED[name]
    without = replace(has, bodies=tuple(kind for kind in has.bodies if kind is not body))
    refused = f"it has no instructions of kind {body.__name__} (my.{body.__name__})"
    assert refused in str(why_not(program_with(body), without))
    assert (refused in str(why_not(program_with(body), has))) == (body not in has.bodies)


@pytest.mark.parametrize("head", HEAD_OBJECTS)
@pytest.mark.parametrize("name", LISTED)
def test_every_head_is_listed_or_refused_in_words(name: str, head: str) -> None:
    has = LISTED[name]
    drawn = replace(program(), head=head, mixture=getattr(HEAD_OBJECTS[head], "mixture", None))
    for asked, called in ((drawn, "the head"), (HEAD_OBJECTS[head], f"a {type(HEAD_OBJECTS[head]).__name__}")):
        words = f"{called} draws by Python functions" if head == CUSTOM else f", not from {head}"
        assert (words in str(why_not(asked, has))) == (head not in has.heads)
        assert words in str(why_not(asked, replace(has, heads=())))


@pytest.mark.parametrize("name", LISTED)
def test_lattices_sweeps_and_precisions_are_listed_or_refused_in_words(name: str) -> None:
    has = LISTED[name]
    strided, (recurrence, _) = by_phases(program(), 2, 1), swept(np.random.default_rng(0), 3, 2, 1)
    assert ("at some rows or columns only" in str(why_not(strided, has))) != has.lattices
    assert ("recurrences along a row" in str(why_not(recurrence, has))) != has.sweeps
    for precision in PRECISIONS:
        words = f"it has no precision {precision!r}, only {', '.join(has.precisions)}"
        assert (words in str(why_not(program(), has, precision))) == (precision not in has.precisions)


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_say_how_much_there_is_and_where(limit: str) -> None:
    found = program_of(Case(), np.random.default_rng(0)) if limit == "most_attended" else program()
    if limit == "most_components":
        found = replace(found, head="mixture_of_logistics", mixture=MixtureOfLogistics(4, 2).mixture)
    what, counted = LIMITS[limit]
    (reason,) = str(why_not(found, replace(EVERYTHING, **{limit: 1}))).split("; ")
    assert re.fullmatch(rf"{what} holds at most 1 {counted}, .+ has \d+", reason)
    assert why_not(found, replace(EVERYTHING, **{limit: 1000})) is None


def test_layers_are_named_once_and_the_first_few() -> None:
    made = [Instruction(Slot(0, 0, 1), Map((1.0,), (Op("neg", (0,)),)), IMAGE, layer) for layer in "abbcd"]
    found, _ = probe([np.zeros((1, 1, 1, 1), np.float32)], made, 2)
    reason = why_not(replace(found, steps=(tuple(made),)), replace(EVERYTHING, bodies=()))
    assert reason == "it has no instructions of kind Map (a, b, c, ...)"


@pytest.mark.parametrize(
    "change", [{"bodies": (Body,)}, {"heads": ("poisson",)}, {"precisions": ("int4",)}, {"bodies": ("Product",)}]
)
def test_what_there_is_not_cannot_be_listed(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="there is no such body, head or precision"):
        replace(EVERYTHING, **change)


@pytest.mark.parametrize("name", ENGINES)
def test_a_program_that_an_engine_does_not_list_is_refused_before_it_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it lacks, where, and which engines do not."""

    def made(*_: object) -> Engine:
        raise AssertionError("it must not be made")

    lacking = replace(EVERYTHING, bodies=tuple(set(BODIES) - {Attention}))
    other = next(engine for engine in ENGINES if engine != name)
    for engine, entry in ENGINES.items():
        has = lacking if engine != other else EVERYTHING
        monkeypatch.setitem(ENGINES, engine, replace(entry, unavailable_reason=lambda: None, capabilities=has, make=made))
    with pytest.raises(EngineUnavailable) as refused:
        registry.make(name, program_of(Case(), np.random.default_rng(0)))
    assert str(refused.value) == (
        f"the engine {name!r} cannot run this: it has no instructions of kind Attention (attention); "
        f"use engine={other!r} or 'naive'"
    )


def test_auto_takes_the_next_engine_that_can_run_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several before it can draw from the head, and refuse the program only."""
    for name in ENGINES:
        if name != registry.REFERENCE:
            has = replace(EVERYTHING, bodies=())
            monkeypatch.setitem(
                ENGINES, name, replace(ENGINES[name], unavailable_reason=lambda: None, capabilities=has, automatic=lambda: True)
            )
    model = pixelfast.models.PixelCNN((1, 3, 2), levels=3, features=4, blocks=1).eval()
    assert pixelfast.compile(model).engine == registry.REFERENCE


def test_a_module_s_device_decides_which_engine_is_tried_first() -> None:
    for name, entry in ENGINES.items():
        if entry.first_on is not None and entry.unavailable_reason() is None and entry.automatic():
            assert registry.choose("auto", "fp32", Categorical(3), torch.device(entry.first_on)) == name


def test_engines_have_names_in_their_own_folders_and_in_the_registry_only() -> None:
    root = Path(pixelfast.__file__).parent
    names = re.compile(rf"(?:engine\w* (?:==|!=|in|not in) \(?|ENGINES\[)['\"](?:{'|'.join((*ENGINES, registry.NAIVE))})['\"]")
    files = [file for file in root.rglob("*.py") if "engines" not in file.relative_to(root).parts]
    assert [str(file) for file in files if names.search(file.read_text(encoding="utf-8"))] == []
