"""A table of draws for all engines: each head's parameters, from ordinary to absurd, at all temperatures, with values given.

They are judged by the formulas of `pixelfast.distributions`; draws without a distribution, by where the reference finds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from gaussian_cases import some_parameters as gaussian_parameters
from heads import mixture_head
from mixture_cases import TEMPERATURES, extremes, far_out, pixel_program, some_parameters
from programs import Builder, normal, probe, request

from pixelfast import Bernoulli, Categorical, Gaussian, MixtureOfGaussians, MixtureOfLogistics
from pixelfast.distributions.base import Head
from pixelfast.distributions.gaussian import LAYOUTS
from pixelfast.distributions.mixture import PARAMETER_LAYOUTS
from pixelfast.engines.base import Request
from pixelfast.ir.program import HEADS, Instruction, Map, Program, Rect, Slot


@dataclass(frozen=True, eq=False)
class DrawCase:
    """One pixel of each image.

    Attributes:
        parameters: float32 (N, 1, 1, P).
        given: values that are known, int32 (N, 1, 1, C), -1 where they are drawn.
    """

    head: Head
    parameters: Callable[[], np.ndarray]
    temperature: float = 1.0
    given: bool | np.ndarray = False
    small: bool = False

    def made(self) -> tuple[Program, Request]:
        program, parameters = pixel_program(self.head, 1), self.parameters()
        rng, shape = np.random.default_rng(1), (len(parameters), 1, 1, program.shape[0])
        noise = rng.random(shape, dtype=np.float32)
        edges = np.array([0.0, 1.0 - 2.0**-24, 0.5], np.float32)[: len(noise)]
        noise[: len(edges)] = edges[:, None, None, None]
        given = self.given if isinstance(self.given, np.ndarray) else None
        if self.given is True:
            given = rng.integers(-1, self.head.levels, shape).astype(np.int32)
            given[::2] = -1
        how = {"want_log_prob": True, "want_parameters": True}
        return program, Request(noise, given, (parameters,), self.temperature, **how)


@dataclass(frozen=True, eq=False)
class ErrorCase:
    """A call in which some parameters describe no distribution."""

    make: Callable[[], tuple[Program, Request]]
    small: bool = False


DRAWS: dict[str, DrawCase] = {}
ERRORS: dict[str, ErrorCase] = {}

# A softmax, and two values.


def logits(levels: int, images: int, impossible: float = 0.0) -> np.ndarray:
    """Some of them minus infinity, but not the one in the middle."""
    rng = np.random.default_rng(levels)
    result = normal(rng, images, levels, scale=2.0)
    result[rng.random(result.shape) < impossible] = -math.inf
    result[:, levels // 2] = np.where(np.isfinite(result[:, levels // 2]), result[:, levels // 2], 0.0)
    return result[:, None, None]


def edges_everywhere(levels: int) -> np.ndarray:
    """Only the first value is possible, only the last, only a few at the end."""
    result = logits(levels, 3)
    result[0, ..., 1:] = result[1, ..., :-1] = result[2, ..., : levels - 3] = -math.inf
    return result


def probabilities(images: int) -> np.ndarray:
    result = np.random.default_rng(3).random((images, 1, 1, 1), dtype=np.float32)
    result[:4, 0, 0, 0] = 0.0, 1.0, 1e-30, 1 - 2.0**-24
    return result


for levels in (2, 5, 64, 65, 256, 1000, 2049, 5003, 65_536):
    images = 64 if levels > 1000 else 500
    DRAWS[f"categorical of {levels}"] = DrawCase(Categorical(levels), lambda k=levels, n=images: logits(k, n), 1.3)
    DRAWS[f"categorical of {levels}, small"] = DrawCase(
        Categorical(levels), lambda k=levels: logits(k, 4), 1.3, True, small=True
    )
    if levels > 2:
        DRAWS[f"categorical of {levels}, edges everywhere"] = DrawCase(
            Categorical(levels), lambda k=levels: edges_everywhere(k), small=True
        )
for levels in (3, 65, 300):
    DRAWS[f"categorical of {levels}, most impossible"] = DrawCase(
        Categorical(levels), lambda k=levels: logits(k, 400, 0.7), given=True
    )
for temperature in TEMPERATURES:
    warm = f"temperature {temperature:g}"
    for images, flags in ((40, {}), (9, {"small": True})):
        of = f"{warm}{', small' * bool(flags)}"
        DRAWS[f"categorical, {of}"] = DrawCase(Categorical(65), lambda n=images: logits(65, n, 0.3), temperature, **flags)
        DRAWS[f"logit, {of}"] = DrawCase(Bernoulli(), lambda n=images: logits(1, n), temperature, given=True, **flags)
        DRAWS[f"probability, {of}"] = DrawCase(Bernoulli(True), lambda n=images: probabilities(n), temperature, **flags)

# Mixtures.


def some_pixels(head: MixtureOfLogistics, images: int, width: float) -> np.ndarray:
    return some_parameters(head, images, width).reshape(images, 1, 1, head.parameters)


def mixture(channels: int, levels: int, mixtures: int, layout: str) -> tuple[str, MixtureOfLogistics]:
    name = f"{mixtures} logistics, {levels} levels, {channels} channels, {layout}"
    return name, MixtureOfLogistics(levels, mixtures, channels, layout)  # type: ignore[arg-type]


for layout in PARAMETER_LAYOUTS:
    for shape in ((1, 256, 10), (3, 256, 10), (3, 2, 3), (3, 17, 1)):
        name, head = mixture(*shape, layout)
        for width in (0.3, 3.0, 30.0, 1000.0):
            for temperature in (1.0, 0.5, 3.0):
                DRAWS[f"{name}, {width} wide, temperature {temperature}"] = DrawCase(
                    head, lambda head=head, width=width: some_pixels(head, 200, width), temperature
                )
    for shape in ((1, 256, 10), (3, 256, 3), (3, 2, 3), (3, 17, 1)):
        name, head = mixture(*shape, layout)
        for temperature in TEMPERATURES:
            DRAWS[f"{name}, far out, temperature {temperature:g}"] = DrawCase(
                head, lambda head=head: far_out(head, 40), temperature
            )
for shape, temperature, layout in (
    ((1, 256, 10), 1.0, "colour-major"), ((3, 256, 10), 1.0, "colour-major"), ((3, 256, 5), 0.5, "mixture-major"),
    ((3, 2, 3), 1.0, "mixture-major"), ((3, 17, 1), 1.0, "colour-major"), ((3, 17, 1), 3.0, "colour-major"),
    ((1, 5000, 2), 1.0, "mixture-major"), ((3, 33, 40), 1.0, "mixture-major"), ((3, 33, 40), 3.0, "colour-major"),
):  # fmt: skip
    name, head = mixture(*shape, layout)
    for width in (0.3, 30.0, 1000.0):
        DRAWS[f"{name}, {width} wide, temperature {temperature}, small"] = DrawCase(
            head, lambda head=head, width=width: some_pixels(head, 9, width), temperature, given=True, small=True
        )
for shape, layout in zip(((1, 256, 10), (3, 256, 3), (3, 2, 3), (3, 17, 1)), PARAMETER_LAYOUTS * 2, strict=True):
    name, head = mixture(*shape, layout)
    for temperature in TEMPERATURES:
        DRAWS[f"{name}, far out, temperature {temperature:g}, small"] = DrawCase(
            head, lambda head=head: far_out(head, 9), temperature, small=True
        )
for mean in (-1000.0, -1.0, 0.1, 1.0, 1000.0):
    for log_scale in (-1000.0, -7.0, 0.0, 20.0, 100.0, 1000.0):
        _, calls = extremes(mean, log_scale)
        for number, call in enumerate(calls):
            DRAWS[f"extreme mean {mean:g}, log-scale {log_scale:g}, {number}"] = DrawCase(
                MixtureOfLogistics(256, 2, 3), lambda call=call: call.fields[0], call.temperature,
                call.given if call.given is not None else False, small=mean in (-1000.0, 0.1, 1.0),
            )  # fmt: skip

GAUSSIANS: tuple[MixtureOfGaussians, ...] = (
    MixtureOfGaussians(256, 3, -128), MixtureOfGaussians(17, 10, 5, "weight-mean-scale", log_scales=True, scale_min=1e-3),
    MixtureOfGaussians(2, 2), Gaussian(256, -128, "mean-scale"), Gaussian(33, log_scales=True, scale_min=1e-3),
)  # fmt: skip
for head in GAUSSIANS:
    for temperature in TEMPERATURES:
        for images, flags in ((300, {}), (25, {"small": True})):
            DRAWS[f"{head}, temperature {temperature:g}{', small' * bool(flags)}"] = DrawCase(
                head, lambda head=head, n=images: gaussian_parameters(head, n), temperature, given=True, **flags
            )
for layout in LAYOUTS:
    head = MixtureOfGaussians(17, 3, -8, layout)
    DRAWS[f"{head}"] = DrawCase(head, lambda head=head: gaussian_parameters(head, 100))

# Parameters that describe no distribution.


def broken(images: int, height: int, width: int, levels: int, bad: float) -> tuple[Program, Request]:
    """All logits of one pixel, or the last; of a later one, a single minus infinity, which is fine."""
    rng, image = np.random.default_rng(8), Rect(0, height, 0, width)
    array = normal(rng, images, height, width, levels)
    # Minus infinity is fine for some categories, not for all; of the others, one is enough.
    array[images - 2, height - 2, width - 2, 0 if bad == -math.inf else levels - 1 :] = bad
    array[images - 1, height - 1, 0, levels - 1] = -math.inf
    program, fields = probe([array], [Instruction(Slot(0, 0, levels), Map((Slot(1, 0, levels),), ()), image)], levels)
    return program, request(program, rng, images, fields=fields, threads=2)


def broken_mixture(place: int, bad: float, layout: str, known: bool) -> tuple[Program, Request]:
    """One of a pixel's parameters; the first channel may be given."""
    _, head = mixture(3, 5, 2, layout)
    parameters = some_parameters(head, 4, 1.0)
    parameters[0, 0, 2, place] = bad
    program = pixel_program(head, 4)
    call = request(program, np.random.default_rng(0), 1, fields=(parameters,))
    given = np.full((1, 1, 4, 3), -1, np.int32)
    given[0, 0, 2, 0] = 3
    return program, replace(call, given=given) if known else call


def broken_gaussian(place: int, bad: float) -> tuple[Program, Request]:
    head = MixtureOfGaussians(5, 2)
    parameters = np.ones((1, 1, 4, 6), np.float32)
    parameters[0, 0, 2, place] = bad
    program = pixel_program(head, 4)
    return program, request(program, np.random.default_rng(0), 1, fields=(parameters,))


def broken_program(head: str, seed: int, reported: bool) -> tuple[Program, Request]:
    """A network whose numbers are NaN from a row on."""
    levels = 2 if head.startswith("bernoulli") else 6
    of = mixture_head(head, levels, 2, 1)
    builder = Builder(np.random.default_rng(seed), (1, 3, 3), head=head, levels=levels, mixture=of, features=5)
    program, fields = builder.build(), builder.field_values(3)
    fields[2][1, 2:] = np.nan  # a border row comes first
    on_row = (lambda *_: None) if reported else None
    return program, request(program, np.random.default_rng(1), 3, fields=fields, on_row=on_row)


for bad in (math.nan, math.inf, -math.inf):
    ERRORS[f"logits of {bad}"] = ErrorCase(lambda bad=bad: broken(5, 7, 5, 19, bad))
    for levels in (2049, 5003):
        ERRORS[f"{levels} logits of {bad}"] = ErrorCase(lambda bad=bad, k=levels: broken(3, 2, 2, k, bad), small=True)
    ERRORS[f"logits of {bad}, small"] = ErrorCase(lambda bad=bad: broken(3, 4, 3, 4, bad), small=True)
    for place in (0, 3, 5):
        ERRORS[f"gaussians, {bad} at {place}"] = ErrorCase(lambda p=place, bad=bad: broken_gaussian(p, bad), small=True)
    for layout in PARAMETER_LAYOUTS:
        for place in (0, 1, 9, 19):
            for known in (False, True):
                ERRORS[f"mixture, {layout}, {bad} at {place}{', after a given value' * known}"] = ErrorCase(
                    lambda place=place, bad=bad, layout=layout, known=known: broken_mixture(place, bad, layout, known),
                    small=place != 1,
                )
for head_of_program in HEADS:
    for reported in (False, True):
        ERRORS[f"program, {head_of_program}{', row by row' * reported}"] = ErrorCase(
            lambda head=head_of_program, reported=reported: broken_program(head, 5, reported), small=True
        )
