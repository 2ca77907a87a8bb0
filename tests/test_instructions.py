"""The native engine against the reference interpreter: instruction by instruction, then whole programs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from programs import Builder, normal, probe, recurrent, request
from tolerances import INSTRUCTION, LOG_PROB, OPERATION, PROGRAM, ROUNDED

from pixelfast import program as contract
from pixelfast.engines import cpu, packing
from pixelfast.engines.cpu import CpuEngine
from pixelfast.engines.known_rows import known_order
from pixelfast.engines.reference import run as reference
from pixelfast.engines.request import Request, Result
from pixelfast.errors import EngineUnavailable, InvalidInput, NumericalError
from pixelfast.program import (
    BINARY,
    UNARY,
    Buffer,
    Leaf,
    Lookup,
    Map,
    Norm,
    Op,
    Pixel,
    Product,
    Program,
    Rect,
    Reduce,
    Slot,
)
from pixelfast.wavefront import wavefront

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason=str(cpu.available()))

ISAS = cpu.native().isas() if cpu.available() is None else []

HEIGHT, WIDTH, IMAGES = 7, 5, 3
IMAGE = Rect(0, HEIGHT, 0, WIDTH)


@pytest.fixture(autouse=True)
def one_thread_for_the_reference() -> Iterator[None]:
    """Its tensors are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float, isa: str) -> None:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * float(scale), err_msg=isa)


def compare(program: Program, call: Request, tolerance: float) -> Result:
    """Every instruction set against the reference."""
    expected = reference(program, call, poison=True)
    for isa in ISAS:
        found = CpuEngine(program, isa=isa).run(call)
        np.testing.assert_array_equal(found.values, expected.values, err_msg=isa)
        close(found.parameters, expected.parameters, tolerance, isa)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=LOG_PROB, atol=1e-4, err_msg=isa)
    return expected


def compare_instructions(
    inputs: list[np.ndarray], instructions: list, outputs: int, *, drawn: bool = False, tolerance: float = INSTRUCTION
) -> dict[str, np.ndarray]:
    """The same for buffer 0 after some instructions, (N, H, W, outputs); gives back what each instruction set made."""
    program, fields = probe(inputs, instructions, outputs)
    images = inputs[0].shape[0]
    call = request(program, np.random.default_rng(0), images, known=0.0 if drawn else 1.0, fields=fields)
    expected = reference(program, call, poison=True).parameters[..., 0, :]
    found = {isa: CpuEngine(program, isa=isa).run(call).parameters[..., 0, :] for isa in ISAS}
    for isa in ISAS:
        close(found[isa], expected, tolerance, isa)
    return found


# Agreements between the two languages.


def test_names_agree() -> None:
    native = cpu.native()
    assert tuple(native.operations()) == contract.OPERATIONS
    assert tuple(native.reductions()) == contract.REDUCTIONS
    assert tuple(native.heads()) == contract.HEADS
    assert tuple(native.instructions()) == packing.INSTRUCTIONS


# Maps.

SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.5, -0.5, 88.0, -88.0, 89.5, -104.0, 1e30, -1e30]
EXTREME = [math.inf, -math.inf, math.nan]


def numbers(rng: np.random.Generator, features: int) -> np.ndarray:
    """(N, H, W, features): all sizes of number, from the special ones through dense ones around 0."""
    array = normal(rng, IMAGES, HEIGHT, WIDTH, features, scale=3.0)
    array[1] *= np.exp(rng.uniform(-20, 3, array[1].shape)).astype(np.float32)
    array.reshape(-1)[: len(SPECIAL + EXTREME)] = SPECIAL + EXTREME
    return array


def exact(name: str, *args: np.ndarray) -> np.ndarray:
    """An operation in float64."""
    tensors = [torch.from_numpy(arg).double() for arg in args]
    if name == "logical_not":
        return (tensors[0] == 0).double().numpy()
    if name == "where":
        return torch.where(tensors[0] != 0, *tensors[1:]).numpy()
    return getattr(torch, name)(*tensors).double().numpy()


@pytest.mark.parametrize("name", contract.OPERATIONS)
def test_operation(name: str) -> None:
    rng = np.random.default_rng(1)
    arity = 1 if name in UNARY else 2 if name in BINARY else 3
    inputs = [numbers(rng, 17) for _ in range(arity)]
    if name in ("log", "sqrt", "rsqrt", "pow"):
        inputs[0] = np.abs(inputs[0])
    if name in ("eq", "ne", "where"):
        inputs[0] = inputs[-1].round() if name == "where" else np.where(rng.random(inputs[0].shape) < 0.5, *inputs)
    leaves = tuple(Slot(i + 1, 0, 17) for i in range(arity))
    made = Map(Slot(0, 0, 17), leaves, (Op(name, tuple(range(arity))),), IMAGE)
    with np.errstate(all="ignore"):
        truth = exact(name, *inputs).astype(np.float32)
    for isa, found in compare_instructions(inputs, [made], 17).items():
        np.testing.assert_allclose(found, truth, rtol=OPERATION.get(name, ROUNDED), atol=2e-38, err_msg=isa)


FUSED: dict[str, tuple[Op, ...]] = {
    "gate": (Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (4, 5))),
    "gate turned round": (Op("sigmoid", (1,)), Op("tanh", (0,)), Op("mul", (4, 5))),
    "gate whose tanh is used twice": (Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (4, 5)), Op("add", (6, 4))),
    "gate of one leaf": (Op("tanh", (0,)), Op("sigmoid", (0,)), Op("mul", (4, 5))),
    "multiply and add": (Op("mul", (0, 1)), Op("add", (1, 4))),
    "sum of two products": (Op("mul", (0, 1)), Op("mul", (1, 1)), Op("add", (4, 5))),
    "add and relu": (Op("add", (0, 1)), Op("relu", (4,))),
    "elu": (Op("gt", (0, 2)), Op("expm1", (0,)), Op("where", (4, 0, 5))),
    "elu as PyTorch derives it": (
        *(Op("gt", (0, 2)), Op("mul", (0, 3)), Op("mul", (0, 3)), Op("expm1", (6,)), Op("mul", (7, 3))),
        Op("where", (4, 5, 8)),
    ),
    "times one": (Op("mul", (0, 3)),),
    "unused result": (Op("exp", (0,)), Op("neg", (1,))),
    "square": (Op("neg", (0,)), Op("mul", (4, 4))),
}


@pytest.mark.parametrize("name", FUSED)
def test_groups_of_operations(name: str) -> None:
    rng = np.random.default_rng(2)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, 17, scale=2.0) for _ in range(2)]
    made = Map(Slot(0, 0, 17), (Slot(1, 0, 17), Slot(2, 0, 17), 0.0, 1.0), FUSED[name], IMAGE)
    compare_instructions(inputs, [made], 17)


NAMES = ("add", "sub", "mul", "maximum", "minimum", "lt", "where", "tanh", "sigmoid", "relu", "neg")


def random_map(rng: np.random.Generator, features: int) -> Map:
    """An expression of up to 12 operations over leaves of every kind, with shared results."""
    leaves: tuple[Leaf, ...] = (
        *(Slot(1, 3, features), Slot(2, 1, features, 0, -2), Slot(1, 2, 1), Slot(2, 5, features, -2, 1)),
        *(contract.FieldSlot(0, 1, features), contract.FieldSlot(1, 4, 1), normal(rng, features), 0.75, -1.0),
    )
    ops: list[Op] = []
    for made in range(rng.integers(1, 13)):
        name = str(rng.choice(NAMES))
        arity = 1 if name in UNARY else 2 if name in BINARY else 3
        first = len(leaves) if made and rng.random() < 0.8 else 0  # mostly results of operations before
        ops.append(Op(name, tuple(int(i) for i in rng.integers(first, len(leaves) + made, arity))))
    return Map(Slot(0, 0, features), leaves, tuple(ops), IMAGE)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_expression(seed: int, drawn: bool) -> None:
    rng = np.random.default_rng(seed)
    features = (2, 3, 16, 17, 70, 1500)[seed]
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 6) for _ in range(2)]
    for _ in range(8):
        compare_instructions(inputs, [random_map(rng, features)], features, drawn=drawn)


# Other instructions.


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("images", [1, 3, 13, 64])
@pytest.mark.parametrize("outputs", [2, 16, 17, 33, 70, 130])
def test_product(outputs: int, images: int, drawn: bool) -> None:
    rng = np.random.default_rng(outputs + images)
    inputs = [normal(rng, images, HEIGHT, WIDTH, features) for features in (17, 5, outputs + 3)]
    taps = (Slot(1, 0, 17), Slot(2, 1, 3, 0, -1), Slot(1, 16, 1, -2, 2), Slot(1, 2, 8, -1, 1), Slot(2, 0, 5, -1, -2))
    weights = normal(rng, sum(tap.count for tap in taps), outputs)
    made = [
        Product(Slot(0, 0, outputs), taps, weights, normal(rng, outputs), IMAGE),
        # Some channels in the middle, added to what is there.
        Product(Slot(0, 1, outputs - 1), taps[1:3], weights[17:21, 1:].copy(), None, Rect(1, 6, 1, 4)),
        Product(Slot(0, 0, 1), (), np.zeros((0, 1), np.float32), normal(rng, 1), Rect(2, 3, 0, 5)),
        Product(Slot(0, 0, 1), (), np.zeros((0, 1), np.float32), None, IMAGE),
    ]
    compare_instructions(inputs, made, outputs, drawn=drawn)


@pytest.mark.parametrize("images", [3, 13])
def test_zeros_outside_the_domain(images: int) -> None:
    """Rows below the domain come after rows inside it in the same slots."""
    rng, domain = np.random.default_rng(9), Rect(1, 4, 1, 4)
    taps = tuple(Slot(1, 2, 9, row, col) for row in (-2, -1, 0) for col in (-2, -1, 0, 1, 2) if row < 0 or col <= 0)
    made = [
        Product(Slot(0, 0, 17), taps, normal(rng, len(taps) * 9, 17), normal(rng, 17), IMAGE),
        Map(Slot(0, 0, 9), (Slot(0, 0, 9), taps[3], taps[9]), (Op("add", (0, 1)), Op("add", (2, 3))), IMAGE),
        Reduce(Slot(0, 16, 1), "sum", taps, 0.0, IMAGE),
    ]
    program, fields = probe([normal(rng, images, HEIGHT, WIDTH, 17)], made, 17)
    out, source = program.buffers
    copy, *rest = program.steps[0]
    program = dataclasses.replace(
        program,
        buffers=(out, dataclasses.replace(source, domain=domain)),
        steps=((dataclasses.replace(copy, rect=domain), *rest),),
    )
    for known in (0.0, 0.5, 1.0):
        compare(program, request(program, rng, images, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("kind", contract.REDUCTIONS)
def test_reduction(kind: str) -> None:
    rng = np.random.default_rng(3)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features, scale=4.0) for features in (17, 70)]
    inputs[0][0, 0, 0, 3], inputs[1][1, 1, 1, 5] = math.nan, -math.inf
    inputs[0][2, 2, 2], inputs[1][2, 2, 2] = -math.inf, -math.inf
    sources = (Slot(1, 0, 17), Slot(2, 3, 66), Slot(2, 0, 1, -1, 1))
    made = [Reduce(Slot(0, i, 1), kind, sources[: i + 1], 1.0 - i, IMAGE) for i in range(3)]
    compare_instructions(inputs, made, 3)


@pytest.mark.filterwarnings("ignore:var")
def test_variance_of_one_channel() -> None:
    inputs = [normal(np.random.default_rng(3), IMAGES, HEIGHT, WIDTH, 2)]
    made = [Reduce(Slot(0, i, 1), "var", (Slot(1, 0, 1),), float(i), IMAGE) for i in range(2)]
    compare_instructions(inputs, made, 2)


@pytest.mark.parametrize("features", [2, 8, 16, 17, 32, 64, 70, 128])
def test_norm(features: int) -> None:
    rng = np.random.default_rng(4)
    inputs = [normal(rng, IMAGES, HEIGHT, WIDTH, features + 1) + 2]
    made = [Norm(Slot(0, 0, features), Slot(1, 1, features), normal(rng, features), normal(rng, features), 1e-5, IMAGE)]
    compare_instructions(inputs, made, features)


def test_norm_and_map_in_place() -> None:
    rng = np.random.default_rng(4)
    whole = Slot(0, 0, 17)
    made = [
        Map(whole, (Slot(1, 0, 17),), (), IMAGE),
        Norm(whole, whole, normal(rng, 17), normal(rng, 17), 1e-3, IMAGE),
        Map(whole, (whole, Slot(1, 0, 17)), (Op("mul", (0, 1)), Op("sub", (2, 0))), IMAGE),
    ]
    compare_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17)


def between(array: np.ndarray, domain: Rect, instructions: list, outputs: int) -> tuple[Program, tuple[np.ndarray, ...]]:
    """The probe with one more buffer, number 2, that only `instructions` use."""
    program, fields = probe([array], instructions, outputs)
    return dataclasses.replace(program, buffers=(*program.buffers, Buffer("between", outputs, 1, (0, WIDTH), domain))), fields


@pytest.mark.parametrize("known", [0.0, 1.0])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("features", [17, 32, 64])
def test_norm_and_relu(features: int, again: bool, known: float) -> None:
    """Which are one instruction if nothing else reads the normalised numbers."""
    rng = np.random.default_rng(4)
    array = normal(rng, IMAGES, HEIGHT, WIDTH, features)
    if known:
        array[1, 2, 3, 4] = math.nan
    out, source, middle = Slot(0, 0, features), Slot(1, 0, features), Slot(2, 0, features)
    made = [
        Norm(middle, source, normal(rng, features), normal(rng, features), 1e-5, IMAGE),
        Map(out, (middle,), (Op("relu", (0,)),), IMAGE),
    ]
    if again:
        made.append(Map(out, (out, middle), (Op("sub", (0, 1)),), IMAGE))
    program, fields = between(array, IMAGE, made, features)
    compare(program, request(program, rng, IMAGES, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_zeros_beside_what_a_pixel_hands_on(known: float) -> None:
    rng, domain = np.random.default_rng(4), Rect(1, 4, 1, 4)
    out, source, middle = Slot(0, 0, 17), Slot(1, 0, 17), Slot(2, 0, 17)
    made = [Map(middle, (source,), (Op("neg", (0,)),), domain), Map(out, (source, middle), (Op("add", (0, 1)),), IMAGE)]
    program, fields = between(normal(rng, IMAGES, HEIGHT, WIDTH, 17), domain, made, 17)
    compare(program, request(program, rng, IMAGES, known=known, fields=fields), PROGRAM)


@pytest.mark.parametrize("drawn", [False, True])
def test_lookup(drawn: bool) -> None:
    rng = np.random.default_rng(5)
    whole, taps = Slot(0, 0, 17), (Pixel(-1, 2, 0), Pixel(0, -1, 0), Pixel(-2, -2, 0), Pixel(-1, -1, 0))
    made = [Map(whole, (Slot(1, 0, 17),), (), IMAGE), Lookup(whole, taps, normal(rng, 4, 17, 17), Rect(0, 6, 0, 4))]
    compare_instructions([normal(rng, IMAGES, HEIGHT, WIDTH, 17)], made, 17, drawn=drawn)


# Whole programs.


@pytest.mark.parametrize("head", contract.HEADS)
@pytest.mark.parametrize(("images", "threads", "known"), [(1, 1, 0.0), (3, 2, 0.4), (64, 2, 0.0), (9, 1, 1.0)])
def test_program(images: int, threads: int, known: float, head: str) -> None:
    builder = Builder(np.random.default_rng(images), head=head, levels=6 if head == "categorical" else 2)
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


def some_images(call: Request, images: slice, threads: int = 1) -> Request:
    fields = tuple(field if len(field) == 1 else field[images] for field in call.fields)
    return dataclasses.replace(call, noise=call.noise[images], fields=fields, threads=threads)


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


def test_no_images() -> None:
    builder = Builder(np.random.default_rng(13))
    program = builder.build()
    result = CpuEngine(program).run(request(program, np.random.default_rng(4), 0, fields=builder.field_values(0)))
    assert result.values.shape == (0, 7, 5, 2)
    assert result.log_prob.shape == (0,)


# Draws.


def draws(logits: np.ndarray, noise: np.ndarray, isa: str, temperature: float = 1.0) -> tuple[Result, Program, Request]:
    """One draw an image, from logits (N, K) with noise (N,)."""
    program, fields = probe([logits[:, None, None, :]], [], logits.shape[1], padding=0)
    copy = Map(Slot(0, 0, logits.shape[1]), (Slot(1, 0, logits.shape[1]),), (), Rect(0, 1, 0, 1))
    program = dataclasses.replace(program, steps=((*program.steps[0], copy),))
    call = Request(noise.astype(np.float32).reshape(-1, 1, 1, 1), None, fields, temperature, want_log_prob=True)
    return CpuEngine(program, isa=isa).run(call), program, call


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("levels", [2, 5, 64, 65, 256, 1000, 65536])
def test_categorical_draws(levels: int, isa: str) -> None:
    """Against float64: every value is right, or its noise lies within 1e-6 of the edge that it missed."""
    rng = np.random.default_rng(levels)
    images = 64 if levels > 1000 else 500
    logits, noise = normal(rng, images, levels, scale=2.0), rng.random(images, dtype=np.float32)
    noise[:3] = 0.0, 1.0 - 2.0**-24, 0.5
    result, _, _ = draws(logits, noise, isa, temperature=1.3)
    log_probabilities = torch.from_numpy(logits).double().div(1.3).log_softmax(-1).numpy()
    edges = np.pad(np.exp(log_probabilities).cumsum(-1), ((0, 0), (1, 0)))
    edges[:, -1] = 1.0
    values, image = result.values.reshape(-1), np.arange(images)
    assert (edges[image, values] <= noise + 1e-6).all()
    assert (edges[image, values + 1] >= noise - 1e-6).all()
    np.testing.assert_allclose(result.log_prob, log_probabilities[image, values], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("levels", [3, 65, 300])
def test_impossible_categories_are_never_drawn(levels: int, isa: str) -> None:
    rng = np.random.default_rng(6)
    logits = np.where(rng.random((400, levels)) < 0.7, -np.inf, normal(rng, 400, levels)).astype(np.float32)
    logits[:, levels // 2] = 0.0
    noise = rng.random(400, dtype=np.float32)
    noise[::2] = np.where(rng.random(200) < 0.5, 0.0, 1.0 - 2.0**-24)
    result, program, call = draws(logits, noise, isa)
    np.testing.assert_array_equal(result.values, reference(program, call).values)
    assert np.isfinite(logits[np.arange(400), result.values.reshape(-1)]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_parameters_without_distribution_are_reported(bad: float, isa: str) -> None:
    rng = np.random.default_rng(8)
    array = normal(rng, 5, HEIGHT, WIDTH, 19)
    array[3, 4, 2] = bad  # -infinity is fine for some categories, not for all
    array[2, 5, 1, 18] = -math.inf
    copy = Map(Slot(0, 0, 19), (Slot(1, 0, 19),), (), IMAGE)
    program, fields = probe([array], [copy], 19)
    call = request(program, rng, 5, fields=fields, threads=2)
    for run in (CpuEngine(program, isa=isa).run, lambda call: reference(program, call)):
        with pytest.raises(NumericalError, match="image 3, row 4, column 2, channel 0") as caught:
            run(call)
        assert caught.value.position == (3, 4, 2, 0)


# Running.


def slow_call(**options) -> tuple[CpuEngine, Request]:
    builder = Builder(np.random.default_rng(0), shape=(1, 300, 300), features=64)
    program = builder.build()
    return CpuEngine(program), request(
        program, np.random.default_rng(0), 32, fields=builder.field_values(32), want_parameters=False, **options
    )


def native_threads() -> int:
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_reported_once_in_order(threads: int) -> None:
    builder = Builder(np.random.default_rng(14))
    program, fields = builder.build(), builder.field_values(9)
    rows: list[tuple[int, np.ndarray]] = []
    call = request(program, np.random.default_rng(5), 9, fields=fields, threads=threads)
    call = dataclasses.replace(call, on_row=lambda row, values: rows.append((row, values[:, : row + 1].copy())))
    result = CpuEngine(program).run(call)
    assert [row for row, _ in rows] == list(range(7))
    for row, values in rows:
        np.testing.assert_array_equal(values, result.values[:, : row + 1])


def stops(start: Callable[[], None], error: type[BaseException]) -> None:
    before = native_threads()
    with pytest.raises(error):
        start()
    assert native_threads() == before


def test_error_in_callback_stops_the_run() -> None:
    raised = [0.0]

    def fail(row: int, values: np.ndarray) -> None:
        raised[0] = time.perf_counter()
        raise RuntimeError("enough")

    engine, call = slow_call(on_row=fail, threads=2)
    stops(lambda: engine.run(call) and None, RuntimeError)
    assert time.perf_counter() - raised[0] < 0.5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signal_stops_the_run_quickly() -> None:
    raised = [0.0]

    def interrupt(*_: object) -> None:
        raised[0] = time.perf_counter()
        raise KeyboardInterrupt

    engine, call = slow_call(threads=2)
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        stops(lambda: engine.run(call) and None, KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.perf_counter() - raised[0] < 0.5


def test_two_threads_share_an_engine() -> None:
    builder = Builder(np.random.default_rng(15))
    program, fields = builder.build(), builder.field_values(20)
    engine = CpuEngine(program)
    calls = [request(program, np.random.default_rng(i), 20, fields=fields, threads=2) for i in range(2)]
    expected = [engine.run(call).values for call in calls]
    found: list[list[np.ndarray]] = [[], []]

    def repeat(i: int) -> None:
        found[i] = [engine.run(calls[i]).values for _ in range(10)]

    workers = [threading.Thread(target=repeat, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(2):
        assert len(found[i]) == 10
        assert all(np.array_equal(values, expected[i]) for values in found[i])


# Refusals.


def test_unknown_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Builder(np.random.default_rng(0)).build()
    with pytest.raises(EngineUnavailable, match=r"'sse9'.*there are .*scalar"):
        CpuEngine(program, isa="sse9")
    monkeypatch.setenv("PIXELFAST_ISA", "mmx")
    with pytest.raises(EngineUnavailable, match="PIXELFAST_ISA"):
        CpuEngine(program)
    monkeypatch.setenv("PIXELFAST_ISA", "scalar")
    assert CpuEngine(program).isa == "scalar"


def test_requests_that_do_not_fit_are_refused() -> None:
    builder = Builder(np.random.default_rng(0))
    program = builder.build()
    good = request(program, np.random.default_rng(0), 2, fields=builder.field_values(2))
    wrong = [
        {"noise": good.noise.astype(np.float64)},
        {"noise": good.noise[:, :-1]},
        {"given": np.full(good.noise.shape, 6, np.int32)},
        {"given": np.full(good.noise.shape, -2, np.int32)},
        {"fields": good.fields[:-1]},
        {"fields": (good.fields[1], *good.fields[1:])},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"threads": 0},
    ]
    engine = CpuEngine(program)
    for change in wrong:
        for run in (engine.run, lambda call: reference(program, call)):
            with pytest.raises(InvalidInput):
                run(dataclasses.replace(good, **change))


def malformed(program: Program) -> list[tuple[str, Program]]:
    """Programs that would read or write where they must not."""
    step = program.steps[0]
    product = next(i for i in step if isinstance(i, Product))
    lookup = next(i for i in step if isinstance(i, Lookup))
    norm = next(i for i in step if isinstance(i, Norm))
    tap = product.taps[0]

    def changed(instruction) -> Program:
        return dataclasses.replace(program, steps=((instruction,), *program.steps[1:]))

    def with_tap(**change) -> Program:
        return changed(dataclasses.replace(product, taps=(dataclasses.replace(tap, **change), *product.taps[1:])))

    far = dataclasses.replace(program.buffers[0], domain=Rect(0, 7, 0, 10))
    return [
        ("rows above", with_tap(row=-3)),
        ("rows above", with_tap(row=1)),
        ("column offset", with_tap(col=-9)),
        ("column offset", with_tap(col=9)),
        ("a buffer", with_tap(buffer=99)),
        ("channels", with_tap(count=3)),
        ("first channel", with_tap(channel=-1)),
        ("weights", changed(dataclasses.replace(product, weights=product.weights[:-1]))),
        ("bias", changed(dataclasses.replace(product, bias=np.zeros(3, np.float32)))),
        ("overwrites", changed(Map(Slot(3, 0, 17), (Slot(3, 1, 17),), (), norm.rect))),
        ("overwrites", changed(Map(Slot(3, 0, 17), (Slot(3, 0, 17, 0, -1),), (), norm.rect))),
        ("its own position", changed(dataclasses.replace(norm, out=dataclasses.replace(norm.out, col=1)))),
        ("domain", changed(dataclasses.replace(norm, rect=dataclasses.replace(norm.rect, col0=-3), out=Slot(4, 0, 6)))),
        ("not drawn yet", changed(dataclasses.replace(lookup, taps=(Pixel(0, 0, 0), *lookup.taps[1:])))),
        ("a row offset", changed(dataclasses.replace(lookup, taps=(Pixel(1, 0, 0), *lookup.taps[1:])))),
        ("an argument", changed(Map(norm.out, (norm.source,), (Op("neg", (1,)),), norm.rect))),
        ("leaf", changed(Map(norm.out, (), (), norm.rect))),
        ("channels", changed(Map(norm.out, (Slot(1, 0, 2),), (), norm.rect))),
        ("a vector", changed(Map(norm.out, (np.zeros(2, np.float32),), (), norm.rect))),
        ("field", dataclasses.replace(program, fields=tuple(dataclasses.replace(f, rows=3) for f in program.fields))),
        ("field", dataclasses.replace(program, fields=tuple(dataclasses.replace(f, col0=-1) for f in program.fields))),
        ("drawn twice", dataclasses.replace(program, draws=(program.draws[0],) * 2)),
        ("before it is drawn", dataclasses.replace(program, encodes=program.encodes[::-1])),
        ("parameters as levels", dataclasses.replace(program, parameters=5)),
        ("domain", dataclasses.replace(program, buffers=(far, *program.buffers[1:]))),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(25))
def test_malformed_programs_are_refused(case: int) -> None:
    reason, program = malformed(Builder(np.random.default_rng(0)).build())[case]
    with pytest.raises(ValueError, match=reason):
        CpuEngine(program)


ARRANGEMENTS = [
    (1, 0, "none", 1), (1, 1, "none", 1), (1, 1, "none", 3), (2, 1, "none", 2), (1, 2, "rows", 1), (1, 3, "rows", 2),
    (2, 2, "rows", 4), (1, 2, "parts", 1), (1, 3, "parts", 1), (2, 2, "parts", 1), (1, 2, "phases", 1), (1, 2, "phases", 3),
    (3, 2, "phases", 2),
]  # fmt: skip


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


def test_truncated_streams_are_refused() -> None:
    program = Builder(np.random.default_rng(0)).build()
    words, floats = packing.pack(program)
    native = cpu.native()
    for length in range(len(words)):
        with pytest.raises(ValueError, match=r"must lie in|the program ends|wrong magic|wrong version"):
            native.Engine(words[:length].copy(), floats)
    with pytest.raises(ValueError, match="outside the program"):
        native.Engine(words, floats[:-1].copy())
    front = wavefront(program)  # the last words, behind the order of known rows
    last = len(words) - 3 - len(front.leads) - 4 * len(front.reaches)
    twice = words.copy()
    twice[last] = words[last - 1]
    with pytest.raises(ValueError, match="every instruction once"):
        native.Engine(twice, floats)
    with pytest.raises(ValueError, match="not there yet"):
        native.Engine(np.append(words[:-3], [-9, -9, -9]), floats)
    with pytest.raises(ValueError, match="after its end"):
        native.Engine(np.append(words, 0), floats)


def test_damaged_streams_never_crash() -> None:
    """Whatever one wrong word says, it is refused, or the program still runs inside its memory."""
    builder = Builder(np.random.default_rng(0), shape=(2, 3, 4), features=5)
    program = builder.build()
    words, floats = packing.pack(program)
    native, rng, ran = cpu.native(), np.random.default_rng(9), 0
    for _ in range(2500):
        damaged, at = words.copy(), int(rng.integers(len(words)))
        damaged[at] += rng.choice([-(2**40), -17, -2, -1, 1, 2, 17, 2**33, 2**62])
        try:
            engine = native.Engine(damaged, floats)
        except ValueError:
            continue
        ran += run_damaged(engine, builder, (1, 0, "none", 1))
        run_damaged(engine, builder, (1, 1, "none", 2))
    assert ran > 50


def run_damaged(engine, builder: Builder, arrangement: tuple[int, int, str, int]) -> bool:
    shape = (2, 3, 4, 2)
    noise, values = np.zeros(shape, np.float32), np.empty(shape, np.int32)
    try:
        engine.sample(
            noise=noise,
            given=None,
            fields=list(builder.field_values(2)),
            values=values,
            log_prob=None,
            parameters=None,
            temperature=1.0,
            threads=1,
            on_row=None,
            arrangement=arrangement,
        )
    except ValueError:  # the image or a field has another size now
        return False
    return True
