"""The CUDA engine from outside: it is built where nvcc is, imports without a driver, and refuses with a reason."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from oracle import trace
from programs import Builder

import pixelfast
from pixelfast.engines import registry
from pixelfast.engines.cuda import engine as cuda
from pixelfast.errors import EngineUnavailable
from pixelfast.lowering.packing import pack
from pixelfast.models import PixelCNN

BUILT = "was not built" not in str(cuda.unavailable_reason())
needs_module = pytest.mark.skipif(not BUILT, reason=str(cuda.unavailable_reason()))
without_gpu = pytest.mark.skipif(cuda.unavailable_reason() is None, reason="here is a GPU that it runs on")


@without_gpu
def test_it_is_refused_with_the_reason() -> None:
    model = PixelCNN((1, 7, 5), levels=3, features=4, blocks=1).eval()
    with pytest.raises(EngineUnavailable, match=r"'cuda' cannot run here: (the CUDA engine was not|CUDA says|the kernel)"):
        pixelfast.sample(model, 2, engine="cuda")
    assert registry.choose("auto", "fp32", model.head) != "cuda"


@needs_module
@without_gpu
def test_without_a_gpu_the_module_answers_cleanly() -> None:
    builder = Builder(np.random.default_rng(0), shape=(1, 4, 3))
    program = builder.build()
    engine = cuda.native().Engine(*pack(program)[:2])
    assert engine.plan(2, 1, 200_000)["resident"] == engine.plan(2, 1, 200_000)["products"] > 0
    noise = np.zeros((2, 4, 3, 1), np.float32)
    with pytest.raises(cuda.native().DeviceError, match="finding the device: "):
        engine.sample(
            noise=noise, given=None, fields=list(builder.field_values(2)), values=np.empty(noise.shape, np.int32),
            log_prob=None, parameters=None, temperature=1.0,
        )  # fmt: skip


@needs_module
def test_malformed_calls_are_refused() -> None:
    program = Builder(np.random.default_rng(0), shape=(1, 4, 3)).build()
    words, arrays, _ = pack(program)
    with pytest.raises(ValueError, match="no program of pixelfast"):
        cuda.native().Engine(words[1:], arrays)
    engine = cuda.native().Engine(words, arrays)
    with pytest.raises(ValueError, match="noise has a wrong shape"):
        engine.sample(
            noise=np.zeros((2, 3, 4, 1), np.float32), given=None, fields=[], values=np.empty((2, 4, 3, 1), np.int32),
            log_prob=None, parameters=None, temperature=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="1 to 16 blocks"):
        engine.plan(17, 1, 200_000)


@needs_module
def test_the_weights_of_a_small_net_stay_in_shared_memory() -> None:
    """Model (a) of the speed report: a cluster of 8 blocks holds the weights of its steps, and an image."""
    model = PixelCNN((1, 28, 28), levels=256, features=64, blocks=5, norm=True).eval()
    program = trace(model, model.shape, model.head).compiled.program
    plan = cuda.native().Engine(*pack(program)[:2]).plan(8, 1, 227 * 1024)
    assert plan["resident"] == plan["products"]
    assert plan["replica"] == 0
    assert plan["shared_bytes"] <= 227 * 1024


@pytest.mark.gpu
@pytest.mark.skipif(cuda.unavailable_reason() is not None, reason=str(cuda.unavailable_reason()))
def test_a_model_on_a_gpu() -> None:
    torch.manual_seed(0)
    model = PixelCNN((1, 7, 5), levels=4, features=17, blocks=2, norm=True).eval()
    traced = trace(model, model.shape, model.head)
    request = traced.request(3, 1)
    expected, found = traced.run("reference", request), cuda.CudaEngine(traced.compiled.program).run(request)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-4, atol=1e-5)


def test_where_there_is_nvcc_it_was_built() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    assert BUILT, cuda.unavailable_reason()
