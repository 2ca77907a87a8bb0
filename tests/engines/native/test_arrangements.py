"""The same bits whatever the batch, the number of threads and the arrangement of the work."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from native import ARRANGEMENTS, ISAS, needs_engine, some_images
from programs import Builder, request

from pixelfast.engines.native.engine import CpuEngine

pytestmark = needs_engine


def test_images_do_not_depend_on_the_batch() -> None:
    builder = Builder(np.random.default_rng(13))
    program, fields = builder.build(), builder.field_values(65)
    engine, call = CpuEngine(program), request(program, np.random.default_rng(4), 65, fields=fields)
    whole = engine.run(call)
    for images in (slice(0, 1), slice(3, 40), slice(64, 65)):
        part = some_images(call, images)
        np.testing.assert_array_equal(engine.run(part).values, whole.values[images])


def test_every_bit_is_independent_of_the_batch() -> None:
    """Whatever the number of images and threads, and wherever in the batch an image stands."""
    builder = Builder(np.random.default_rng(16), features=45, levels=70)
    program, fields = builder.build(), builder.field_values(33)
    call = request(program, np.random.default_rng(4), 33, fields=fields)
    for isa in ISAS:
        engine = CpuEngine(program, isa=isa)
        whole = engine.run(call)
        for images, threads in itertools.product((1, 2, 3, 5, 12, 13, 33), (1, 2, 3)):
            chosen = slice(33 - images, 33)
            found = engine.run(some_images(call, chosen, threads))
            np.testing.assert_array_equal(found.parameters, whole.parameters[chosen], err_msg=f"{isa}, {images} images")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 1, 1), (2, 9, 14)])
def test_every_arrangement_computes_the_same_bits(isa: str, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    builder = Builder(rng, shape=shape)
    program = builder.build()
    engine, images = CpuEngine(program, isa=isa), 5
    call = request(program, rng, images, fields=builder.field_values(images))
    results = [engine.run(call, arrangement=arrangement) for arrangement in (None, *ARRANGEMENTS)]
    for arrangement, result in zip(ARRANGEMENTS, results[1:], strict=True):
        for name in ("values", "parameters", "log_prob"):
            np.testing.assert_array_equal(getattr(result, name), getattr(results[0], name), err_msg=f"{name} {arrangement}")
