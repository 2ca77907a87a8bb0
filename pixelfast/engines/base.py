"""What every engine takes and gives back, `Request` and `Result`; what it can run, `Capabilities`; checks that all share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..distributions.base import Head
from ..errors import InvalidInput, NumericalError
from ..inputs.arguments import temperature_of, threads_of
from ..ir.program import BODIES, CUSTOM, HEADS, Attention, Body, Instruction, Map, Norm, Program
from ..ir.scan_order import RASTER, Order
from ..lowering.draws import head_name
from ..precision import PRECISIONS

OnRow = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Request:
    """One call of an engine.

    Args:
        noise: one uniform number for each sub-pixel, float32 (N, H, W, C).
        given: values that are known beforehand, int32 (N, H, W, C), -1 where unknown; None: nothing is known.
        fields: the numbers of every entry of ``Program.fields``, static ones too: float32 (N or 1, rows, cols, F).
        temperature: divides logits before the draw.
        want_log_prob: also give the log-probability of what was drawn.
        want_parameters: also give the parameters of every sub-pixel's distribution.
        threads: how many threads may run; None: as many as this process may use.
        on_row: called as (r, values) once image row r is finished; rows > r of ``values`` are not valid yet.
        head: whose functions draw, for programs whose head is `CUSTOM`; others need none.
    """

    noise: np.ndarray
    given: np.ndarray | None
    fields: tuple[np.ndarray, ...]
    temperature: float = 1.0
    want_log_prob: bool = False
    want_parameters: bool = False
    threads: int | None = None
    on_row: OnRow | None = None
    head: Head | None = None


@dataclass(frozen=True)
class Result:
    """What an engine made of a request.

    Attributes:
        values: int32 (N, H, W, C).
        log_prob: float64 (N,): sum over the sub-pixels that were drawn, not given; natural logarithm, with temperature.
        parameters: float32 (N, H, W, C, P): of every sub-pixel, before the temperature.
    """

    values: np.ndarray
    log_prob: np.ndarray | None
    parameters: np.ndarray | None


class Engine(Protocol):
    """Runs one program for any number of images."""

    def run(self, request: Request) -> Result: ...


@dataclass(frozen=True)
class Capabilities:
    """What an engine can run. It is never given what it does not list (`why_not`).

    Attributes:
        bodies: kinds of instructions.
        heads: what it draws from, of `pixelfast.ir.program.HEADS`; `CUSTOM`: from a head by that head's own Python functions.
        precisions: of `pixelfast.precision.PRECISIONS`.
        lattices: whether instructions may run at some rows or columns only.
        sweeps: whether instructions may run column by column along a row.
        most_operands: of an expression: leaves and operations. None, here and below: any number.
        most_normalised: features of a layer norm.
        most_attended: channels of a key, or of a value, of one head of attention.
        most_components: of a mixture.
        most_parameters: of a sub-pixel's distribution.

    Raises:
        ValueError: there is no such body, head or precision.
    """

    bodies: tuple[type[Body], ...]
    heads: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    lattices: bool = False
    sweeps: bool = False
    most_operands: int | None = None
    most_normalised: int | None = None
    most_attended: int | None = None
    most_components: int | None = None
    most_parameters: int | None = None

    def __post_init__(self) -> None:
        known = (*BODIES, *HEADS, CUSTOM, *PRECISIONS)
        strange = [kind for kind in (*self.bodies, *self.heads, *self.precisions) if kind not in known]
        if strange:
            raise ValueError(f"an engine lists {strange}, and there is no such body, head or precision")


LIMITS = {
    "most_operands": ("an expression", "operands and operations"),
    "most_normalised": ("a layer norm", "features"),
    "most_attended": ("a head of attention", "channels"),
    "most_components": ("a draw", "components"),
    "most_parameters": ("a draw", "parameters"),
}
"""What is limited, and what is counted, for each limit of `Capabilities`."""
NAMED = 3
"""Layers that a refusal names, at most."""


def why_not(asked: Program | Head, has: Capabilities, precision: str = "fp32") -> str | None:
    """Why an engine cannot run a program, or any program that draws from a head; None: nothing is in the way.

    All reasons are given, with the layers that they come from.
    """
    return "; ".join(_reasons(asked, has, precision)) or None


def _reasons(asked: Program | Head, has: Capabilities, precision: str) -> Iterator[str]:
    if precision not in has.precisions:
        yield f"it has no precision {precision!r}, only {', '.join(has.precisions)}"
    head, called = (asked.head, "the head") if isinstance(asked, Program) else (head_name(asked), f"a {type(asked).__name__}")
    if head == CUSTOM and head not in has.heads:
        # Calling back into Python would hold all threads up at every draw, since one at a time may run it, and a function over
        # the images of a tile may give other last bits than over another number: images would depend on their batch.
        yield (
            f"{called} draws by Python functions, which compiled code cannot call from its threads without waiting for each "
            "other, nor with the same bits for any number of images"
        )
    elif head not in has.heads:
        yield f"it draws from {', '.join(has.heads)}, not from {head}"
    if not isinstance(asked, Program):
        return
    missing: dict[str, list[str]] = {}
    for instruction in asked.instructions():
        for what in _missing(instruction, has):
            missing.setdefault(what, []).append(instruction.layer)
    for what, layers in missing.items():
        names = list(dict.fromkeys(layer or "an instruction of no layer" for layer in layers))
        yield f"it has no {what} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
    yield from _too_large(asked, has)


def _missing(instruction: Instruction, has: Capabilities) -> Iterator[str]:
    """What an instruction needs that is not listed."""
    if type(instruction.body) not in has.bodies:
        yield f"instructions of kind {type(instruction.body).__name__}"
    if not (has.lattices or instruction.lattice.everywhere):
        yield "instructions at some rows or columns only, as in strided models"
    if instruction.sweep and not has.sweeps:
        yield "recurrences along a row"


def _too_large(program: Program, has: Capabilities) -> Iterator[str]:
    """For each limit, the first that exceeds it."""
    said = set()
    for limit, size, where in _sizes(program):
        most = getattr(has, limit)
        if most is not None and size > most and limit not in said:
            said.add(limit)
            what, counted = LIMITS[limit]
            yield f"{what} holds at most {most} {counted}, {where} has {size}"


def _sizes(program: Program) -> Iterator[tuple[str, int, str]]:
    """All that a limit may concern: its name, how much there is, and where."""
    yield "most_parameters", program.parameters, "the head"
    if program.mixture is not None:
        yield "most_components", program.mixture.components, "the head"
    for instruction in program.instructions():
        body, where = instruction.body, instruction.layer or "an instruction"
        if isinstance(body, Map):
            yield "most_operands", len(body.leaves) + len(body.ops), where
        elif isinstance(body, Norm):
            yield "most_normalised", instruction.out.count, where
        elif isinstance(body, Attention):
            yield "most_attended", max(body.keys.count, body.values.count) // max(body.heads, 1), where


def reordered(request: Request, order: Order) -> Request:
    """A request over the user's images as an engine takes it: its rows are the lines of an order. Fields stay as they are."""
    if order == RASTER:
        return request
    report = request.on_row
    return replace(
        request,
        noise=np.ascontiguousarray(order.reordered(request.noise, 1)),
        given=None if request.given is None else np.ascontiguousarray(order.reordered(request.given, 1)),
        on_row=None if report is None else lambda line, values: report(line, order.restored(values, 1)),
    )


def restored(result: Result, order: Order) -> Result:
    """What an engine made of a reordered request, over the user's images."""
    parameters = result.parameters
    return replace(
        result,
        values=np.ascontiguousarray(order.restored(result.values, 1)),
        parameters=None if parameters is None else np.ascontiguousarray(order.restored(parameters, 1)),
    )


def located(error: NumericalError, order: Order, height: int, width: int) -> NumericalError:
    """An engine's error over a reordered request with the row and column of the user's image."""
    position = getattr(error, "position", None)
    if position is None or order == RASTER:
        return error
    image, line, pixel, channel = position
    return numerical_error(image, *order.place(line, pixel, height, width), channel)


def compiled_call(program: Program, request: Request) -> tuple[dict[str, Any], Result]:
    """What a compiled engine takes: contiguous inputs, and the arrays of the result, which it fills."""
    shape = request.noise.shape
    result = Result(
        values=np.empty(shape, np.int32),
        log_prob=np.zeros(shape[0], np.float64) if request.want_log_prob else None,
        parameters=np.empty((*shape, program.parameters), np.float32) if request.want_parameters else None,
    )
    call = {
        "noise": np.ascontiguousarray(request.noise),
        "given": None if request.given is None else np.ascontiguousarray(request.given),
        "fields": [np.ascontiguousarray(field) for field in request.fields],
        "values": result.values,
        "log_prob": result.log_prob,
        "parameters": result.parameters,
        "temperature": request.temperature,
    }
    return call, result


def check(program: Program, request: Request) -> None:
    """Refuse a request that does not fit the program.

    Raises:
        InvalidInput: a wrong shape, type or range; the text names it.
    """
    channels, height, width = program.shape
    images = request.noise.shape[0] if request.noise.ndim else 0
    shape = (images, height, width, channels)
    _expect("noise", request.noise, shape, np.float32)
    if request.given is not None:
        _expect("given", request.given, shape, np.int32)
        if request.given.size and (request.given.min() < -1 or request.given.max() >= program.levels):
            raise InvalidInput(
                f"given values lie in {request.given.min()} .. {request.given.max()}, but may lie in "
                f"0 .. {program.levels - 1}, or be -1 where unknown"
            )
    if len(request.fields) != len(program.fields):
        raise InvalidInput(f"the program has {len(program.fields)} fields, but {len(request.fields)} were passed")
    for index, (field, array) in enumerate(zip(program.fields, request.fields, strict=True)):
        most = (images, field.rows, field.cols, field.features)
        fits = array.ndim == 4 and all(n in (1, m) for n, m in zip(array.shape, most, strict=True))
        if array.dtype != np.float32 or not fits or array.shape[3] != field.features:
            raise InvalidInput(
                f"field {index} is {array.dtype} {array.shape}, but must be float32 of shape "
                f"({images} or 1, {field.rows} or 1, {field.cols} or 1, {field.features})"
            )
    if program.head == CUSTOM and request.head is None:
        raise InvalidInput("the program draws by a head's own functions, but the request brings no head")
    temperature_of(request.temperature)
    threads_of(request.threads)


def _expect(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InvalidInput(f"{name} is {array.dtype} {array.shape}, but must be {np.dtype(dtype)} {shape}")


def numerical_error(image: int, row: int, col: int, channel: int) -> NumericalError:
    """The error for parameters that describe no distribution; ``error.position`` is (image, row, col, channel)."""
    error = NumericalError(
        f"the parameters of image {image}, row {row}, column {col}, channel {channel} describe no distribution"
    )
    error.position = (image, row, col, channel)  # type: ignore[attr-defined]
    return error
