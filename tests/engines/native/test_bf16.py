"""precision="bf16": products against the reference engine with everything rounded, then whole models against PyTorch's bf16."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from native import ARRANGEMENTS, ISAS, close
from programs import Builder, normal, probe, request, wide_rows, with_body
from tolerances import INSTRUCTION
from torch import Tensor, nn

import pixelfast
from pixelfast.cli.conditions import held_out
from pixelfast.engines import cpu
from pixelfast.engines.base import Request
from pixelfast.engines.cpu import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.errors import EngineUnavailable
from pixelfast.files.checkpoint import load, shipped
from pixelfast.inputs.conditions import Conditions
from pixelfast.ir.program import Instruction, Map, Op, Product, Program, Rect, Slot
from pixelfast.models import GatedPixelCNN, PixelCNN

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))

IMAGE = Rect(0, 7, 0, 5)
SUBNORMAL = 1.17549e-38


def rounded(array: np.ndarray) -> np.ndarray:
    return torch.from_numpy(array).bfloat16().float().numpy()


def with_rounded_weights(program: Program) -> Program:
    def low(instructions):
        return tuple(with_body(i, weights=rounded(i.body.weights)) if isinstance(i.body, Product) else i for i in instructions)

    return dataclasses.replace(program, row=low(program.row), steps=tuple(map(low, program.steps)))


# Products.


@pytest.mark.parametrize("images", [1, 3, 25])  # 25 images x 3 columns are more rows than are rounded at once
@pytest.mark.parametrize("outputs", [1, 3, 17, 33, 70, 130])
def test_products(outputs: int, images: int) -> None:
    rng = np.random.default_rng(outputs + images)
    inputs = [normal(rng, images, 7, 5, 17), normal(rng, images, 7, 5, 6)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(2, 0, 5, -1, -2), Slot(2, 0, 6))
    weights = normal(rng, 32, outputs) * np.exp(rng.uniform(-50, 0, (32, outputs))).astype(np.float32)
    made = [
        Instruction(Slot(0, 0, outputs), Product(taps, weights, normal(rng, outputs)), IMAGE),
        Instruction(
            Slot(0, outputs // 2, outputs - outputs // 2),
            Product(taps[1:3], normal(rng, 4, outputs - outputs // 2), None),
            IMAGE,
        ),
    ]
    program, fields = probe(inputs, made, max(outputs, 2))
    for known in (0.0, 1.0):
        call = request(program, np.random.default_rng(0), images, known=known, fields=fields)
        low = dataclasses.replace(call, fields=tuple(map(rounded, fields)))
        truth = reference(with_rounded_weights(program), low).parameters[..., :outputs]
        for isa in ISAS:
            engine = CpuEngine(program, isa=isa, precision="bf16")
            assert engine.low_products == 2
            close(engine.run(call).parameters[..., :outputs], truth, INSTRUCTION, isa)


def numbers_to_round() -> np.ndarray:
    """(N, 7, 5, 1): ties to both sides, the ends of the range, infinity, NaN with any payload, and numbers of all sizes."""
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x3F807FFF, 0x3F808001, 0x3FFF8000, 0x7F7F7FFF, 0x7F7F8000], np.uint32)
    odd = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7FFF8000, 0x7F800000, 0xFF800000, 0, 0x80000000], np.uint32)
    rng = np.random.default_rng(0)
    some = rng.integers(2**32, size=35 * 8 - 16, dtype=np.uint32)
    return np.concatenate([ties, odd, some]).view(np.float32).reshape(-1, 7, 5, 1)


def same_but_subnormal(found: np.ndarray, expected: np.ndarray, isa: str) -> None:
    """Bit for bit, with any NaN for NaN. Instructions for bfloat16 may take subnormal numbers for zero."""
    small = np.abs(expected) < SUBNORMAL
    assert (np.abs(found[small]) < SUBNORMAL).all()
    np.testing.assert_array_equal(found[~small], expected[~small], err_msg=isa)


def test_inputs_are_rounded_as_pytorch_rounds() -> None:
    x = numbers_to_round()
    copies = Instruction(Slot(0, 0, 1), Product((Slot(1, 0, 1),), np.ones((1, 1), np.float32), np.zeros(1, np.float32)), IMAGE)
    program, fields = probe([x], [copies], 2)
    call = request(program, np.random.default_rng(0), len(x), known=1.0, fields=fields)
    with np.errstate(all="ignore"):
        for isa in ISAS:
            found = CpuEngine(program, isa=isa, precision="bf16").run(call).parameters[..., 0, :1]
            same_but_subnormal(found, rounded(x), isa)


def test_weights_are_rounded_as_pytorch_rounds() -> None:
    weights = numbers_to_round().reshape(1, -1)
    outputs = weights.shape[1]
    product = Instruction(Slot(0, 0, outputs), Product((Slot(1, 0, 1),), weights, np.zeros(outputs, np.float32)), IMAGE)
    program, fields = probe([np.ones((3, 7, 5, 1), np.float32)], [product], outputs)
    call = request(program, np.random.default_rng(0), 3, known=1.0, fields=fields)
    expected = np.broadcast_to(rounded(weights), (3, 7, 5, outputs))
    with np.errstate(all="ignore"):
        for isa in ISAS:
            found = CpuEngine(program, isa=isa, precision="bf16").run(call).parameters[..., 0, :]
            same_but_subnormal(found, expected, isa)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_not_finite_spoils_its_own_row_only(count: int) -> None:
    """Also where a tap's last channel is filled up: zero times infinity would be NaN."""
    rng = np.random.default_rng(count)
    x = normal(rng, 3, 7, 5, count)
    x[1, 2, 3, -1], x[2, 4, 4, 0] = np.inf, np.nan
    product = Instruction(
        Slot(0, 0, 19), Product((Slot(1, 0, count),), np.abs(normal(rng, count, 19)) + 0.1, normal(rng, 19)), IMAGE
    )
    program, fields = probe([x], [product], 19)
    call = request(program, rng, 3, known=1.0, fields=fields)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa, precision="bf16").run(call).parameters[..., 0, :]
        assert np.isposinf(found[1, 2, 3]).all(), isa
        assert np.isnan(found[2, 4, 4]).all(), isa
        found[1, 2, 3] = found[2, 4, 4] = 0.0
        assert np.isfinite(found).all(), isa


def test_only_products_are_rounded() -> None:
    rng = np.random.default_rng(4)
    x = normal(rng, 3, 7, 5, 17)
    made = [
        Instruction(Slot(0, 0, 17), Product((Slot(1, 0, 17),), np.zeros((17, 17), np.float32), normal(rng, 17)), IMAGE),
        Instruction(Slot(0, 0, 17), Map((Slot(0, 0, 17), Slot(1, 0, 17)), (Op("add", (0, 1)),)), IMAGE),
    ]
    program, fields = probe([x], made, 17)
    call = request(program, rng, 3, known=1.0, fields=fields)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa, precision="bf16").run(call).parameters[..., 0, :]
        np.testing.assert_array_equal(found, x + made[0].body.bias, err_msg=isa)


# Whole programs.


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("wide", [False, True])
def test_every_arrangement_computes_the_same_bits(isa: str, wide: bool) -> None:
    rng, images = np.random.default_rng(3), 5
    builder = Builder(rng, shape=(2, 9, 14), features=21)
    program = wide_rows(rng) if wide else builder.build()
    fields = () if wide else builder.field_values(images)
    engine = CpuEngine(program, isa=isa, precision="bf16")
    assert engine.fast_products == 0
    call = request(program, rng, images, fields=fields)
    whole = engine.run(call)
    for arrangement in ARRANGEMENTS:
        found = engine.run(call, arrangement=arrangement)
        np.testing.assert_array_equal(found.parameters, whole.parameters, err_msg=str(arrangement))
        np.testing.assert_array_equal(found.values, whole.values, err_msg=str(arrangement))


class InBfloat16(nn.Module):
    """A module as PyTorch computes it in bfloat16."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).bfloat16()

    def forward(self, x: Tensor, *args: Tensor, **cond: Tensor) -> Tensor:
        return self.module(x.bfloat16(), *args, **cond).float()


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def errors(model: nn.Module, images: Tensor, **cond: Any) -> tuple[float, float]:
    """Of the engine's bf16 parameters and of PyTorch's, against float32 on the same images: root mean squares."""
    conditions, values = Conditions.parse(cond or None), images.permute(0, 2, 3, 1).int()
    engine = pixelfast.compile(model, engine="cpu", precision="bf16")
    given = np.ascontiguousarray(values.numpy())
    call = Request(np.zeros(values.shape, np.float32), given, (), want_parameters=True)
    result = engine._run(call, conditions).parameters
    assert result is not None
    shape, head = engine.shape, engine.head
    theirs = pixelfast.compile(InBfloat16(model), shape=shape, head=head, engine="naive")
    exact, low = (sampler._oracle(conditions).parameters(values.long(), conditions).numpy() for sampler in (engine, theirs))
    return rms(result - exact), rms(low - exact)


def small_models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "PixelCNN": PixelCNN((1, 9, 7), levels=8, features=19, blocks=2),
        "PixelCNN, colours": PixelCNN((3, 7, 5), levels=5, features=24, blocks=2),
        "GatedPixelCNN": GatedPixelCNN((1, 9, 7), levels=8, features=19, layers=3, kernel=5),
        "GatedPixelCNN, colours": GatedPixelCNN((3, 7, 5), levels=16, features=30, layers=2),
    }


@pytest.mark.parametrize("name", small_models())
def test_errors_are_at_most_twice_those_of_pytorch(name: str) -> None:
    model = small_models()[name]
    engine = pixelfast.compile(model, engine="cpu")
    ours, theirs = errors(model, engine.sample(13, seed=1))
    assert 0 < ours <= 2 * theirs


@pytest.mark.parametrize("name", shipped())
def test_errors_of_shipped_checkpoints(name: str) -> None:
    images, labels = held_out(name)
    ours, theirs = errors(load(name), torch.as_tensor(images)[:9], h=torch.as_tensor(labels)[:9])
    assert 0 < ours <= 2 * theirs


@pytest.mark.parametrize("engine", ["reference", "naive"])
def test_other_engines_refuse(engine: str) -> None:
    model = small_models()["PixelCNN"]
    with pytest.raises(EngineUnavailable, match=f"the engine '{engine}' has no precision 'bf16': use engine='cpu'"):
        pixelfast.compile(model, engine=engine, precision="bf16")
