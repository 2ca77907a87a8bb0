"""Verify: were these images drawn exactly as the model itself would have drawn them?

One forward of the module on the finished images gives the parameters of every sub-pixel (teacher forcing). They must agree
with those that the engine drew from, and each value must be the draw that the module's parameters and the same noise give,
unless the noise lies within a hair of an edge of the cumulative distribution: such ties are counted.

An engine of lower precision is held to what `pixelfast.precision` states: parameters within its tolerance of those of the
module's float32 forward, and each value the draw that the engine's own parameters give. How many draws the module's
parameters would have changed is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .heads import Head
from .precision import PRECISIONS

EDGE_TOLERANCE = 1e-5
"""Noise this close to an edge of the cumulative distribution may fall on either side."""


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        images: how many images were looked at.
        draws: how many sub-pixels were drawn (not given).
        ties: draws that differ from the module's, with the noise within `EDGE_TOLERANCE` of an edge of its distribution.
        wrong: draws that differ from the module's without that excuse.
        changed: sub-pixels that differ from what the engine draws with this seed.
        parameter_error: largest difference of parameters, relative to their standard deviation.
        precision: of the engine.
        moved: draws that float32 parameters would have given another value; 0 where that is wrong or a tie already.
    """

    images: int
    draws: int
    ties: int
    wrong: int
    changed: int
    parameter_error: float
    precision: str = "fp32"
    moved: int = 0

    @property
    def ok(self) -> bool:
        return self.wrong == 0 and self.changed == 0 and self.parameter_error <= self.tolerance

    @property
    def tolerance(self) -> float:
        """The largest `parameter_error` that the precision allows."""
        return PRECISIONS[self.precision].tolerance

    def __add__(self, other: Verification) -> Verification:
        return Verification(
            self.images + other.images,
            self.draws + other.draws,
            self.ties + other.ties,
            self.wrong + other.wrong,
            self.changed + other.changed,
            max(self.parameter_error, other.parameter_error),
            self.precision,
            self.moved + other.moved,
        )

    def __str__(self) -> str:
        exact = "exact" if self.precision == "fp32" else f"within the tolerance of {self.precision}"
        text = (
            f"{'' if self.ok else 'NOT '}{exact}: {self.images} images, {self.draws} draws, {self.wrong} wrong, "
            f"{self.changed} unlike this seed's, {self.ties} ties at a CDF edge, "
            f"largest parameter error {self.parameter_error:.1e} of a standard deviation"
        )
        if self.precision == "fp32":
            return text
        return f"{text} ({self.tolerance:.0e} allowed), {self.moved} draws moved from those of float32"


def compare(
    head: Head,
    values: Tensor,
    expected: Tensor,
    noise: Tensor,
    drawn: Tensor,
    engine_parameters: Tensor,
    module_parameters: Tensor,
    temperature: float,
    precision: str = "fp32",
) -> Verification:
    """Compare images with the module's own draws.

    Args:
        values: the images in question, int64 (N, H, W, C).
        expected: what the engine draws with the same noise, int64 (N, H, W, C).
        noise: float32 (N, H, W, C).
        drawn: bool (N, H, W, C), False where values were given.
        engine_parameters, module_parameters: float32 (N, H, W, C, P).
        precision: of the engine.
    """
    exact = precision == "fp32"
    module_own = head.conditionals(module_parameters, values)
    parameters = module_own if exact else head.conditionals(engine_parameters, values)
    differs = drawn & (head.draw(parameters, noise, temperature) != values)
    distance = head.edge_distance(parameters[differs], noise[differs], values[differs], temperature)
    moved = 0 if exact else int((drawn & (head.draw(module_own, noise, temperature) != values)).sum())
    ties = int((distance <= EDGE_TOLERANCE).sum())
    return Verification(
        images=len(values),
        draws=int(drawn.sum()),
        ties=ties,
        wrong=int(differs.sum()) - ties,
        changed=int((values != expected).sum()),
        parameter_error=relative_error(engine_parameters, module_parameters),
        precision=precision,
        moved=moved,
    )


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the spread of the reference; infinite entries must agree."""
    return float(deviation(found, reference).max()) if reference.numel() else 0.0


def deviation(found: Tensor, reference: Tensor) -> Tensor:
    """Absolute differences over the standard deviation of all of the reference, float32 of the same shape.

    Infinity where one of the two is not finite and the other is not the same.
    """
    difference = (found - reference).abs_().div_(_spread(reference))
    return torch.where(found == reference, 0.0, difference.nan_to_num_(torch.inf, torch.inf, torch.inf))


def _spread(reference: Tensor) -> float:
    """The standard deviation of the finite numbers, summed by pieces: copies of all of them may take gigabytes."""
    count, total, squares, largest = 0, 0.0, 0.0, 0.0
    for piece in _pieces(reference):
        finite = piece[torch.isfinite(piece)].double()
        if finite.numel():
            count, total, squares = count + finite.numel(), total + float(finite.sum()), squares + float((finite**2).sum())
            largest = max(largest, float(finite.abs().max()))
    if not count:
        return 1.0
    mean = total / count
    # Parameters that hardly differ from each other still carry the rounding errors of their size.
    return max(max(squares / count - mean**2, 0.0) ** 0.5, 1e-2 * largest, 1e-3)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.numel() <= 1 << 20 or not tensor.dim():
        yield tensor
    else:
        for part in tensor.unbind(0):
            yield from _pieces(part)


def agreement(engine: Tensor, module: Tensor, precision: str, name: str) -> str | None:
    """None where the parameters of an engine agree with the module's, or where and how much they differ.

    Args:
        engine, module: float32 (N, H, W, C, P).
        precision: of the engine.
        name: of the engine, for the text.
    """
    away = deviation(engine, module)
    tolerance = PRECISIONS[precision].tolerance
    if not away.numel() or float(away.max()) <= tolerance:
        return None
    wrong = away > tolerance
    image, row, col, channel, number = (int(i) for i in wrong.nonzero()[0])
    at = image, row, col, channel, number
    return (
        f"{int(wrong.any(-1).sum())} of {wrong[..., 0].numel()} sub-pixels have other parameters in the engine {name!r} than "
        f"in the module itself, by up to {float(away.max()):.1e} of a standard deviation ({tolerance:.0e} is allowed). The "
        f"first is image {image}, row {row}, column {col}, channel {channel}: parameter {number} is {float(engine[at]):.6g}, "
        f"and {float(module[at]):.6g} in the module"
    )
