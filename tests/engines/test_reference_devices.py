"""The reference interpreter on devices of PyTorch's, and where one has no float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance import agree
from program_cases import builder_of
from programs import request
from tolerances import PROGRAM

from pixelfast.distributions.custom import CustomHead
from pixelfast.engines import reference
from pixelfast.engines.base import Request
from pixelfast.ir.program import CUSTOM, HEADS, Program

GPUS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
DEVICES = [
    "cpu",
    *(
        pytest.param(name, marks=[] if there else pytest.mark.skip(reason=f"PyTorch finds no {name} device"))
        for name, there in GPUS.items()
    ),
]


def some_program(head: str) -> tuple[Program, Request]:
    builder = builder_of("categorical" if head == CUSTOM else head, 3, (2, 4, 3), features=9)
    program, fields = builder.build(), builder.field_values(3)
    call = request(program, np.random.default_rng(1), 3, known=0.3, fields=fields, temperature=0.7)
    if head == CUSTOM:
        own = CustomHead(program.levels, program.parameters, lambda parameters: parameters.softmax(-1))
        return replace(program, head=CUSTOM), replace(call, head=own)
    return program, call


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("head", [*HEADS, CUSTOM])
@pytest.mark.parametrize("device", DEVICES)
def test_devices_agree(device: str, head: str, float64: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are in float64 everywhere: where the device has none, on the processor."""
    program, call = some_program(head)
    expected = reference.run(program, call)
    if not float64:
        monkeypatch.setattr(reference, "has_float64", lambda device: False)
    agree(reference.run(program, call, poison=True, device=device), expected, PROGRAM, device)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_copied_once(device: str) -> None:
    program, call = some_program("categorical")
    weights: dict[int, torch.Tensor] = {}
    reference.run(program, call, device=device, weights=weights)
    before = dict(weights)
    reference.run(program, call, device=device, weights=weights)
    assert before
    assert {key: id(tensor) for key, tensor in weights.items()} == {key: id(tensor) for key, tensor in before.items()}
    assert {tensor.device.type for tensor in weights.values()} == {device}


def test_which_devices_have_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reference.has_float64(torch.device("cpu"))
    assert not reference.has_float64(torch.device("meta"))  # no numbers at all

    def refuses(*_: object, **__: object) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    monkeypatch.setattr(torch, "full", refuses)
    assert not reference.has_float64.__wrapped__(torch.device("mps"))
