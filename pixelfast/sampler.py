"""A compiled model: draws, completes, scores and verifies images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distributions import noise as noise_module
from .engines import registry
from .engines.base import Request, Result, located, numerical_error, reordered, restored
from .errors import InvalidInput, NumericalError, VerificationError
from .host.boundary import callback, public
from .inputs.arguments import (
    callback_of,
    check_flags,
    count_of,
    first_of,
    given_of,
    images_of,
    resolve_seed,
    seed_of,
    temperature_of,
    threads_of,
    values_of,
)
from .inputs.conditions import Conditions
from .pipeline import evaluate_fields
from .prepared import Prepared
from .progress import RowProgress
from .self_check import check_engine, checked, run_watched
from .trace.diagnose import first_bad_layer
from .verify import Verification, compare, own_rounding

OnRow = Callable[[int, Tensor], None]

FIELD_BYTES = 1 << 29
"""Conditions of one batch take at most this much memory."""
BATCH = 256
"""Images that are drawn together unless `batch_size` says otherwise."""


class Sampler(Prepared):
    """A model compiled for sampling; make one with `pixelfast.compile`.

    It works on a frozen copy: training the module further does not change the sampler. It may be used from several threads.

    Attributes:
        shape: (C, H, W) of the images.
        head: how outputs become distributions.
        engine: the name of the engine in use, one of `pixelfast.engines.registry.NAMES`.
        precision: of the engine: "fp32" is exact; `pixelfast.compile` says what the others are.
        self_check: whether the first images of each kind of condition are compared with the module itself.
        order: of generation, one of `pixelfast.ir.scan_order.ORDERS`.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> sampler = pixelfast.compile(model)
        >>> images, log_prob = sampler.sample(4, seed=0, return_log_prob=True)
        >>> sampler.verify(images, seed=0).ok
        True
        >>> torch.allclose(sampler.log_prob(images), log_prob, atol=1e-3)
        True
    """

    # ---------------------------------------------------------------- sampling

    @public
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
    ) -> Any:
        """Draw n images.

        Args:
            n: how many images, at least 1.
            seed: key of the noise, 0 .. 2**64 - 1. Image i of a seed is the same in any batch, with any engine.
            generator: draws the seed if none is given; else PyTorch's global generator does.
            cond: what the module takes after the image: one argument, a tuple of positional or a dict of keyword arguments.
                Tensors have one entry for each image, or one for all. Arrays and lists of numbers become tensors (float32,
                int64 or bool) where their first axis is n or 1 and the module accepts that, and so do tensors within lists,
                tuples and dictionaries; otherwise they are passed on as they are, to all images. A number is passed on as it
                is; a module that refuses numbers gets a tensor with one entry. Everything that is no tensor is part of what
                is compiled, by its contents: another number compiles anew.
            temperature: divides the logits; within 1e-30 .. 1e30.
            given: known values, (n, C, H, W) or (C, H, W), integers, -1 where unknown, or a masked array of NumPy. They are
                kept, and the rest is drawn in the order of generation from the model's conditionals given everything before.
            return_log_prob: also return the natural logarithm of the probability of what was drawn (given values left out,
                temperature included): float64 (n,).
            progress: show a progress bar (needs tqdm).
            on_row: called as on_row(row, images) when a row of the current batch is finished; rows below are not drawn yet.
                In another order than raster, `row` counts its lines, which may be columns, from the one that is drawn first.
            batch_size: how many images are drawn together; the images do not depend on it.
            threads: for the native engine; by default as many as this process may use.
            first: index of the first image, for drawing images first .. first + n - 1 of a seed.

        Returns:
            uint8 (n, C, H, W), int32 if there are more than 256 levels; with `return_log_prob`, also float64 (n,).

        Raises:
            InvalidInput: an argument is out of range or of the wrong shape.
            UnsupportedModel: what the module computes from the conditions of an image depends on those of other images.
            NumericalError: NaN or infinite parameters, with the layer and pixel in which they appear.
            VerificationError: the first images disagree with the module itself (`self_check`).
        """
        count = count_of("n", n)
        start = first_of(first, count)
        key = resolve_seed(seed, generator)
        conditions = self._understood(cond, count)
        conditions.check(count)
        heat = temperature_of(temperature)
        known = given_of(given, count, self.shape, self.head.levels)
        workers = threads_of(threads)
        callback_of("on_row", on_row)
        check_flags(return_log_prob=return_log_prob, progress=progress)
        size = self._batch_size(batch_size, conditions, count)
        with RowProgress(progress, self.order.shape(self.shape)[1] * -(-count // size)) as bar:
            parts = []
            for begin in range(0, count, size):
                end = min(begin + size, count)
                part = conditions.rows(slice(begin, end), count)
                request = Request(
                    noise=noise_module.uniforms(key, start + begin, end - begin, self.shape),
                    given=None if known is None else known[begin:end],
                    fields=(),
                    temperature=heat,
                    want_log_prob=return_log_prob,
                    threads=workers,
                    on_row=self._row_callback(bar, on_row) if bar.shown or on_row is not None else None,
                )
                with self._explained(part, begin):
                    parts.append(self._run_checked(request, part))
        images = images_of(np.concatenate([part.values for part in parts]), self.head.levels)
        if not return_log_prob:
            return images
        return images, torch.from_numpy(np.concatenate([part.log_prob for part in parts if part.log_prob is not None]))

    def _run_checked(self, request: Request, conditions: Conditions) -> Result:
        """One batch; the first one of a program, compared with one forward of the module on a few of its images.

        Raises:
            VerificationError: the parameters that were drawn from are not the module's.
            NotAutoregressive: the module's own loop drew from parameters that changed afterwards.
        """
        key = conditions.signature()
        if not self.self_check or key in self._checked or not len(request.noise):
            return self._run(request, conditions)
        oracle = self._oracle(conditions)
        count, all_fit = checked(len(request.noise), int(np.prod(self.shape)) * self.head.parameters)
        part = conditions.rows(slice(count), len(request.noise))
        if self.engine == registry.NAIVE:
            result = run_watched(oracle, request, conditions, count)
        elif all_fit:
            result = self._run(replace(request, want_parameters=True), conditions)
            check_engine(oracle, result, count, part, self.engine, self.precision)
        else:  # all parameters of such a batch take too much memory, so a few images are drawn twice
            result = self._run(request, conditions)
            given = None if request.given is None else request.given[:count]
            few = replace(request, noise=request.noise[:count], given=given, want_parameters=True, on_row=None)
            check_engine(oracle, self._run(few, part), count, part, self.engine, self.precision)
        self._checked.add(key)
        return result

    def _run(self, request: Request, conditions: Conditions) -> Result:
        """One batch, by the engine."""
        if self.engine == registry.NAIVE:
            return self._oracle(conditions).run(request, conditions)
        compiled, engine = self._prepare(conditions)
        assert engine is not None
        fields = evaluate_fields(compiled, conditions, len(request.noise))
        try:
            result = engine.run(replace(reordered(request, self.order), fields=fields, head=self.head))
        except NumericalError as error:
            raise located(error, self.order, *self.shape[1:]) from None
        return restored(result, self.order)

    @contextmanager
    def _explained(self, conditions: Conditions, begin: int) -> Iterator[None]:
        """Say of parameters that describe no distribution in which image they are, what is needed, and which layer is to blame.

        Args:
            conditions: of a batch.
            begin: the batch's first image.
        """
        try:
            yield
        except NumericalError as error:
            position = getattr(error, "position", None)
            if position is None:
                raise
            found = numerical_error(begin + position[0], *position[1:])
            layer = first_bad_layer(self._module, self.head, self.shape, conditions)
            raise NumericalError(f"{found}: they must be {self.head.needs}{layer}") from error

    def _row_callback(self, bar: RowProgress, on_row: OnRow | None) -> Callable[[int, np.ndarray], None]:
        def finished(row: int, values: np.ndarray) -> None:
            bar.advance()
            if on_row is not None:
                callback(on_row)(row, images_of(np.maximum(values, 0), self.head.levels))

        return finished

    def _batch_size(self, asked: int | None, conditions: Conditions, n: int) -> int:
        if asked is not None:
            return min(count_of("batch_size", asked), n)
        if self.engine == registry.NAIVE:
            return min(n, BATCH)
        fields = self._prepare(conditions)[0].field_specs
        per_image = 4 * sum(int(np.prod(spec.shape[1:])) for spec in fields if spec.value is None)
        return max(1, min(n, BATCH, FIELD_BYTES // max(per_image, 1)))

    # ---------------------------------------------------------------- checking, scoring

    @public
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

        The module computes in float32. With a lower `precision`, distributions must agree with the module's within what
        `pixelfast.precision` states, and values must be the draws that the engine's own parameters give.

        Args:
            images: integers 0 .. K-1, (N, C, H, W): images first .. first + N - 1 of the seed.
            seed, cond, temperature, given, first: those with which they were drawn, see `sample`.

        Raises:
            VerificationError: a draw is wrong, the images are not those of this seed, or distributions differ.
            InvalidInput: there are no images, or an argument is out of range or of the wrong shape.
        """
        values = values_of("images", images, self.shape, self.head.levels)
        if not len(values):
            raise InvalidInput("images holds no images: there is nothing to verify")
        start, key, heat = first_of(first, len(values)), seed_of(seed), temperature_of(temperature)
        conditions = self._understood(cond, len(values))
        conditions.check(len(values))
        known = given_of(given, len(values), self.shape, self.head.levels)
        oracle = self._oracle(conditions)
        total: Verification | None = None
        size = max(1, min(64, (1 << 26) // max(1, int(np.prod(self.shape)) * max(self.head.parameters, self.head.levels))))
        for begin in range(0, len(values), size):
            rows = slice(begin, min(begin + size, len(values)))
            part = conditions.rows(rows, len(values))
            noise = noise_module.uniforms(key, start + begin, rows.stop - begin, self.shape)
            fixed = None if known is None else known[rows]
            request = Request(noise, fixed, (), temperature=heat, want_parameters=True)
            with self._explained(part, begin):
                result = self._run(request, part)
            assert result.parameters is not None
            here = torch.from_numpy(values[rows]).long()
            own = oracle.parameters(here, part)
            against = (
                self.head, here, torch.from_numpy(result.values).long(), torch.from_numpy(noise),
                torch.ones_like(here, dtype=torch.bool) if fixed is None else torch.from_numpy(fixed < 0),
                torch.from_numpy(result.parameters), own, heat, self.precision,
            )  # fmt: skip
            found = compare(*against)
            if not found.ok and not found.changed:
                found = compare(*against, rounding=own_rounding(oracle, here, own, part))
            total = found if total is None else total + found
        assert total is not None
        if not total.ok:
            lower = "" if self.precision == "fp32" else " Or is this model too delicate for this precision?"
            raise VerificationError(
                f"{total}.{lower} Were the images drawn with this seed, these conditions, temperature and first index, and not "
                "changed since? If so, this is a bug of pixelfast's"
            )
        return total

    @public
    def log_prob(self, images: Tensor, cond: Any = None, batch_size: int = 64) -> Tensor:
        """Natural logarithm of the probability of whole images: integers (N, C, H, W) -> float64 (N,).

        One forward of the module itself for each batch. bits/dim = -log_prob / (log(2) * C * H * W).

        Raises:
            InvalidInput: images or conditions are of the wrong shape, type or range.
        """
        values = torch.from_numpy(values_of("images", images, self.shape, self.head.levels)).long()
        conditions = self._understood(cond, len(values))
        conditions.check(len(values))
        size = count_of("batch_size", batch_size)
        oracle = self._oracle(conditions)
        result = []
        for begin in range(0, len(values), size):
            rows = slice(begin, begin + size)
            parameters = oracle.parameters(values[rows], conditions.rows(rows, len(values)))
            own = self.head.conditionals(parameters, values[rows])
            result.append(self.head.log_prob(own, values[rows]).flatten(1).sum(1))
        return torch.cat(result) if result else torch.zeros(0, dtype=torch.float64)
