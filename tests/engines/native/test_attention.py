"""The attention instruction by itself: the native engine against the interpreter, and both against attention written down."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from attention_cases import CASES, PIXELS, Case, fields_of, program_of
from native import ARRANGEMENTS, HEIGHT, IMAGES, ISAS, WIDTH, needs_engine, some_images
from programs import request, with_body

from pixelfast.engines import reference
from pixelfast.engines.native import engine as cpu
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.ir.program import Attention, PixelRuns, Program, Rect
from pixelfast.lowering import packing
from pixelfast.lowering.wavefront import Wave, wavefront


def attention_of(program: Program) -> tuple[Attention, Rect]:
    """The only attention of a program, and where it runs."""
    ((attention, rect),) = ((i.body, i.rect) for i in program.instructions() if isinstance(i.body, Attention))
    return attention, rect


def by_hand(program: Program, fields: tuple[np.ndarray, ...]) -> np.ndarray:
    """Attention over arrays, in float64: (N, H, W, heads * D), 0.25 outside the instruction's rectangle."""
    attention, rect = attention_of(program)
    heads = attention.heads
    query, cache = (field.astype(np.float64).reshape(len(field), PIXELS, -1) for field in fields)
    q = query[..., 2:].reshape(len(query), PIXELS, heads, -1)
    k = cache[..., 1 : 1 + attention.keys.count].reshape(len(query), PIXELS, heads, -1)
    v = cache[..., attention.values.channel :][..., : attention.values.count].reshape(len(query), PIXELS, heads, -1)
    result = np.full((len(query), PIXELS, heads, v.shape[3]), 0.25)
    scores = np.einsum("nqhe,nkhe->nhqk", q, k) * attention.scale
    mask = attention.seen.mask(PIXELS).reshape(attention.masks, attention.elements, PIXELS)
    first = np.concatenate([[0], np.cumsum(attention.seen.counts())]).reshape(-1)
    elements = np.arange(PIXELS).reshape(HEIGHT, WIDTH)[rect.row0 : rect.row1, rect.col0 : rect.col1].reshape(-1)
    for i, pixel in enumerate(elements):
        for head in range(heads):
            m = head if attention.masks > 1 else 0
            here = np.flatnonzero(mask[m, i])
            score = scores[:, head, pixel, here]
            if attention.bias is not None:
                biases = attention.bias[head if len(attention.bias) > 1 else 0]
                score = score + biases[first[m * attention.elements + i] :][: len(here)]
            weights = np.exp(score - score.max(1, keepdims=True, initial=-np.inf)) if len(here) else score
            weights = weights / weights.sum(1, keepdims=True) if len(here) else weights
            result[:, pixel, head] = np.einsum("nk,nkd->nd", weights, v[:, here, head])
    return result.reshape(len(query), HEIGHT, WIDTH, -1)


@pytest.mark.parametrize("name", CASES)
def test_the_interpreter_does_what_is_written_down(name: str) -> None:
    rng = np.random.default_rng(3)
    program = program_of(CASES[name], rng)
    fields = fields_of(program, rng, IMAGES)
    for known in (0.0, 0.5, 1.0):
        found = reference.run(program, request(program, rng, IMAGES, known=known, fields=fields), poison=True)
        np.testing.assert_allclose(found.parameters[..., 0, :], by_hand(program, fields), rtol=1e-5, atol=1e-5)


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["wide", "a bias for each head", "keys a pixel late", "once per row"])
def test_every_bit_is_an_image_s_own(name: str, isa: str) -> None:
    """Whatever the batch, the threads and the arrangement."""
    rng = np.random.default_rng(5)
    program = program_of(CASES[name], rng)
    engine, images = CpuEngine(program, isa=isa), 13
    call = request(program, rng, images, fields=fields_of(program, rng, images))
    whole = engine.run(call)
    for arrangement in ARRANGEMENTS:
        found = engine.run(call, arrangement=arrangement)
        np.testing.assert_array_equal(found.parameters, whole.parameters, err_msg=str(arrangement))
    for part, threads in ((slice(0, 1), 1), (slice(3, 13), 2), (slice(12, 13), 3), (slice(2, 5), 1)):
        found = engine.run(some_images(call, part, threads))
        np.testing.assert_array_equal(found.parameters, whole.parameters[part])


@pytest.mark.parametrize("name", ["everything before", "keys a pixel late", "keys a row early", "once per row"])
@pytest.mark.parametrize(("chunk", "lag"), [(1, 1), (2, 1), (3, 2)])
def test_a_row_stays_behind_the_whole_row_above(name: str, chunk: int, lag: int) -> None:
    rng = np.random.default_rng(6)
    program = program_of(CASES[name], rng)
    wave = Wave(program, wavefront(program), chunk, lag)
    if CASES[name].phase == "pixel":
        assert wave.skew >= WIDTH
    call = request(program, rng, IMAGES, fields=fields_of(program, rng, IMAGES))
    expected = reference.run(program, call, poison=True)
    found = reference.run(program, call, poison=True, wave=wave)
    np.testing.assert_array_equal(found.parameters, expected.parameters)


def test_lists_of_pixels() -> None:
    rng = np.random.default_rng(7)
    seen = rng.random((17, PIXELS)) < 0.5
    seen[3], seen[4] = False, True
    keys = PixelRuns.of(seen)
    np.testing.assert_array_equal(keys.mask(PIXELS), seen)
    np.testing.assert_array_equal(keys.counts(), seen.sum(1))
    for i, mask in enumerate(seen):
        np.testing.assert_array_equal(keys[i], np.flatnonzero(mask))
        assert keys.last()[i] == max(np.flatnonzero(mask), default=-1)
    before = PixelRuns.of(np.tri(PIXELS, k=-1, dtype=bool))
    assert len(before.runs) == PIXELS - 1, "everything before is one run"
    assert before.latest_offset(HEIGHT, WIDTH) == (0, -1)


# Streams.


def changed(program: Program, **change: object) -> Program:
    *copies, attention = program.steps[0]
    return dataclasses.replace(program, steps=((*copies, with_body(attention, **change)),))


def malformed(program: Program) -> list[tuple[str, Program]]:
    attention, _ = attention_of(program)
    seen, keys, values = attention.seen, attention.keys, attention.values
    few = (*program.buffers[:2], dataclasses.replace(program.buffers[2], rows=HEIGHT - 1))

    def lists(offsets: np.ndarray, runs: np.ndarray) -> Program:
        return changed(program, seen=PixelRuns(offsets, runs))

    turned, beyond = seen.runs.copy(), seen.runs.copy()
    turned[-1], beyond[-1, 1] = turned[-1, ::-1], PIXELS + 1
    doubled = np.where(np.arange(len(seen.runs))[:, None] == seen.offsets[9] + 1, seen.runs[seen.offsets[9]], seen.runs)
    return [
        ("keeps 6", dataclasses.replace(program, buffers=few)),
        ("outside a buffer's domain", changed(program, keys=dataclasses.replace(keys, row=1))),
        ("outside a buffer's domain", changed(program, values=dataclasses.replace(values, col=-1))),
        ("keeps 1", changed(program, keys=dataclasses.replace(keys, buffer=0, channel=0))),
        ("head by head", changed(program, keys=dataclasses.replace(keys, count=keys.count - 1))),
        ("head by head", changed(program, heads=2)),
        ("number of heads", changed(program, heads=0)),
        ("channels", changed(program, values=dataclasses.replace(values, channel=25))),
        ("a last pixel", lists(seen.offsets, turned)),
        ("a last pixel", lists(seen.offsets, beyond)),
        ("not ascending", lists(seen.offsets, doubled)),
        ("a bias", changed(program, bias=np.zeros((1, 5), np.float32))),
        ("number of biases", changed(program, bias=np.zeros((4, int(seen.counts().sum())), np.float32))),
        ("neither one bias nor", changed(program, bias=np.zeros((2, int(seen.counts().sum())), np.float32))),
        ("overwrites", changed(program, query=dataclasses.replace(attention.query, buffer=0, channel=0))),
    ]  # fmt: skip


@needs_engine
@pytest.mark.parametrize("case", range(15))
def test_malformed_attention_is_refused(case: int) -> None:
    reason, program = malformed(program_of(Case(), np.random.default_rng(0)))[case]
    with pytest.raises(ValueError, match=reason):
        CpuEngine(program)


@needs_engine
def test_lists_that_do_not_fit_are_refused() -> None:
    program = program_of(Case(), np.random.default_rng(0))
    words, arrays, _ = packing.pack(program)
    offsets = attention_of(program)[0].seen.offsets
    (at,) = (i for i in range(len(words) - PIXELS) if np.array_equal(words[i : i + PIXELS + 2], [PIXELS + 1, *offsets]))
    for place, value in [(1, 1), (6, offsets[6] + 1), (PIXELS + 1, offsets[-1] - 1), (PIXELS + 1, offsets[-1] + 1)]:
        damaged = words.copy()
        damaged[at + place] = value
        with pytest.raises(ValueError, match="hold each run once"):
            cpu.native().Engine(damaged, arrays)
