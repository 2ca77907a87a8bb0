"""The front door: `sample`, `compile` and `Sampler`."""

from __future__ import annotations

import hashlib
import inspect
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from . import noise as noise_module
from .conditions import Conditions
from .engines import registry
from .engines.naive import NaiveEngine
from .engines.request import Request, Result
from .errors import InvalidInput, NumericalError, VerificationError
from .heads import Head
from .pipeline import Compiled, analyse, compile_program, evaluate_fields
from .progress import RowProgress
from .trace.capture import IMAGES, blank_output, frozen_copy
from .trace.output import OutputLayout, candidates
from .trace.diagnose import first_bad_layer
from .verify import Verification, compare

OnRow = Callable[[int, Tensor], None]

FIELD_BYTES = 1 << 29
"""Conditions of one batch take at most this much memory."""
BATCH = 256
"""Images that are drawn together unless `batch_size` says otherwise."""


class Sampler:
    """A model compiled for sampling; make one with `pixelfast.compile`.

    It works on a frozen copy: training the module further does not change the sampler. It may be used from several threads.

    Attributes:
        shape: (C, H, W) of the images.
        head: how outputs become distributions.
        engine: the engine in use: "cpu", "reference" or "naive".
    """

    def __init__(self, module: nn.Module, shape: tuple[int, int, int], head: Head, engine: str = "auto") -> None:
        self.engine = registry.choose(engine)
        self.shape, self.head = shape, head
        self.head.table(shape)  # refuses a wrong encoding before anything else happens
        self._module = frozen_copy(module)
        self._compiled: dict[tuple[object, ...], tuple[Compiled, registry.Engine | None]] = {}
        self._naive: dict[tuple[object, ...], NaiveEngine] = {}
        self._lock = threading.RLock()

    # ---------------------------------------------------------------- compiling

    def prepare(self, cond: Any = None) -> Compiled:
        """Compile for conditions like `cond`, if that has not been done; returns what was compiled.

        Raises:
            NotAutoregressive, UnsupportedModel, InvalidInput, NumericalError: the model cannot be sampled; each says why.
        """
        return self._prepare(Conditions.parse(cond))[0]

    def _prepare(self, conditions: Conditions) -> tuple[Compiled, registry.Engine | None]:
        key = conditions.signature()
        with self._lock:
            if key not in self._compiled:
                compiled = compile_program(analyse(self._module, self.shape, self.head, conditions), self.head)
                make = registry.ENGINES[self.engine].make if self.engine != "naive" else None
                self._compiled[key] = compiled, None if make is None else make(compiled.program)
            return self._compiled[key]

    def _oracle(self, conditions: Conditions) -> NaiveEngine:
        """The naive engine, which needs no more than the layout of the output."""
        key = conditions.signature()
        with self._lock:
            if key not in self._naive:
                if self.engine != "naive":
                    layout = self._prepare(conditions)[0].analysis.layout
                else:
                    layout = self._naive_layout(conditions)
                self._naive[key] = NaiveEngine(self._module, self.head, layout)
            return self._naive[key]

    def _naive_layout(self, conditions: Conditions) -> OutputLayout:
        """The layout of the output by its shape alone, or by tracing if the shape leaves a choice."""
        output = blank_output(self._module, self.head, self.shape, conditions)
        found = candidates(tuple(output.shape), IMAGES, self.shape, self.head)
        return found[0] if len(found) == 1 else self._prepare(conditions)[0].analysis.layout

    # ---------------------------------------------------------------- sampling

    @overload
    def sample(
        self, n: int = ..., *, return_log_prob: Literal[False] = ..., **options: Any
    ) -> Tensor: ...  # pragma: no cover
    @overload
    def sample(
        self, n: int = ..., *, return_log_prob: Literal[True], **options: Any
    ) -> tuple[Tensor, Tensor]: ...  # pragma: no cover
    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        cond: Any = None,
        temperature: float = 1.0,
        given: Tensor | np.ndarray | None = None,
        return_log_prob: bool = False,
        progress: bool = False,
        on_row: OnRow | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        first: int = 0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw n images.

        Args:
            n: how many images, at least 1.
            seed: key of the noise, 0 .. 2**64 - 1. Image i of a seed is the same in any batch, with any engine.
            generator: draws the seed if none is given; else PyTorch's global generator does.
            cond: what the module takes after the image: a tensor, a tuple of positional or a dict of keyword arguments.
                Tensors have one entry for each image, or one for all.
            temperature: divides the logits; above 0.
            given: known values, (n, C, H, W) or (C, H, W), integers, -1 where unknown. They are kept, and the rest is drawn
                in raster order from the model's conditionals given everything before it.
            return_log_prob: also return the natural logarithm of the probability of what was drawn (given values left out,
                temperature included): float64 (n,).
            progress: show a progress bar (needs tqdm).
            on_row: called as on_row(row, images) when a row of the current batch is finished; rows below are not drawn yet.
            batch_size: how many images are drawn together; the images do not depend on it.
            threads: for the native engine; by default as many as this process may use.
            first: index of the first image, for drawing images first .. first + n - 1 of a seed.

        Returns:
            uint8 (n, C, H, W), int32 if there are more than 256 levels; with `return_log_prob`, also float64 (n,).

        Raises:
            InvalidInput: an argument is out of range or of the wrong shape.
            NumericalError: NaN or infinite parameters, with the layer and pixel in which they appear.
        """
        count = _check_count("n", n)
        start = _check_count("first", first, least=0)
        key = noise_module.resolve_seed(seed, generator)
        conditions = Conditions.parse(cond)
        conditions.check(count)
        _check_temperature(temperature)
        known = self._given(given, count)
        size = self._batch_size(batch_size, conditions, count)
        with RowProgress(progress, self.shape[1] * -(-count // size)) as bar:
            parts = []
            for begin in range(0, count, size):
                rows = torch.arange(begin, min(begin + size, count))
                part = conditions.rows(rows, count)
                request = Request(
                    noise=noise_module.uniforms(key, start + begin, len(rows), self.shape),
                    given=None if known is None else known[begin : begin + size],
                    fields=(),
                    temperature=float(temperature),
                    want_log_prob=return_log_prob,
                    threads=threads,
                    on_row=_row_callback(self, bar, on_row) if bar.shown or on_row is not None else None,
                )
                parts.append(self._run(request, part))
        images = self._images(np.concatenate([part.values for part in parts]))
        if not return_log_prob:
            return images
        return images, torch.from_numpy(np.concatenate([part.log_prob for part in parts if part.log_prob is not None]))

    def _run(self, request: Request, conditions: Conditions) -> Result:
        """One batch, by the engine."""
        try:
            if self.engine == "naive":
                return self._oracle(conditions).run(request, conditions)
            compiled, engine = self._prepare(conditions)
            assert engine is not None
            fields = evaluate_fields(compiled, conditions, len(request.noise))
            return engine.run(replace(request, fields=fields))
        except NumericalError as error:
            raise self._explained(error, conditions) from None

    def _explained(self, error: NumericalError, conditions: Conditions) -> NumericalError:
        """The error with the first layer that gives NaN or infinity on a blank image, if one does."""
        found = first_bad_layer(self._module, self.head, self.shape, conditions)
        return NumericalError(f"{error}{found}") if found else error

    def _images(self, values: np.ndarray) -> Tensor:
        """Values (N, H, W, C) as images (N, C, H, W)."""
        dtype = torch.uint8 if self.head.levels <= 256 else torch.int32
        return torch.from_numpy(values).permute(0, 3, 1, 2).to(dtype).contiguous()

    def _values(self, images: Tensor | np.ndarray, name: str, least: int) -> np.ndarray:
        """Images (N, C, H, W) or (C, H, W) as int32 values (N, H, W, C), checked."""
        tensor = torch.as_tensor(images)
        if tensor.dtype.is_floating_point or tensor.dtype == torch.bool and least < 0:
            raise InvalidInput(f"{name} must hold integers 0 .. {self.head.levels - 1}, got {tensor.dtype}")
        tensor = tensor.unsqueeze(0) if tensor.dim() == 3 else tensor
        if tuple(tensor.shape[1:]) != self.shape:
            raise InvalidInput(f"{name} has shape {tuple(tensor.shape)}, but the model draws images of (N, *{self.shape})")
        low, high = (int(tensor.min()), int(tensor.max())) if tensor.numel() else (0, 0)
        if low < least or high >= self.head.levels:
            unknown = " (-1 where unknown)" if least < 0 else ""
            raise InvalidInput(
                f"{name} holds values {low} .. {high}, but the head has levels 0 .. {self.head.levels - 1}{unknown}"
            )
        return np.ascontiguousarray(tensor.cpu().permute(0, 2, 3, 1).to(torch.int32).numpy())

    def _given(self, given: Tensor | np.ndarray | None, n: int) -> np.ndarray | None:
        if given is None:
            return None
        values = self._values(given, "given", -1)
        if len(values) not in (1, n):
            raise InvalidInput(f"given holds {len(values)} images, but n is {n}")
        return np.ascontiguousarray(np.broadcast_to(values, (n, *values.shape[1:])))

    def _batch_size(self, asked: int | None, conditions: Conditions, n: int) -> int:
        if asked is not None:
            return min(_check_count("batch_size", asked), n)
        if self.engine == "naive":
            return min(n, BATCH)
        fields = self._prepare(conditions)[0].field_specs
        per_image = 4 * sum(int(np.prod(spec.shape[1:])) for spec in fields if spec.value is None)
        return max(1, min(n, BATCH, FIELD_BYTES // max(per_image, 1)))

    # ---------------------------------------------------------------- checking, scoring

    def verify(
        self,
        images: Tensor,
        *,
        seed: int,
        cond: Any = None,
        temperature: float = 1.0,
        given: Tensor | np.ndarray | None = None,
        first: int = 0,
    ) -> Verification:
        """Check images that `sample` drew against the module itself: one forward on them, and the same noise.

        Raises:
            VerificationError: a draw is wrong, the images are not those of this seed, or parameters differ.
        """
        values = self._values(images, "images", 0)
        conditions = Conditions.parse(cond)
        conditions.check(len(values))
        known = self._given(given, len(values))
        oracle = self._oracle(conditions)
        total: Verification | None = None
        size = max(1, min(64, (1 << 26) // max(1, int(np.prod(self.shape)) * self.head.parameters)))
        for begin in range(0, len(values), size):
            rows = torch.arange(begin, min(begin + size, len(values)))
            part = conditions.rows(rows, len(values))
            noise = noise_module.uniforms(seed, first + begin, len(rows), self.shape)
            fixed = None if known is None else known[begin : begin + size]
            request = Request(noise, fixed, (), temperature=temperature, want_parameters=True)
            result = self._run(request, part)
            assert result.parameters is not None
            here = torch.from_numpy(values[begin : begin + size]).long()
            found = compare(
                self.head,
                here,
                torch.from_numpy(result.values).long(),
                torch.from_numpy(noise),
                torch.ones_like(here, dtype=torch.bool) if fixed is None else torch.from_numpy(fixed < 0),
                torch.from_numpy(result.parameters),
                oracle.parameters(here, part),
                temperature,
            )
            total = found if total is None else total + found
        assert total is not None
        if not total.ok:
            raise VerificationError(
                f"{total}. Were the images drawn with this seed, these conditions, temperature and first index, and not "
                "changed since? If so, this is a bug of pixelfast's"
            )
        return total

    def log_prob(self, images: Tensor, cond: Any = None, batch_size: int = 64) -> Tensor:
        """Natural logarithm of the probability of whole images: integers (N, C, H, W) -> float64 (N,).

        One forward of the module itself for each batch. bits/dim = -log_prob / (log(2) * C * H * W).
        """
        values = torch.from_numpy(self._values(images, "images", 0)).long()
        conditions = Conditions.parse(cond)
        conditions.check(len(values))
        oracle = self._oracle(conditions)
        found = []
        for begin in range(0, len(values), _check_count("batch_size", batch_size)):
            rows = torch.arange(begin, min(begin + batch_size, len(values)))
            parameters = oracle.parameters(values[rows], conditions.rows(rows, len(values)))
            found.append(self.head.log_prob(parameters, values[rows]).flatten(1).sum(1))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def explain(self, cond: Any = None) -> str:
        """What was found in the model and how it is sampled, for reading."""
        name = type(self._module).__name__
        channels, height, width = self.shape
        if self.engine == "naive":
            return f"{name}: engine naive, {channels * height * width} full forwards for each batch"
        compiled = self._prepare(Conditions.parse(cond))[0]
        program, graph = compiled.program, compiled.analysis.graph
        return "\n".join(
            [
                f"{name}: engine {self.engine}, output layout {compiled.analysis.layout.text}",
                f"multiply-adds for an image: {program.macs:,} ({program.macs / max(graph.dense_macs, 1):.2f} of one forward)",
                f"memory: {program.weight_bytes():,} bytes of weights, {program.bytes_per_image():,} bytes for each image",
                "schedule:",
                str(compiled.schedule),
            ]
        )


def compile(
    model: nn.Module,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    *,
    cond: Any = None,
    engine: str = "auto",
) -> Sampler:
    """Compile a trained model once, to sample often.

    Args:
        model: any autoregressive `nn.Module` over images; it is copied and stays as it is.
        shape: (C, H, W); by default `model.shape`.
        head: how its outputs become distributions and how values are fed back; by default `model.head`.
        cond: an example of what the module takes after the image. Without one, a module that needs conditions is compiled
            when `sample` first gets some.
        engine: "auto", "cpu", "reference" or "naive".

    Raises:
        InvalidInput, NotAutoregressive, UnsupportedModel, EngineUnavailable, NumericalError: each says what to do.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
    registry.check_name(engine)
    sampler = Sampler(model, _shape_of(model, shape), _head_of(model, head), engine)
    if sampler.engine == "naive":
        return sampler
    try:
        sampler.prepare(cond)
    except InvalidInput:
        # A forward with more arguments may only lack its conditions, which come with the call.
        if cond is not None or not _takes_conditions(model):
            raise
    return sampler


_cache: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], Sampler]] = weakref.WeakKeyDictionary()
_cache_lock = threading.Lock()


def sample(
    model: nn.Module,
    n: int = 1,
    *,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    engine: str = "auto",
    **options: Any,
) -> Any:
    """Draw n images from a trained model: `compile` and `Sampler.sample` in one; see there for all options.

    The compiled sampler is kept for the next call with the same model, as long as its weights do not change.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check_count("n", n)
    unknown = set(options) - set(inspect.signature(Sampler.sample).parameters)
    if unknown:
        raise InvalidInput(f"sample() got unknown options {', '.join(sorted(unknown))}")
    size, distribution = _shape_of(model, shape), _head_of(model, head)
    key = (size, id(distribution), engine, _fingerprint(model))
    with _cache_lock:
        kept = _cache.get(model)
    if kept is not None and kept[0] == key:
        sampler = kept[1]
    else:
        sampler = compile(model, size, distribution, cond=options.get("cond"), engine=engine)
        with _cache_lock:
            _cache[model] = key, sampler
    return sampler.sample(n, **options)


def _fingerprint(model: nn.Module) -> str:
    """A digest of all weights and buffers: `.data` writes change weights without a trace elsewhere."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shape_of(model: nn.Module, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    found = shape if shape is not None else getattr(model, "shape", None)
    if found is None:
        raise InvalidInput(f"{type(model).__name__} does not say which images it draws: pass shape=(channels, rows, columns)")
    try:
        sizes = tuple(int(size) for size in found)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise InvalidInput(f"shape must be (channels, rows, columns), three positive integers, got {found!r}")
    return sizes


def _head_of(model: nn.Module, head: Head | None) -> Head:
    found = head if head is not None else getattr(model, "head", None)
    if not isinstance(found, Head):
        raise InvalidInput(
            f"{type(model).__name__} does not say what its outputs mean: pass head=pixelfast.Categorical(levels, encode=...) "
            "or head=pixelfast.Bernoulli(...)"
        )
    return found


def _takes_conditions(model: nn.Module) -> bool:
    try:
        return len(inspect.signature(model.forward).parameters) > 1
    except (TypeError, ValueError):
        return True


def _check_count(name: str, value: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InvalidInput(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def _check_temperature(temperature: float) -> None:
    if not isinstance(temperature, (int, float)) or not 0 < temperature < float("inf"):
        raise InvalidInput(f"temperature must be a number above 0, got {temperature!r}")


def _row_callback(sampler: Sampler, bar: RowProgress, on_row: OnRow | None) -> Callable[[int, np.ndarray], None]:
    def finished(row: int, values: np.ndarray) -> None:
        bar.advance()
        if on_row is not None:
            on_row(row, sampler._images(np.maximum(values, 0)))

    return finished
