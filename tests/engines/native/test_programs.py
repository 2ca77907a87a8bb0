"""Whole programs of small layers, the native engine against the reference interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from heads import mixture_head
from native import close, compare, needs_engine
from programs import Builder, recurrent, request
from tolerances import PROGRAM

from pixelfast.engines.native.engine import CpuEngine
from pixelfast.ir import program as contract
from pixelfast.lowering.given_rows import known_order

pytestmark = needs_engine


@pytest.mark.parametrize("head", contract.HEADS)
@pytest.mark.parametrize(("images", "threads", "known"), [(1, 1, 0.0), (3, 2, 0.4), (64, 2, 0.0), (9, 1, 1.0)])
def test_program(images: int, threads: int, known: float, head: str) -> None:
    levels = 2 if head.startswith("bernoulli") else 6
    mixture = mixture_head(head, levels, 4)
    shape = (3 if mixture else 2, 7, 5)
    builder = Builder(np.random.default_rng(images), shape, levels=levels, head=head, mixture=mixture)
    program, fields = builder.build(), builder.field_values(images)
    call = request(program, np.random.default_rng(7), images, known=known, fields=fields, threads=threads)
    compare(program, call, PROGRAM)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (1, 6, 1), (3, 9, 4)])
def test_program_of_any_shape(shape: tuple[int, int, int]) -> None:
    builder = Builder(np.random.default_rng(11), shape=shape, levels=40, features=9)
    program, fields = builder.build(), builder.field_values(5)
    compare(program, request(program, np.random.default_rng(1), 5, fields=fields, temperature=0.7), PROGRAM)


def test_given_pixels_inside_rows() -> None:
    builder = Builder(np.random.default_rng(12))
    program, fields = builder.build(), builder.field_values(6)
    mask = np.random.default_rng(2).random((6, 7, 5, 2)) < 0.5
    mask[:, 3] = True  # known for all images
    mask[2, 4] = True  # known for one image only
    call = request(program, np.random.default_rng(3), 6, known=mask, fields=fields)
    result = compare(program, call, PROGRAM)
    np.testing.assert_array_equal(result.values[mask], call.given[mask])


@pytest.mark.parametrize("kind", ["feed-forward", "recurrent"])
def test_known_rows_give_what_drawn_rows_gave(kind: str) -> None:
    """Whatever the order in which a row runs whose values are all given, all parameters stay what they were."""
    if kind == "recurrent":
        program, fields = recurrent(np.random.default_rng(0), 7, 5), ()
    else:
        builder = Builder(np.random.default_rng(12), shape=(3, 7, 5))
        program, fields = builder.build(), builder.field_values(4)
    assert (known_order(program) is None) == (kind == "recurrent")
    call = request(program, np.random.default_rng(3), 4, fields=fields)
    drawn = compare(program, call, PROGRAM)
    for known in (slice(0, 4), slice(2, 5), slice(0, 7)):
        given = np.full_like(drawn.values, -1)
        given[:, known] = drawn.values[:, known]
        again = compare(program, dataclasses.replace(call, given=given), PROGRAM)
        np.testing.assert_array_equal(again.values, drawn.values)
        close(again.parameters, drawn.parameters, PROGRAM, "reference")


def test_no_images() -> None:
    builder = Builder(np.random.default_rng(13))
    program = builder.build()
    result = CpuEngine(program).run(request(program, np.random.default_rng(4), 0, fields=builder.field_values(0)))
    assert result.values.shape == (0, 7, 5, 2)
    assert result.log_prob.shape == (0,)
