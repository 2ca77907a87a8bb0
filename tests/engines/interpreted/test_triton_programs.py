"""Whole programs of small layers, the Triton engine against the reference interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from heads import MIXTURES, mixture_head
from programs import Builder, by_phases, recurrent, request, swept
from triton_runs import compare

from pixelfast.engines.reference import run as reference
from pixelfast.engines.triton.arrangement import NAMES, PERSISTENT
from pixelfast.engines.triton.engine import CAPABILITIES, TritonEngine
from pixelfast.errors import NumericalError
from pixelfast.lowering.given_rows import known_order

RUNS = [*((head, "graph") for head in CAPABILITIES.heads), *((head, "persistent") for head in PERSISTENT.heads)]


def builder_of(head: str, seed: int, shape: tuple[int, int, int], **options: int) -> Builder:
    """A mixture describes pixels of 1 or 3 channels."""
    levels = 6 if head == "categorical" else 17 if head in MIXTURES else 2
    mixture = mixture_head(head, levels, 2, 1 if shape[0] == 1 else 3)
    shape = (3, *shape[1:]) if mixture and shape[0] == 2 else shape
    return Builder(np.random.default_rng(seed), shape, head=head, levels=levels, mixture=mixture, **options)


@pytest.mark.parametrize(("head", "arrangement"), RUNS)
@pytest.mark.parametrize(("images", "known"), [(1, 0.0), (3, 0.4)])
def test_program(images: int, known: float, head: str, arrangement: str) -> None:
    builder = builder_of(head, images, (2, 4, 3))
    program, fields = builder.build(), builder.field_values(images)
    call = request(program, np.random.default_rng(7), images, known=known, fields=fields, temperature=0.7)
    compare(TritonEngine(program, poison=True, arrangement=arrangement), call)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 2), (1, 4, 1)])
def test_program_of_any_shape(shape: tuple[int, int, int]) -> None:
    builder = Builder(np.random.default_rng(11), shape=shape, levels=40, features=9)
    program, fields = builder.build(), builder.field_values(2)
    compare(TritonEngine(program, poison=True), request(program, np.random.default_rng(1), 2, fields=fields))


def test_calls_do_not_see_each_other() -> None:
    """Memory and launches are kept: another number of images, other fields, no parameters, and the first call again."""
    builder = Builder(np.random.default_rng(12), (1, 2, 2), features=5)
    program, rng = builder.build(), np.random.default_rng(3)
    engine = TritonEngine(program)
    calls = [request(program, rng, n, fields=builder.field_values(n)) for n in (2, 1, 2)]
    calls.append(dataclasses.replace(calls[0], want_parameters=False))
    results = [compare(engine, call) for call in calls]
    again = compare(engine, calls[0])
    np.testing.assert_array_equal(again.values, results[0].values)
    np.testing.assert_array_equal(again.parameters, results[0].parameters)
    assert len(engine._sessions) == 2


@pytest.mark.parametrize("arrangement", NAMES)
def test_given_pixels_inside_rows_and_rows_handed_out(arrangement: str) -> None:
    builder = Builder(np.random.default_rng(12), (2, 4, 3))
    program, fields = builder.build(), builder.field_values(4)
    mask = np.random.default_rng(2).random((4, 4, 3, 2)) < 0.5
    mask[:, 1] = True  # known for all images
    mask[2, 2] = True  # known for one image only
    call = request(program, np.random.default_rng(3), 4, known=mask, fields=fields)
    rows = []
    call = dataclasses.replace(call, on_row=lambda row, values: rows.append((row, values.copy())))
    result = compare(TritonEngine(program, poison=True, arrangement=arrangement), call)
    np.testing.assert_array_equal(result.values[mask], call.given[mask])
    handed = rows[-4:]
    assert [row for row, _ in handed] == [0, 1, 2, 3]
    for row, values in handed:
        np.testing.assert_array_equal(values[:, : row + 1], result.values[:, : row + 1])


@pytest.mark.parametrize("arrangement", NAMES)
def test_rows_whose_order_is_that_of_the_columns(arrangement: str) -> None:
    program = recurrent(np.random.default_rng(0), 3, 4)
    assert known_order(program) is None
    call = request(program, np.random.default_rng(3), 2, known=0.5)
    compare(TritonEngine(program, poison=True, arrangement=arrangement), call)


@pytest.mark.parametrize(("sweep", "arrangement"), [(-1, "persistent"), (1, "graph")])
def test_sweeps(sweep: int, arrangement: str) -> None:
    program, call = swept(np.random.default_rng(2), 3, 4, sweep, 2)
    compare(TritonEngine(program, poison=True, arrangement=arrangement), call)


@pytest.mark.parametrize("arrangement", NAMES)
def test_lattices(arrangement: str) -> None:
    """A program cut by phases of rows and columns does what it did before."""
    builder = Builder(np.random.default_rng(3), (1, 3, 2), features=5)
    program, fields = builder.build(), builder.field_values(2)
    call = request(program, np.random.default_rng(1), 2, known=0.5, fields=fields)
    assert call.given is not None
    expected = compare(TritonEngine(program, poison=True, arrangement=arrangement), call)
    found = compare(TritonEngine(by_phases(program, 2, 3), poison=True, arrangement=arrangement), call)
    np.testing.assert_array_equal(found.values, expected.values)


def test_pixel_by_pixel() -> None:
    """As rows go that are too long for one graph."""
    builder = Builder(np.random.default_rng(5), (2, 3, 2), features=5)
    program, fields = builder.build(), builder.field_values(2)
    call = request(program, np.random.default_rng(3), 2, known=0.5, fields=fields)
    compare(TritonEngine(program, most_issues=1, poison=True, arrangement="graph"), call)


def test_no_images() -> None:
    builder = Builder(np.random.default_rng(13))
    program = builder.build()
    result = TritonEngine(program).run(request(program, np.random.default_rng(4), 0, fields=builder.field_values(0)))
    assert result.values.shape == (0, 7, 5, 2)
    assert result.log_prob.shape == (0,)


@pytest.mark.parametrize(("head", "arrangement"), RUNS)
@pytest.mark.parametrize("rows_handed_out", [False, True])
def test_parameters_that_describe_no_distribution(head: str, rows_handed_out: bool, arrangement: str) -> None:
    """The first of them in the order of drawing is named, as by the reference."""
    builder = builder_of(head, 5, (1, 3, 3), features=5)
    program, fields = builder.build(), builder.field_values(3)
    fields[2][1, 2:] = np.nan  # from the row before the last on (a border row comes first), of image 1
    call = request(program, np.random.default_rng(1), 3, fields=fields, on_row=(lambda *_: None) if rows_handed_out else None)
    with pytest.raises(NumericalError) as expected:
        reference(program, call)
    with pytest.raises(NumericalError, match="image 1, row 1, column 0") as found:
        TritonEngine(program, arrangement=arrangement).run(call)
    assert found.value.position == expected.value.position


