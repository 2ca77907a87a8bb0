"""Rows that are one launch each: what a persistent kernel's programs have to do, against launches one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from native import close
from oracle import agree, trace
from programs import Builder, normal, probe, request
from tolerances import PROGRAM
from triton_runs import compare, same_bits

from pixelfast.distributions.categorical import Categorical
from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.arrangement import OWNED
from pixelfast.engines.triton.engine import TritonEngine
from pixelfast.engines.triton.session import Session
from pixelfast.ir.program import Instruction, Map, Norm, Op, Product, Rect, Reduce, Slot
from pixelfast.models import GatedPixelCNN, PixelCNN

IMAGES = OWNED[0] + 1
"""Two programs, the last of which owns one image."""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_program_owns_other_images(precision: str) -> None:
    """Temperature, fields, given pixels; a call for fewer images between two of the same size."""
    builder = Builder(np.random.default_rng(1), (2, 3, 2), features=9)
    program, fields = builder.build(), builder.field_values(IMAGES)
    mask = np.random.default_rng(2).random((IMAGES, 3, 2, 2)) < 0.3
    call = request(program, np.random.default_rng(3), IMAGES, known=mask, fields=fields, temperature=0.7)
    engine = TritonEngine(program, precision, poison=True, arrangement="persistent")
    found = engine.run(call)
    assert call.given is not None
    np.testing.assert_array_equal(found.values[mask], call.given[mask])
    if precision == "fp32":
        compare(engine, call)
    few = dataclasses.replace(call, noise=call.noise[:2], given=call.given[:2], fields=tuple(f[:2] for f in fields))
    part = engine.run(few)
    np.testing.assert_array_equal(part.values, found.values[:2])
    close(part.parameters, found.parameters[:2], PROGRAM, "of fewer images")
    same_bits(engine.run(call), found)


def small() -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    return GatedPixelCNN((2, 3, 3), levels=4, features=7, layers=1, classes=3).eval(), torch.arange(IMAGES) % 3


def test_a_model_of_more_images_than_a_program_owns() -> None:
    module, cond = small()
    traced = trace(module, module.config["shape"], Categorical(4), cond)
    call = traced.request(IMAGES, 0, cond, temperature=1.3)
    found = TritonEngine(traced.compiled.program, poison=True, arrangement="persistent").run(call)
    assert agree(traced, found, traced.run("naive", call, cond), call, cond, "persistent") == 0


def test_what_more_than_one_tile_holds() -> None:
    """Blocks of features, and tiles of fewer images than a program owns: wide expressions, norms, reductions and draws."""
    rng, wide, image = np.random.default_rng(4), 700, Rect(0, 1, 0, 2)
    whole, source = Slot(0, 0, wide), Slot(1, 0, wide)
    made = [
        Instruction(whole, Map((source,), (Op("tanh", (0,)),)), image),
        Instruction(whole, Norm(whole, normal(rng, wide), normal(rng, wide), 1e-5), image),
        Instruction(Slot(0, 3, 1), Reduce("logsumexp", (whole,), 0.0), image),
        Instruction(whole, Product((Slot(1, 5, 17), Slot(1, 0, 130, 0, -1)), normal(rng, 147, wide), None), image),
    ]
    program, fields = probe([normal(rng, 3, 1, 2, wide)], made, wide)
    call = request(program, rng, 3, fields=fields)
    found = TritonEngine(program, poison=True, arrangement="persistent").run(call)
    expected = reference(program, call, poison=True)
    close(found.parameters, expected.parameters, PROGRAM, "persistent")
    np.testing.assert_array_equal(found.values, expected.values)


def test_the_kernel_does_not_grow_with_the_layers() -> None:
    """Equal layers are works of the same kinds, so their kernel is the very same."""
    kernels = []
    for blocks in (3, 5):
        module = PixelCNN((1, 3, 3), levels=4, features=8, blocks=blocks).eval()
        traced = trace(module, module.config["shape"], Categorical(4))
        call = traced.request(1, 0)
        session = Session(traced.compiled.program, call, torch.device("cpu"), "fp32", {}, 0, False, "persistent")
        launches = list(session.rows._persistent.values())
        assert len({id(launch.kernel) for launch in launches}) == 1
        kernels.append((launches[0].kernel, len(session.rows._walked._launches)))
    (first, few), (second, more) = kernels
    assert first is second
    assert few < more
