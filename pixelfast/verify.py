"""Verify: were these images drawn exactly as the model itself would have drawn them?

One forward of the module on the finished images gives the parameters of every sub-pixel (teacher forcing). They must agree
with those that the engine drew from, and each value must be the draw that the module's parameters and the same noise give,
unless the noise lies within a hair of an edge of the cumulative distribution: such ties are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .heads import Head

LOGIT_TOLERANCE = 1e-4
"""Largest difference between parameters, relative to their standard deviation over the images."""
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
    """

    images: int
    draws: int
    ties: int
    wrong: int
    changed: int
    parameter_error: float

    @property
    def ok(self) -> bool:
        return self.wrong == 0 and self.changed == 0 and self.parameter_error <= LOGIT_TOLERANCE

    def __add__(self, other: Verification) -> Verification:
        return Verification(
            self.images + other.images,
            self.draws + other.draws,
            self.ties + other.ties,
            self.wrong + other.wrong,
            self.changed + other.changed,
            max(self.parameter_error, other.parameter_error),
        )

    def __str__(self) -> str:
        verdict = "exact" if self.ok else "NOT exact"
        return (
            f"{verdict}: {self.images} images, {self.draws} draws, {self.wrong} wrong, {self.changed} unlike this seed's, "
            f"{self.ties} ties at a CDF edge, largest parameter error {self.parameter_error:.1e} of a standard deviation"
        )


def compare(
    head: Head,
    values: Tensor,
    expected: Tensor,
    noise: Tensor,
    drawn: Tensor,
    engine_parameters: Tensor,
    module_parameters: Tensor,
    temperature: float,
) -> Verification:
    """Compare images with the module's own draws.

    Args:
        values: the images in question, int64 (N, H, W, C).
        expected: what the engine draws with the same noise, int64 (N, H, W, C).
        noise: float32 (N, H, W, C).
        drawn: bool (N, H, W, C), False where values were given.
        engine_parameters, module_parameters: float32 (N, H, W, C, P).
    """
    redrawn = head.draw(module_parameters, noise, temperature)
    differs = drawn & (redrawn != values)
    distance = head.edge_distance(module_parameters[differs], noise[differs], values[differs], temperature)
    ties = int((distance <= EDGE_TOLERANCE).sum())
    return Verification(
        images=len(values),
        draws=int(drawn.sum()),
        ties=ties,
        wrong=int(differs.sum()) - ties,
        changed=int((values != expected).sum()),
        parameter_error=relative_error(engine_parameters, module_parameters),
    )


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the standard deviation of the reference; infinite entries must agree."""
    finite = torch.isfinite(reference)
    if not torch.equal(found[~finite], reference[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    expected = reference[finite].double()
    difference = (found[finite].double() - expected).abs().max()
    # Parameters that hardly differ from each other still carry the rounding errors of their size.
    return float(difference) / max(float(expected.std(correction=0)), 1e-2 * float(expected.abs().max()), 1e-3)
