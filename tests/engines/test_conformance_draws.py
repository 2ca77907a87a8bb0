"""Every engine of the registry draws from each head as the formulas say, and names the first draw that has no distribution.

See test_conformance.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance import Run, answer, each
from draw_cases import DRAWS, ERRORS, DrawCase, ErrorCase

from pixelfast import MixtureOfGaussians, NumericalError
from pixelfast.distributions.base import Head
from pixelfast.distributions.components import MixtureHead
from pixelfast.engines.base import Result
from pixelfast.engines.reference import run as reference
from pixelfast.ir.program import HEADS
from pixelfast.lowering.draws import head_name


def exactness(head: Head) -> tuple[float, float]:
    """How near its edge a number must lie for a draw to be excused, and how far log-probabilities may lie apart.

    A mixture's are computed in float64.
    """
    return (1e-7, 1e-8) if isinstance(head, MixtureHead) else (1e-6, 2e-6)


def undecided(head: Head, own: torch.Tensor, temperature: float) -> torch.Tensor:
    """Whether rounding decides: at next to no temperature the likeliest value wins, and two are alike to 1e-9.

    Values that are alike by the formulas of logistics are so in every engine; Phi has other last bits in each.
    """
    first, second = head.probabilities(own).log().topk(2, -1).values.unbind(-1)
    return (first - second < 1e-9) & (temperature < 1e-6 and isinstance(head, MixtureOfGaussians))


def test_every_head_has_cases() -> None:
    assert {head_name(case.head) for case in DRAWS.values()} == set(HEADS)
    assert {head_name(case.head) for case in DRAWS.values() if case.small} == set(HEADS)


@each(DRAWS, exact=True)
def test_draws(run: Run, case: DrawCase) -> None:
    """Each value is that of the formulas, or its noise lies at an edge of their distribution; so is its log-probability."""
    (program, request), head = case.made(), case.head
    found: Result | None = answer(run, program, request)
    if found is None:
        return
    assert found.parameters is not None
    assert found.log_prob is not None
    parameters = torch.from_numpy(request.fields[0]).unsqueeze(-2).expand(found.parameters.shape)
    np.testing.assert_array_equal(found.parameters, parameters)
    values, noise = torch.tensor(found.values).long(), torch.from_numpy(request.noise).double()
    drawn = torch.ones_like(values, dtype=torch.bool)
    if request.given is not None:
        drawn = torch.from_numpy(request.given < 0)
        np.testing.assert_array_equal(found.values[~drawn.numpy()], request.given[~drawn.numpy()])
    own, (near, apart) = head.conditionals(parameters, values), exactness(head)
    left_open = undecided(head, own, case.temperature)
    drawn &= ~left_open
    assert float(head.edge_distance(own, noise, values, case.temperature)[drawn].max()) <= near
    each_draw = head.log_prob(own, values, case.temperature)
    assert bool(each_draw[drawn].isfinite().all()), "an impossible value was drawn"
    expected = torch.where(drawn, each_draw, 0.0).flatten(1).sum(1)
    whole = ~left_open.flatten(1).any(1).numpy()
    np.testing.assert_allclose(found.log_prob[whole], expected[whole], rtol=apart, atol=apart)


@each(ERRORS, exact=True)
def test_the_first_draw_without_a_distribution_is_named(run: Run, case: ErrorCase) -> None:
    program, request = case.make()
    if run.refuses(program) is not None:
        answer(run, program, request)
        return
    with pytest.raises(NumericalError) as expected:
        reference(program, request)
    with pytest.raises(NumericalError, match="describe no distribution") as found:
        answer(run, program, request)
    assert found.value.position == expected.value.position  # type: ignore[attr-defined]
