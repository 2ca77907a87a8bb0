"""Programs and streams that would read or write where they must not: they are refused, and none crashes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from native import needs_engine
from programs import Builder, request, swept, with_body

from pixelfast.engines import registry
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.errors import EngineUnavailable
from pixelfast.ir.program import Instruction, Lattice, Lookup, Map, Norm, Op, Pixel, Product, Program, Rect, Slot
from pixelfast.lowering import packing

pytestmark = needs_engine


def malformed(program: Program) -> list[tuple[str, Program]]:
    """Programs that would read or write where they must not."""
    step = program.steps[0]
    product = next(i for i in step if isinstance(i.body, Product))
    lookup = next(i for i in step if isinstance(i.body, Lookup))
    norm = next(i for i in step if isinstance(i.body, Norm))
    tap = product.body.taps[0]

    def changed(instruction) -> Program:
        return dataclasses.replace(program, steps=((instruction,), *program.steps[1:]))

    def with_tap(**change) -> Program:
        return changed(with_body(product, taps=(dataclasses.replace(tap, **change), *product.body.taps[1:])))

    def with_buffer(**change) -> Program:
        buffer = program.buffers[1]
        wide = dataclasses.replace(buffer, columns=(-6000, 20), domain=dataclasses.replace(buffer.domain, **change))
        return dataclasses.replace(program, buffers=(program.buffers[0], wide, *program.buffers[2:]))

    far = dataclasses.replace(program.buffers[0], domain=Rect(0, 7, 0, 10))
    return [
        ("rows above", with_tap(row=-3)),
        ("rows above", with_tap(row=1)),
        ("column offset", with_tap(col=-9)),
        ("column offset", with_tap(col=9)),
        ("a buffer", with_tap(buffer=99)),
        ("channels", with_tap(count=3)),
        ("first channel", with_tap(channel=-1)),
        ("weights", changed(with_body(product, weights=product.body.weights[:-1]))),
        ("bias", changed(with_body(product, bias=np.zeros(3, np.float32)))),
        ("overwrites", changed(Instruction(Slot(3, 0, 17), Map((Slot(3, 1, 17),), ()), norm.rect))),
        ("overwrites", changed(Instruction(Slot(3, 0, 17), Map((Slot(3, 0, 17, 0, 1),), ()), norm.rect))),
        ("its own position", changed(dataclasses.replace(norm, out=dataclasses.replace(norm.out, col=1)))),
        ("domain", changed(dataclasses.replace(norm, rect=dataclasses.replace(norm.rect, col0=-3), out=Slot(4, 0, 6)))),
        ("not drawn yet", changed(with_body(lookup, taps=(Pixel(0, 0, 0), *lookup.body.taps[1:])))),
        ("a row offset", changed(with_body(lookup, taps=(Pixel(1, 0, 0), *lookup.body.taps[1:])))),
        ("an argument", changed(Instruction(norm.out, Map((norm.body.source,), (Op("neg", (1,)),)), norm.rect))),
        ("leaf", changed(Instruction(norm.out, Map((), ()), norm.rect))),
        ("channels", changed(Instruction(norm.out, Map((Slot(1, 0, 2),), ()), norm.rect))),
        ("a vector", changed(Instruction(norm.out, Map((np.zeros(2, np.float32),), ()), norm.rect))),
        ("field", dataclasses.replace(program, fields=tuple(dataclasses.replace(f, rows=3) for f in program.fields))),
        ("field", dataclasses.replace(program, fields=tuple(dataclasses.replace(f, col0=-1) for f in program.fields))),
        ("drawn twice", dataclasses.replace(program, draws=(program.draws[0],) * 2)),
        ("before it is drawn", dataclasses.replace(program, encodes=program.encodes[::-1])),
        ("parameters as levels", dataclasses.replace(program, parameters=5)),
        ("domain", dataclasses.replace(program, buffers=(far, *program.buffers[1:]))),
        ("pixels beyond the image", with_buffer(col0=-5000)),
        ("pixels beyond the image", with_buffer(row0=-5000)),
        ("a step of rows", changed(dataclasses.replace(product, lattice=Lattice(0, 0, 1, 0)))),
        ("a phase of rows", changed(dataclasses.replace(norm, lattice=Lattice(2, 2, 1, 0)))),
        ("a step of columns", changed(dataclasses.replace(lookup, lattice=Lattice(1, 0, 1 << 30, 0)))),
        ("a phase of columns", changed(dataclasses.replace(product, lattice=Lattice(1, 0, 3, -1)))),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(31))
def test_malformed_programs_are_refused(case: int) -> None:
    reason, program = malformed(Builder(np.random.default_rng(0)).build())[case]
    with pytest.raises(ValueError, match=reason):
        CpuEngine(program)


@pytest.mark.parametrize(("reason", "index", "change"), [
    ("not come to yet", 3, {"body": {"leaves": (Slot(1, 0, 9), Slot(2, 0, 9, 0, 1))}}),
    ("not come to yet", 1, {"body": {"taps": (Slot(2, 0, 9, 0, 1), Slot(3, 0, 9, 0, -2), Slot(4, 0, 2, 0, -1))}}),
    ("not come to yet", 4, {"sweep": -1}),
    ("overwrites", 3, {"sweep": 0}),
    ("a sweep is", 3, {"sweep": 2}),
    ("a sweep is", 3, {"sweep": -2}),
])  # fmt: skip
def test_sweeps_out_of_order_are_refused(reason: str, index: int, change: dict[str, Any]) -> None:
    program, _ = swept(np.random.default_rng(0), 7, 5, 1)
    row = list(program.row)
    if index == 4:  # all that follows turns round
        row[1:8] = [dataclasses.replace(instruction, **change) for instruction in row[1:8]]
    else:
        row[index] = with_body(row[index], **change["body"]) if "body" in change else dataclasses.replace(row[index], **change)
    with pytest.raises(ValueError, match=reason):
        CpuEngine(dataclasses.replace(program, row=tuple(row)))


def test_more_memory_than_there_is_is_refused() -> None:
    program = Builder(np.random.default_rng(0)).build()
    huge = dataclasses.replace(program.buffers[0], features=1 << 22, rows=1 << 14)  # terabytes for an image
    engine = CpuEngine(dataclasses.replace(program, buffers=(huge, *program.buffers[1:])))
    fields = [np.zeros((1, 1, 1, field.features), np.float32) for field in program.fields]
    call = request(program, np.random.default_rng(0), 1, fields=fields)
    with pytest.raises(EngineUnavailable, match="more memory than this machine has"):
        engine.run(call)


def test_pixels_are_no_sweep() -> None:
    program, _ = swept(np.random.default_rng(0), 7, 5, 1)
    step = tuple(dataclasses.replace(instruction, sweep=1) for instruction in program.steps[0])
    with pytest.raises(ValueError, match="cannot be part of a sweep"):
        CpuEngine(dataclasses.replace(program, steps=(step,)))


def test_truncated_streams_are_refused() -> None:
    program = Builder(np.random.default_rng(0)).build()
    words, arrays, places = packing.pack(program)
    native = cpu.native()
    for length in range(len(words)):
        with pytest.raises(ValueError, match=r"must lie in|the program ends|no program of|another version"):
            native.Engine(words[:length].copy(), arrays)
    with pytest.raises(ValueError, match="none of the program's"):
        native.Engine(words, arrays[:-1])
    with pytest.raises(ValueError, match="none of the program's"):
        native.Engine(words, [*arrays[:-1], arrays[-1].reshape(-1)[1:].copy()])
    twice = words.copy()
    twice[places["known_order"] + 2] = words[places["known_order"] + 1]
    with pytest.raises(ValueError, match="every instruction once"):
        native.Engine(twice, arrays)
    with pytest.raises(ValueError, match="not there yet"):
        native.Engine(np.append(words[:-3], [-9, -9, -9]), arrays)
    with pytest.raises(ValueError, match="after its end"):
        native.Engine(np.append(words, 0), arrays)


def test_streams_of_another_contract_are_refused() -> None:
    words, arrays, _ = packing.pack(Builder(np.random.default_rng(0)).build())
    for place, said in ((0, "no program of pixelfast"), (1, "another version of pixelfast than the engine")):
        other = words.copy()
        other[place] += 1
        with pytest.raises(ValueError, match=said):
            cpu.native().Engine(other, arrays)


@pytest.mark.parametrize("found", [{}, {"contract": 1}])
def test_an_engine_of_another_contract_is_refused(found: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built before a change says what to do, in one sentence, before it sees a program."""
    monkeypatch.setattr(cpu, "native", lambda: SimpleNamespace(**found, isas=lambda: ["scalar"]))
    with pytest.raises(EngineUnavailable, match="built for another version of pixelfast: build it again with `pip install"):
        CpuEngine(Builder(np.random.default_rng(0)).build())
    with pytest.raises(EngineUnavailable, match="the engine 'cpu' cannot run here: the compiled engine was built for another"):
        registry.check_name("cpu")
