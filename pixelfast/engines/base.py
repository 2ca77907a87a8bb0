"""What every engine takes and gives back: `Request` and `Result`, and the checks that all engines share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..distributions.base import Head
from ..errors import InvalidInput, NumericalError
from ..inputs.arguments import temperature_of, threads_of
from ..ir.program import CUSTOM, Program
from ..ir.scan_order import RASTER, Order

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
