"""What the Triton engine refuses, and how it is chosen; what it computes: tests/engines/interpreted and test_triton_gpu.py."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from attention_cases import Case, program_of
from programs import Builder, normal, probe, with_body
from torch import Tensor

import pixelfast
from pixelfast.distributions.base import Head
from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.distributions.categorical import Categorical
from pixelfast.distributions.mixture import MixtureOfLogistics
from pixelfast.engines import registry
from pixelfast.engines.base import Request, Result, why_not
from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton import arrangement as triton_arrangement
from pixelfast.engines.triton import engine as triton
from pixelfast.engines.triton.arrangement import Arrangement, arrange, wish
from pixelfast.engines.triton.stages import Stage, stages
from pixelfast.errors import EngineUnavailable, InvalidInput
from pixelfast.ir.program import (
    EVERYWHERE,
    Attention,
    Buffer,
    Cache,
    Draw,
    Instruction,
    Lattice,
    Lookup,
    Map,
    Norm,
    Op,
    PixelRuns,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)
from pixelfast.models import PixelCNN

HERE = triton.unavailable_reason() is None


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")


class Other(Categorical):
    """Probabilities of its own: no data that a kernel could read."""

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return super().probabilities(parameters.square(), temperature)


def small() -> Program:
    return Builder(np.random.default_rng(0), (1, 2, 2), features=5).build()


def test_what_it_runs() -> None:
    for asked in (small(), Categorical(7), Bernoulli(), Bernoulli(probability=True), MixtureOfLogistics(7)):
        assert why_not(asked, triton.CAPABILITIES) is None


def test_what_it_refuses_is_named() -> None:
    program = small()
    mixture = MixtureOfLogistics(7, 65).mixture
    reason = why_not(dataclasses.replace(program, head="mixture_of_logistics", mixture=mixture), triton.CAPABILITIES)
    assert reason == "a draw holds at most 64 components, the head has 65"
    wide, image = 8193, Rect(0, 1, 0, 1)
    ones = np.ones(wide, np.float32)
    norm = Instruction(Slot(0, 0, wide), Norm(Slot(1, 0, wide), ones, ones, 1e-5), image, "norms.0")
    reason = why_not(probe([normal(np.random.default_rng(0), 1, 1, 1, wide)], [norm], 3)[0], triton.CAPABILITIES)
    assert reason == "a layer norm holds at most 8192 features, norms.0 has 8193"
    program = program_of(Case(heads=1, size=1025), np.random.default_rng(0))
    reason = why_not(program, triton.CAPABILITIES)
    assert reason == "a head of attention holds at most 1024 channels, attention has 1025"
    assert str(why_not(Other(7), triton.CAPABILITIES)).startswith("a Other draws by Python functions")


SQUARE = Rect(0, 2, 0, 2)


def product(out: Slot, *taps: Slot) -> Instruction:
    rows = sum(tap.count for tap in taps)
    body = Product(taps, np.zeros((rows, out.count), np.float32), np.zeros(out.count, np.float32))
    return Instruction(out, body, SQUARE)


def copy(out: Slot, source: Slot, rect: Rect = SQUARE, lattice: Lattice = EVERYWHERE) -> Instruction:
    return Instruction(out, Map((source,), ()), rect, "", lattice)


WHOLE, OTHER, HALF = Slot(0, 0, 8), Slot(1, 0, 8), Slot(0, 0, 4)
APART: dict[str, Instruction] = {
    "a leaf is a part of the product": copy(Slot(2, 0, 8), Slot(0, 3, 1)),
    "a leaf is moved by a channel": copy(Slot(2, 0, 8), Slot(0, 1, 8)),
    "another rectangle": copy(Slot(2, 0, 8), WHOLE, Rect(0, 2, 0, 1)),
    "written over what the product reads": copy(OTHER, WHOLE),
    "written over a part of the product": copy(Slot(0, 2, 8), WHOLE),
    "another lattice": copy(Slot(2, 0, 8), WHOLE, lattice=Lattice(2, 0, 1, 0)),
    "written elsewhere": copy(Slot(2, 0, 8, 0, 1), WHOLE),
    "a norm of a half": Instruction(Slot(2, 0, 4), Norm(HALF, np.ones(4), np.ones(4), 1e-5), Rect(0, 2, 0, 2)),
}


@pytest.mark.parametrize("name", APART)
def test_what_is_a_launch_of_its_own(name: str) -> None:
    """Whatever another program of the same launch may not have computed, or not read yet."""
    image = Rect(0, 2, 0, 2)
    step = (product(WHOLE, OTHER), APART[name])
    buffers = tuple(Buffer(f"b{i}", 10, 1, (0, 3), image) for i in range(3))
    program = dataclasses.replace(small(), buffers=buffers, row=(), steps=(step,), draws=(Draw(0, Slot(2, 0, 5)),))
    assert [type(work) for work in stages(program, step)] == [Stage, Instruction]


def test_what_attention_reads_is_stored() -> None:
    image, cache = Rect(0, 2, 0, 2), Slot(2, 0, 8)
    buffers = tuple(Buffer(f"b{i}", 10, 2, (0, 3), image) for i in range(4))
    seen = PixelRuns.of(np.tri(4, k=-1, dtype=bool))
    caches = Cache(2, 0, 4, 0, 0), Cache(2, 4, 4, 0, 0)
    step = (
        product(WHOLE, OTHER), copy(cache, WHOLE),
        Instruction(Slot(3, 0, 4), Attention(HALF, *caches, 1, 1, 1.0, seen, None), image),
    )  # fmt: skip
    program = dataclasses.replace(small(), buffers=buffers, row=(), steps=(step,), draws=(Draw(0, Slot(3, 0, 4)),))
    stage, *_ = stages(program, step)
    assert isinstance(stage, Stage)
    assert stage.stored == ("y0", "z0")
    stage, *rest = stages(program, step, alone={2})
    assert isinstance(stage, Stage)
    assert (stage.stored, rest) == (("y0",), list(step[1:]))


def test_what_a_launch_need_not_store() -> None:
    image = Rect(0, 2, 0, 2)
    buffers = tuple(Buffer(f"b{i}", 10, 1, (0, 3), image) for i in range(3))
    step = (product(WHOLE, OTHER), Instruction(Slot(2, 0, 8), Map((WHOLE, OTHER), (Op("add", (0, 1)),)), image))
    program = dataclasses.replace(small(), buffers=buffers, row=(), steps=(step,), draws=(Draw(0, Slot(2, 0, 5)),))
    (stage,) = stages(program, step)
    assert isinstance(stage, Stage)
    assert (stage.registers, stage.stored) == ((("y0", None),), ("z0",))
    (stage,) = stages(dataclasses.replace(program, draws=(Draw(0, Slot(0, 7, 1)),)), step)
    assert isinstance(stage, Stage)
    assert stage.stored == ("y0",)


HOST = torch.device("cpu")


def test_small_nets_are_for_the_persistent_kernel_and_large_ones_for_graphs() -> None:
    """By the estimates: weights of a step up to about a megabyte; images as long as each program has a processor of its own."""
    builder = Builder(np.random.default_rng(0), (1, 2, 2), features=64)
    program = builder.build()
    for images, own in ((1, 8), (64, 8), (1000, 16), (2000, 16)):
        found = arrange(program, images, "fp32", None, HOST)
        assert (found.name, found.own) == ("persistent", own)
        assert "us in a persistent kernel" in found.reason
    assert arrange(program, 100_000, "fp32", None, HOST).name == "graph"
    (step,) = program.steps
    wide = tuple(
        with_body(work, weights=np.broadcast_to(np.float32(0), (20_000, 64))) if isinstance(work.body, Product) else work
        for work in step
    )
    large = dataclasses.replace(program, steps=(wide,))
    assert arrange(large, 1, "fp16", None, HOST).name == "graph"
    assert arrange(large, 1, "fp16", "persistent", HOST) == Arrangement(8, "asked for")
    assert arrange(program, 1, "fp32", "graph", HOST) == Arrangement(0, "asked for")


def test_what_no_persistent_kernel_runs_is_a_graph_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    program = small()
    without = dataclasses.replace(triton_arrangement.PERSISTENT, bodies=(Map, Lookup, Norm, Product))
    monkeypatch.setattr(triton_arrangement, "PERSISTENT", without)
    reduce = Instruction(Slot(0, 0, 1), Reduce("mean", (Slot(0, 0, 1),), 0.0), Rect(0, 1, 0, 1), "means.0")
    program = dataclasses.replace(program, steps=(tuple(i for i in program.steps[0] if not isinstance(i.body, Reduce)),))
    refused = {
        "it has no instructions of kind Reduce (means.0)": dataclasses.replace(program, steps=((reduce,),)),
        "the head draws by Python functions, which compiled code cannot call from its threads without waiting for each other, "
        "nor with the same bits for any number of images": dataclasses.replace(program, head="custom"),
        "a draw holds at most 2048 parameters, the head has 2049": dataclasses.replace(
            program, parameters=2049
        ),
    }
    for reason, other in refused.items():
        assert arrange(other, 1, "fp32", None, HOST) == Arrangement(0, reason)
        with pytest.raises(EngineUnavailable, match="cannot run this model persistently: " + re.escape(reason)):
            arrange(other, 1, "fp32", "persistent", HOST)


def test_an_arrangement_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wish(None) is None
    assert wish("graph") == "graph"
    monkeypatch.setenv("PIXELFAST_ARRANGEMENT", "persistent")
    assert wish(None) == "persistent"
    assert wish("graph") == "graph"
    with pytest.raises(InvalidInput, match="there is no arrangement 'wave'"):
        wish("wave")


@pytest.mark.skipif(HERE, reason="it runs here")
def test_without_a_gpu() -> None:
    model = PixelCNN((1, 3, 2), levels=3, features=4, blocks=1).eval()
    with pytest.raises(EngineUnavailable, match="the engine 'triton' cannot run here: PyTorch finds no CUDA device"):
        pixelfast.sample(model, engine="triton")
    with pytest.raises(EngineUnavailable, match="cannot run here"):
        triton.TritonEngine(small())
    assert registry.choose("auto", "fp32", Categorical(3), torch.device("cuda")) != "triton"
    with pytest.raises(EngineUnavailable, match="the precision 'fp16' can run here: triton: PyTorch finds no CUDA device"):
        pixelfast.compile(model, precision="fp16")


class Reference:
    """Stands for the engine on a GPU."""

    def __init__(self, program: Program, *_: object) -> None:
        self.program = program

    def run(self, request: Request) -> Result:
        return reference(self.program, request)


class Refusing:
    def __init__(self, program: Program, *_: object) -> None:
        raise EngineUnavailable("the engine 'triton' cannot run this model: it has no kernel for that")


@pytest.mark.parametrize("made", [Reference, Refusing])
def test_auto_takes_it_for_modules_on_a_gpu_and_falls_back(made: type, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(registry.ENGINES["triton"], unavailable_reason=lambda: None, make=made)
    monkeypatch.setitem(registry.ENGINES, "triton", entry)
    head = Categorical(3)
    assert registry.choose("auto", "fp32", head, torch.device("cuda")) == "triton"
    other = registry.choose("auto", "fp32", head)
    model = PixelCNN((1, 3, 2), levels=3, features=4, blocks=1).eval()
    sampler = pixelfast.compile(model)
    assert sampler.engine == other
    chosen = registry.choose

    def choose_on_a_gpu(name: str, precision: str, asked: Program | Head, _: torch.device, but: str = "") -> str:
        return chosen(name, precision, asked, torch.device("cuda"), but)

    monkeypatch.setattr(registry, "choose", choose_on_a_gpu)
    sampler = pixelfast.compile(model)
    assert sampler.engine == ("triton" if made is Reference else other)
    assert (sampler.sample(2, seed=1) == pixelfast.sample(model, 2, seed=1, engine="reference")).all()
    if made is Refusing:
        with pytest.raises(EngineUnavailable, match="it has no kernel for that"):
            pixelfast.compile(model, engine="triton")


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_bfloat16_where_the_gpu_multiplies_it(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "unavailable_reason", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    if capability < (8, 0):
        with pytest.raises(EngineUnavailable, match=r"T4, of compute capability 7.5, .* Use precision='fp16' or 'fp32'"):
            triton.TritonEngine(small(), "bf16")
    else:
        assert triton.TritonEngine(small(), "bf16").precision == "bf16"
    assert triton.TritonEngine(small(), "fp16").precision == "fp16"
