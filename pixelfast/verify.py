"""Verify: were these images drawn exactly as the model itself would have drawn them?

One forward of the module on the finished images gives the parameters of every sub-pixel (teacher forcing). They must describe
the distributions that the engine drew from, and each value must be the draw that the module's parameters and the same noise
give, unless the noise lies within a hair of an edge of the cumulative distribution: such ties are counted.

Distributions are compared, not parameters: `distances`. Among the logits of a softmax a constant of -1e9 says "never" and
nothing else, so it must not be the scale on which errors of the other logits are measured.

An engine of lower precision is held to what `pixelfast.precision` states: distributions within its tolerance of those of the
module's float32 forward, and each value the draw that the engine's own parameters give. How many draws the module's
parameters would have changed is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributions.base import Head
from .distributions.categorical import Categorical
from .engines.naive import NaiveEngine
from .host.copying import independent_copy
from .inputs.conditions import Conditions
from .precision import PRECISIONS

EDGE_TOLERANCE = 1e-5
"""Noise this close to an edge of the cumulative distribution may fall on either side."""

RARE = 1e-3
"""Probabilities count by their logarithm, but below this by their size: the tolerance of fp32, times this, is an error of 1e-7,
and the noise has steps of 6e-8."""

ROUNDING = 2.0**-20
"""How far two float32 sums of the same terms may lie apart, relative to the result: 16 times the rounding of one operation.
A logit of 1e6 is rounded to 0.06: there, another order of the same sum is another distribution already."""

LEAST_SPREAD = 1e-2
"""Predictions that hardly differ from each other still carry the rounding errors of what they were computed from."""

OWN_ROUNDING = 4.0
"""How many times as far an engine's distributions may lie from the module's as those of the module with other last bits do."""
LAST_BITS = 2.0**-21
"""How far weights are moved, relative to each, to see what a model makes of rounding: four times the precision of float32."""
TRIALS = 3
"""How often they are moved."""
MOST_ROUNDING = 1e-2
"""A model whose own rounding moves its distributions further than this, in units of `distances`, gets no more room for it."""

PIECE = 1 << 22
"""Probabilities that are compared at a time."""


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        images: how many images were looked at.
        draws: how many sub-pixels were drawn (not given).
        ties: draws that differ from the module's, with the noise within `EDGE_TOLERANCE` of an edge of its distribution, or
            within what rounded parameters move such an edge.
        wrong: draws that differ from the module's without that excuse.
        changed: sub-pixels that differ from what the engine draws with this seed.
        parameter_error: largest of the `distances` between what the engine's parameters and the module's describe.
        precision: of the engine.
        moved: draws that float32 parameters would have given another value; 0 where that is wrong or a tie already.
        rounding: how far the module's distributions move with the last bits of its weights, in units of `distances`; 0 where
            nobody had to ask.
    """

    images: int
    draws: int
    ties: int
    wrong: int
    changed: int
    parameter_error: float
    precision: str = "fp32"
    moved: int = 0
    rounding: float = 0.0

    @property
    def ok(self) -> bool:
        return self.wrong == 0 and self.changed == 0 and self.parameter_error <= self.tolerance

    @property
    def tolerance(self) -> float:
        """The largest `parameter_error` that the precision, and the module's own rounding, allow."""
        return allowed(self.precision, self.rounding)

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
            max(self.rounding, other.rounding),
        )

    def __str__(self) -> str:
        exact = "exact" if self.precision == "fp32" else f"within the tolerance of {self.precision}"
        text = (
            f"{'' if self.ok else 'NOT '}{exact}: {self.images} images, {self.draws} draws, {self.wrong} wrong, "
            f"{self.changed} unlike this seed's, {self.ties} ties at a CDF edge, "
            f"largest error of a log-probability {self.parameter_error:.1e} of a standard deviation"
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
    rounding: float = 0.0,
) -> Verification:
    """Compare images with the module's own draws.

    Args:
        values: the images in question, int64 (N, H, W, C).
        expected: what the engine draws with the same noise, int64 (N, H, W, C).
        noise: float32 (N, H, W, C).
        drawn: bool (N, H, W, C), False where values were given.
        engine_parameters, module_parameters: float32 (N, H, W, C, P).
        precision: of the engine.
        rounding: of the module itself, see `Verification`.
    """
    exact = precision == "fp32"
    away = distances(head, engine_parameters, module_parameters, values)
    module_own = head.conditionals(module_parameters, values)
    parameters = module_own if exact else head.conditionals(engine_parameters, values)
    differs = drawn & (head.draw(parameters, noise, temperature) != values)
    distance = head.edge_distance(parameters[differs], noise[differs], values[differs], temperature)
    moved = 0 if exact else int((drawn & (head.draw(module_own, noise, temperature) != values)).sum())
    near = distance <= EDGE_TOLERANCE
    if differs.any():
        at = differs.any(-1)
        rounded = head.conditionals(_towards(head, module_parameters[at], engine_parameters[at]), values[at])
        near |= head.draw(rounded, noise[at], temperature)[differs[at]] == values[differs]
        if rounding:  # what the engine drew from is as near to the module's as the module is to itself
            engine_own = head.conditionals(engine_parameters[at], values[at])
            drew = head.draw(engine_own, noise[at], temperature)[differs[at]] == values[differs]
            near |= drew & (away[differs] <= allowed(precision, rounding))
    ties = int(near.sum())
    return Verification(
        images=len(values),
        draws=int(drawn.sum()),
        ties=ties,
        wrong=int(differs.sum()) - ties,
        changed=int((values != expected).sum()),
        parameter_error=float(away.max()) if away.numel() else 0.0,
        precision=precision,
        moved=moved,
        rounding=rounding,
    )


def allowed(precision: str, rounding: float = 0.0) -> float:
    """The largest of the `distances` that a precision allows for a module whose own rounding makes so large ones."""
    return max(PRECISIONS[precision].tolerance, OWN_ROUNDING * min(rounding, MOST_ROUNDING))


def own_rounding(oracle: NaiveEngine, images: Tensor, own: Tensor, conditions: Conditions) -> float:
    """How far a module's distributions on finished images move with the last bits of its weights: the largest of `distances`.

    Sums in another order differ in their last bits, and layers that divide by small numbers make much of that. An engine cannot
    be nearer to the module than the module is to itself.

    Args:
        images: int64 (N, H, W, C).
        own: the module's parameters there, float32 (N, H, W, C, P).
    """
    farthest, generator = 0.0, torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        module = independent_copy(oracle.module).cpu()
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
                    tensor.mul_(1 + LAST_BITS * (2 * noise - 1))
        with torch.random.fork_rng(devices=[]):
            moved = NaiveEngine(module, oracle.head, oracle.layout).parameters(images, conditions)
        farthest = max(farthest, float(distances(oracle.head, moved, own, images).max()))
    return farthest


def distances(head: Head, engine: Tensor, module: Tensor, values: Tensor) -> Tensor:
    """How far apart the distributions lie that an engine's and the module's parameters describe: float64 (N, H, W, C).

    Of p and q, the probabilities of one value, it is |log((p + RARE) / (q + RARE))| over the standard deviation of all of the
    module's log(q + RARE), and of a sub-pixel the largest of any value. These logarithms lie within -7 .. 0: their deviation
    is at most 3.5, whatever constants there are among the parameters, and small for a model that has learned little yet.
    Parameters that differ by no more than `ROUNDING`, and `Head.rounding`, count as equal. The distance is infinite where only
    one of the two describes a distribution, and 0 where neither does, since nothing was drawn there.

    Args:
        engine, module: float32 (N, H, W, C, P), before the temperature.
        values: the images, int64 (N, H, W, C): what a mixture's later channels are conditioned on.
    """
    result = torch.zeros(values.shape, dtype=torch.float64)
    count, total, squares = 0, 0.0, 0.0
    for image, (drawn, own, pixels) in enumerate(zip(engine, module, values, strict=True)):
        near = _towards(head, drawn, own)
        here, there = head.describes_distribution(near), head.describes_distribution(own)
        both = here & there
        result[image][here != there] = torch.inf
        pair = [head.conditionals(parameters, pixels)[both] for parameters in (near, own)]
        pieces = [parameters.split(max(1, PIECE // max(head.levels, parameters.shape[-1]))) for parameters in pair]
        apart = []
        for one, other in zip(*pieces, strict=True):
            logarithms = _logarithms(head, other)
            apart.append(_apart(_logarithms(head, one), logarithms))
            count, total = count + logarithms.numel(), total + float(logarithms.nansum())
            squares += float((logarithms**2).nansum())
        result[image][both] = torch.cat(apart)
    spread = max(squares / count - (total / count) ** 2, 0.0) ** 0.5 if count else 1.0
    return result.div_(max(spread, LEAST_SPREAD))


def _towards(head: Head, parameters: Tensor, others: Tensor) -> Tensor:
    """Parameters moved towards others by as much as may come from another order of the same float32 sums."""
    slack = ROUNDING * torch.minimum(others.abs(), parameters.abs()) + head.rounding
    finite = others.isfinite() & parameters.isfinite()
    return torch.where(finite, parameters + torch.clamp(others - parameters, -slack, slack), parameters)


def _logarithms(head: Head, parameters: Tensor) -> Tensor:
    """log(p + RARE) of all values: own parameters (M, P) -> float64 (M, K); NaN where a mixture has no weight left."""
    below = F.pad(head.edges(parameters), (1, 0))
    return (F.pad(below, (0, 1), value=1.0)[..., 1:] - below).clamp_min(0).add(RARE).log()


def _apart(engine: Tensor, module: Tensor) -> Tensor:
    """The largest difference of each row: (M, K), (M, K) -> (M,)."""
    same = (engine == module) | (engine.isnan() & module.isnan())
    return torch.where(same, 0.0, (engine - module).abs().nan_to_num(torch.inf)).amax(-1)


def agreement(
    engine: Tensor, module: Tensor, precision: str, where: str, head: Head | None = None, values: Tensor | None = None,
    rounding: Callable[[], float] = lambda: 0.0,
) -> str | None:  # fmt: skip
    """None where an engine drew from the distributions that the module gives, or where and how much they differ.

    Args:
        engine, module: float32 (N, H, W, C, P).
        precision: of the engine.
        where: the engine's parameters stand, for the text.
        head: what the parameters mean; by default logits of a softmax.
        values: the images, int64 (N, H, W, C), for heads whose channels share parameters.
        rounding: gives that of the module itself (see `Verification`), and is asked only where the precision allows less.
    """
    head = Categorical(max(engine.shape[-1], 2)) if head is None else head
    values = torch.zeros(engine.shape[:-1], dtype=torch.int64) if values is None else values
    away = distances(head, engine, module, values)
    tolerance = PRECISIONS[precision].tolerance
    if not away.numel() or float(away.max()) <= tolerance:
        return None
    tolerance = allowed(precision, rounding())
    if float(away.max()) <= tolerance:
        return None
    wrong = away > tolerance
    image, row, col, channel = at = tuple(int(i) for i in wrong.nonzero()[0])
    number = int((engine[at] - module[at]).abs().nan_to_num_(torch.inf).argmax())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} sub-pixels have other parameters {where} than in the module "
        f"itself, which move log-probabilities by up to {float(away.max()):.1e} of a standard deviation ({tolerance:.0e} is "
        f"allowed). The first is image {image}, row {row}, column {col}, channel {channel}: parameter {number} is "
        f"{float(engine[at][number]):.6g}, and {float(module[at][number]):.6g} in the module"
    )


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the standard deviation of the reference, for outputs of which no head is known.

    Infinite entries must agree. A few very large numbers hide the errors of all others: heads compare by `distances`.
    """
    if not reference.numel():
        return 0.0
    away = (found - reference).abs_().div_(_spread(reference))
    return float(torch.where(found == reference, 0.0, away.nan_to_num_(torch.inf, torch.inf, torch.inf)).max())


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
