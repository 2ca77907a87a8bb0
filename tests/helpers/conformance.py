"""Every engine of the registry in every way that it runs, and what it is to agree with: the tables of `instruction_cases.py`,
`draw_cases.py` and `program_cases.py` are run by tests/engines/test_conformance*.py.

An engine that is new in the registry is run by what the registry makes of it, in each of its precisions, without a line here.
`SPECIAL` is for those that run in several ways, or only by way of an interpreter or an emulator.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cuda import NO_FAILURE, Refused, Shape, emulate
from emulated_cuda import missing as no_emulator
from native import ISAS, close
from programs import with_body
from tolerances import HALVES, LOG_PROB

from pixelfast.engines import registry
from pixelfast.engines.base import Request, Result, numerical_error, why_not
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.arrangement import NAMES
from pixelfast.engines.triton.arrangement import refuses as persistent_refuses
from pixelfast.engines.triton.engine import TritonEngine, interpreted, lacks
from pixelfast.errors import EngineUnavailable
from pixelfast.ir.program import Product, Program

Call = Callable[[Request], Result]
ROUNDED = {"fp16w": torch.float16, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What weights of products are rounded to."""


@dataclass(frozen=True)
class Run:
    """An engine in one of the ways that it runs.

    Attributes:
        make: what runs a program; raises EngineUnavailable where the engine refuses it.
        patient: it runs large cases, too; those that are interpreted or emulated do not.
        by_pixel: it differs from another way in how it draws pixels one by one, and in nothing else.
        missing: why it cannot run here.
        limits: says what this way lacks of what the engine lists.
    """

    engine: str
    precision: str
    make: Callable[[Program], Call]
    how: str = ""
    patient: bool = True
    by_pixel: bool = False
    missing: str | None = None
    limits: Callable[[Program], str | None] = lambda program: None

    def __str__(self) -> str:
        return "-".join(part for part in (self.engine, self.precision, self.how) if part)

    def takes(self, case: Any) -> bool:
        """Whether a case has anything to say about this run that it does not say about others."""
        if not (self.patient or getattr(case, "small", True)) or not (getattr(case, "drawn", True) or not self.by_pixel):
            return False
        return self.precision == "fp32" or not isinstance(case, Case) or case.multiplies or case.composed

    def refuses(self, program: Program) -> str | None:
        return why_not(program, registry.ENGINES[self.engine].capabilities, self.precision) or self.limits(program)


@dataclass(frozen=True, eq=False)
class Case:
    """A program and a call that all engines must answer alike.

    Attributes:
        make: both; weights and inputs are multiples of nothing: precisions round them.
        tolerance: of parameters, relative to the largest of them.
        small: few enough images and pixels for an interpreter.
        composed: products read what other instructions computed, so that precisions that round inputs lie further apart.
        multiplies: it has products or attention: precisions concern nothing else.
        drawn: some pixels are drawn one by one.
    """

    make: Callable[[], tuple[Program, Request]]
    tolerance: float
    small: bool = False
    composed: bool = False
    multiplies: bool = False
    drawn: bool = True
    kept: dict[str, Any] = field(default_factory=dict)

    def made(self, precision: str) -> tuple[Program, Request, Result]:
        """The case with its numbers rounded to a precision, and what the reference interpreter answers, with poison."""
        if precision not in self.kept:
            program, request = self.make()
            if precision != "fp32":
                program, request = rounded(program, request, ROUNDED[precision])
            result = reference(program, request, poison=True)
            if self.composed and precision in HALVES:  # another draw would make the rest of the image another one
                request = replace(request, given=result.values)
                result = reference(program, request, poison=True)
            self.kept[precision] = program, request, result
        return self.kept[precision]

    def tolerated(self, precision: str) -> float:
        return HALVES.get(precision, self.tolerance) if self.composed else self.tolerance


def rounded(program: Program, request: Request, dtype: torch.dtype) -> tuple[Program, Request]:
    """Products whose weights, and inputs whose numbers, have the precision already."""

    def low(array: np.ndarray) -> np.ndarray:
        result: np.ndarray = torch.from_numpy(array).to(dtype).float().numpy()
        return result

    def lowered(instructions: Any) -> Any:
        return tuple(with_body(i, weights=low(i.body.weights)) if isinstance(i.body, Product) else i for i in instructions)

    changed = replace(program, row=lowered(program.row), steps=tuple(map(lowered, program.steps)))
    return changed, replace(request, fields=tuple(map(low, request.fields)))


# Engines.


def _ordinary(name: str, precision: str) -> Iterator[Run]:
    """As the registry makes it."""
    reason = registry.ENGINES[name].unavailable_reason()
    yield Run(name, precision, lambda program: registry.make(name, program, precision).run, missing=reason)


def _native(name: str, precision: str) -> Iterator[Run]:
    """In every instruction set of this machine."""
    for isa in ISAS:
        yield Run(name, precision, lambda program, isa=isa: CpuEngine(program, isa, precision=precision).run, isa)
    if not ISAS:
        yield from _ordinary(name, precision)


def _triton(name: str, precision: str) -> Iterator[Run]:
    """In both arrangements, with poison; interpreted in a process of their own (tests/engines/test_interpreted.py)."""
    reason = registry.ENGINES[name].unavailable_reason()
    reason = lacks(precision) if reason is None else "interpreted in a process of its own: test_interpreted.py"
    for arrangement in NAMES:

        def make(program: Program, arrangement: str = arrangement) -> Call:
            return TritonEngine(program, precision, poison=True, arrangement=arrangement).run

        limits = {"limits": persistent_refuses} if arrangement != NAMES[0] else {}
        yield Run(name, precision, make, arrangement, not interpreted(), arrangement != NAMES[0], reason, **limits)


def _emulated(name: str, precision: str) -> Iterator[Run]:
    """The kernel on a processor, as one block and as a cluster of them."""
    yield from (run for run in _ordinary(name, precision) if run.missing is None)
    for how, shape in (("a block", Shape()), ("a cluster", Shape(ranks=3, images=2, order="last", threads=64))):
        yield Run(name, precision, functools.partial(_emulator, shape), how, patient=False, missing=no_emulator())


def _emulator(shape: Shape, program: Program) -> Call:
    def run(request: Request) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = emulate(program, request, shape, Path(folder))
            except Refused as error:
                raise EngineUnavailable(str(error)) from error
        if found.failure != NO_FAILURE:
            (pixel, image), (channels, _, width) = divmod(found.failure, 1 << 24), program.shape
            raise numerical_error(image, pixel // channels // width, pixel // channels % width, pixel % channels)
        for row in range(program.shape[1]) if request.on_row is not None else ():
            request.on_row(row, found.result.values)
        return found.result

    return run


SPECIAL = {"cpu": _native, "triton": _triton, "cuda": _emulated}


def _runs() -> Iterator[Run]:
    for name, entry in registry.ENGINES.items():
        if interpreted() and name != "triton":
            continue  # the others have run in the process that started this one
        for precision in entry.capabilities.precisions:
            yield from SPECIAL.get(name, _ordinary)(name, precision)


RUNS = tuple(_runs())


def each(cases: Mapping[str, Any], *, exact: bool = False) -> pytest.MarkDecorator:
    """Run a test with every engine and every case, ``run`` and ``case``; what cannot run here is skipped once, with the reason.

    Args:
        exact: with the precision that is exact only.
    """
    found = []
    for run in RUNS:
        if exact and run.precision != "fp32":
            continue
        if run.missing is not None:
            found.append(pytest.param(run, None, id=str(run), marks=pytest.mark.skip(reason=run.missing)))
            continue
        chosen = [(name, case) for name, case in cases.items() if run.takes(case)]
        found += [pytest.param(run, case, id=f"{run}-{name}") for name, case in chosen]
    return pytest.mark.parametrize(("run", "case"), found)


def answer(run: Run, program: Program, request: Request) -> Result | None:
    """What an engine answers; None where it does not list what the program needs, and does refuse it."""
    refused = run.refuses(program)
    try:
        result = run.make(program)(request)
    except EngineUnavailable:
        if refused is None:
            raise
        return None
    assert refused is None, f"{run} runs what it does not list: {refused}"
    return result


def agree(found: Result, expected: Result, tolerance: float, name: object) -> None:
    """The same values, and parameters and log-probabilities within the tolerances."""
    np.testing.assert_array_equal(found.values, expected.values, err_msg=str(name))
    if expected.parameters is not None:
        assert found.parameters is not None
        close(found.parameters, expected.parameters, tolerance, str(name))
    if expected.log_prob is not None:
        assert found.log_prob is not None
        np.testing.assert_allclose(
            found.log_prob, expected.log_prob, rtol=max(LOG_PROB, tolerance), atol=max(1e-4, tolerance), err_msg=str(name)
        )
