"""How a trained model may be fed and read: each encoding and each layout that fits, scored on images in bits/dim.

A trained model finds its own kind of images far more probable if they enter as they did in training, and if its outputs are
read as its loss read them. Only layouts that are autoregressive count: one that lets a prediction see itself scores too well.

Letters: N images, C channels, H rows, W columns, K levels, P parameters of a sub-pixel.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from .distributions.base import Head
from .distributions.encoding import Encode
from .errors import AmbiguousLayout, PixelfastError, UnsupportedModel
from .inputs.conditions import Conditions
from .ir.scan_order import Order
from .pipeline import analyse
from .trace.capture import call
from .trace.index import IMAGES
from .trace.output import OutputLayout, candidates

MOST_IMAGES, LEAST_IMAGES, SUB_PIXELS = 64, 4, 1 << 15
"""The most and the fewest images that are scored, and about how many sub-pixels they have together."""
NUMBERS = 1 << 24
"""Parameters of one batch."""
TRIALS = 12
"""Changes by which a module that cannot be traced is tried for leaks."""

MEANS = {
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-10, mean deviation of an image": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Means and deviations of k / (K - 1) by which published code normalises."""

AFFINE = (
    "(1.0, 0.0)", "(1 / {K}, 0.0)", "(2 / {K}, -1.0)", "(1 / {K}, 0.5 / {K})", "(1 / {T}, -0.5)", "(1.0, -{T} / 2)",
    "(1 / 255, 0.0)", "(1 / 256, 0.0)", "(255 / {T}, 0.0)", "(256 / {K}, 0.0)", "(256 / {K} / 255, 0.0)",
    "(512 / {K} / 255, -1.0)",
)  # fmt: skip
"""k * scale + offset as people write it, T = K - 1; of fewer than 256 levels also as bytes whose lower bits are 0."""


@dataclass(frozen=True)
class Reading:
    """One way to feed and to read a model, and what it scores.

    Attributes:
        encode, layout: as a head takes them.
        text: of `encode`, for reading.
        bits: bits/dim, the mean over the images.
        in_use: it is what the head says, or what is assumed where it says nothing.
        each: bits/dim of each image, (N,).
    """

    encode: Encode
    text: str
    layout: str
    bits: float
    in_use: bool
    each: np.ndarray = field(repr=False, compare=False)

    def clearly_better(self, other: Reading) -> bool:
        """By more than 3 % of the other's bits/dim, and than three standard errors of the difference between images."""
        gain = other.each - self.each
        error = float(gain.std()) / math.sqrt(len(gain))
        return float(gain.mean()) > max(0.03 * other.bits, 3 * error)


def encodings(head: Head, shape: tuple[int, int, int], values: Tensor) -> list[tuple[Encode, str]]:
    """How values may enter a model, with a text for each: the head's own first, none of them twice.

    Args:
        values: int64 (N, H, W, C), whose mean and deviation are among those that images may have been normalised by.
    """
    top, channels = head.levels - 1, shape[0]
    named: list[tuple[Encode, str]] = [(head.encode, text_of(head.encode))]
    named += [(name, f'"{name}"') for name in ("integer", "unit", "symmetric")]
    named += [(_number(text), text) for text in (form.format(K=head.levels, T=top) for form in AFFINE)]
    unit = values.double().flatten(0, 2) / top  # (N H W, C)
    own = {"the mean and deviation of these images": (tuple(unit.mean(0).tolist()), tuple(unit.std(0).tolist()))}
    own["their mean and deviation over all channels"] = ((float(unit.mean()),), (float(unit.std()),))
    for name, (mean, deviation) in (MEANS | own).items():
        if len(mean) in (1, channels) and min(deviation) > 0:
            named.append(_normalised(name, mean, deviation, top, channels))
    result: dict[tuple[torch.dtype, bytes], tuple[Encode, str]] = {}
    for encode, text in named:
        table = _with(head, encode).table(shape)
        rounded = table if table.dtype == torch.int64 else (table * 1e5).round().long()
        result.setdefault((table.dtype, rounded.numpy().tobytes()), (encode, text))
    return list(result.values())


def _number(text: str) -> tuple[float, float]:
    """What one of `AFFINE` comes to."""
    scale, offset = (part.split(" / ") for part in text[1:-1].split(", "))
    return _quotient(scale), _quotient(offset)


def _quotient(parts: Sequence[str]) -> float:
    first, *others = (float(part) for part in parts)
    return first / math.prod(others)


def _normalised(
    name: str, mean: tuple[float, ...], deviation: tuple[float, ...], top: int, channels: int
) -> tuple[Encode, str]:
    m, d = torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    table = (torch.arange(top + 1) / top - m[:, None]) / d[:, None]
    numbers = [", ".join(f"{x:.4g}" for x in part) for part in (mean, deviation)]
    text = f"(k / {top} - mean) / deviation, mean {numbers[0]}, deviation {numbers[1]}: {name}"
    return table.float().expand(channels, -1).clone(), text


def text_of(encode: Encode) -> str:
    """An encoding, for reading."""
    if isinstance(encode, str):
        return f'"{encode}"'
    if isinstance(encode, tuple) and len(encode) == 2:
        return f"({float(encode[0]):.6g}, {float(encode[1]):.6g})"
    return "a function" if callable(encode) and not isinstance(encode, Tensor) else "a table"


def _with(head: Head, encode: Encode, layout: str | None = None) -> Head:
    """The same head with another encoding and layout."""
    clone = copy.copy(head)
    clone.encode, clone.layout, clone._frozen_table = encode, layout, None
    return clone


def with_reading(head: Head, reading: Reading) -> Head:
    """The head that feeds a model so, and reads it so unless it says its layout itself."""
    return _with(head, reading.encode, head.layout or reading.layout)


def score(
    module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions, order: Order, values: Tensor
) -> tuple[Reading, ...]:
    """All ways in which a frozen module runs and is autoregressive, the best one first; () if there is none.

    Args:
        values: int64 (N, H, W, C); the first of them are scored.
        conditions: those of all N images.
    """
    count = min(len(values), MOST_IMAGES, max(LEAST_IMAGES, SUB_PIXELS // math.prod(shape)))
    values, conditions = values[:count], conditions.rows(slice(count), len(values))
    layouts: dict[torch.dtype, list[OutputLayout]] = {}
    result: list[Reading] = []
    for number, (encode, text) in enumerate(encodings(head, shape, values)):
        fed = _with(head, encode)
        kind = fed.table(shape).dtype
        try:
            _output(module, fed, conditions, values, slice(IMAGES))
            if kind not in layouts:  # what a number depends on is the same for all numbers that enter
                layouts[kind] = _causal_layouts(module, shape, _with(head, encode, head.layout), conditions, order, values)
            each = _bits(module, fed, layouts[kind], conditions, values)
        except Exception:  # whatever a stranger's module raises for inputs that it was not made for
            continue
        for layout, bits in zip(layouts[kind], each, strict=True):
            in_use = number == 0 and head.layout in (None, layout.text)
            if np.isfinite(bits).all():
                result.append(Reading(encode, text, layout.text, float(bits.mean()), in_use, bits))
    return tuple(sorted(result, key=lambda reading: (round(reading.bits, 4), not reading.in_use)))


def _output(module: nn.Module, head: Head, conditions: Conditions, values: Tensor, rows: slice) -> Tensor:
    """The module's output for some of the images."""
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    inputs = head.encode_images(values[rows].permute(0, 3, 1, 2)).to(device)
    return call(module, inputs, conditions.rows(rows, len(values)).to(device)).cpu()


def _causal_layouts(
    module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions, order: Order, values: Tensor
) -> list[OutputLayout]:
    """The layouts in which no prediction sees what it predicts; among equal ones that of the head.

    Of a module that cannot be traced, those in which trials show no leak.
    """
    texts: dict[tuple[int, ...], str] = {}
    for text in dict.fromkeys((head.layout, None)):
        try:
            analysis = analyse(module, shape, _with(head, head.encode, text), conditions, order)
            causal: tuple[str, ...] = (analysis.layout.text,) if analysis.leak is None else ()
        except AmbiguousLayout as error:
            causal = error.layouts
        except UnsupportedModel:
            causal = _undisturbed(module, shape, _with(head, head.encode, text), conditions, order, values)
        except PixelfastError:  # the caller traces the model as well, and says why it cannot be
            continue
        for found in causal:
            layout = OutputLayout(found, *shape, head.parameters)
            texts.setdefault(layout.read(torch.empty(layout.shape(IMAGES), device="meta"), IMAGES).stride(), found)
    return [OutputLayout(text, *shape, head.parameters) for text in texts.values()]


def _undisturbed(
    module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions, order: Order, values: Tensor
) -> tuple[str, ...]:
    """The layouts in which other values of a sub-pixel and of all later ones change no parameter up to that sub-pixel."""
    channels, height, width = shape
    part, generator = values[:IMAGES], torch.Generator().manual_seed(0)
    ranks = torch.from_numpy(order.ranks(height, width)).view(1, height, width, 1) * channels + torch.arange(channels)
    output = _output(module, head, conditions, values, slice(len(part)))
    result = candidates(tuple(output.shape), len(part), shape, head)
    for _ in range(TRIALS):
        rank = int(torch.randint(height * width * channels, (1,), generator=generator))
        rank -= rank % channels if head.shared else 0
        others = (part + torch.randint(1, head.levels, part.shape, generator=generator)) % head.levels
        changed = torch.where(ranks >= rank, others, part)
        other = _output(module, head, conditions, torch.cat([changed, values[len(part) :]]), slice(len(part)))
        kept = (ranks <= rank).expand(part.shape)
        result = [layout for layout in result if _same(*(layout.read(o, len(part))[kept] for o in (output, other)))]
    return tuple(layout.text for layout in result)


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _bits(
    module: nn.Module, head: Head, layouts: Sequence[OutputLayout], conditions: Conditions, values: Tensor
) -> list[np.ndarray]:
    """bits/dim of each image in each layout: float64 (N,)."""
    size = max(1, NUMBERS // (math.prod(values.shape[1:]) * head.parameters))
    result: list[list[Tensor]] = [[] for _ in layouts]
    for begin in range(0, len(values) if layouts else 0, size):
        rows = slice(begin, min(begin + size, len(values)))
        output = _output(module, head, conditions, values, rows)
        for parts, layout in zip(result, layouts, strict=True):
            own = head.conditionals(layout.read(output, rows.stop - begin).float(), values[rows])
            parts.append(-head.log_prob(own, values[rows]).flatten(1).mean(1) / math.log(2))
    return [torch.cat(parts).numpy() for parts in result]
