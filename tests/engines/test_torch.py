"""Which device the torch engine takes; what it computes there: test_conformance.py and test_reference_devices.py."""

from __future__ import annotations

import pytest
import torch

import pixelfast
from pixelfast import Categorical, EngineUnavailable
from pixelfast.engines import registry
from pixelfast.engines.pytorch import TorchEngine
from pixelfast.models import PixelCNN


@pytest.fixture
def model() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN((1, 4, 3), levels=4, features=6, blocks=1, norm=True).eval()


def test_by_name(model: PixelCNN) -> None:
    sampler = pixelfast.compile(model, engine="torch")
    images, log_prob = sampler.sample(3, seed=1, return_log_prob=True)
    assert sampler.verify(images, seed=1).ok
    expected, theirs = pixelfast.sample(model, 3, seed=1, engine="reference", return_log_prob=True)
    assert torch.equal(images, expected)
    torch.testing.assert_close(log_prob, theirs)
    assert "engine torch" in sampler.explain()


def test_own_heads(model: PixelCNN) -> None:
    head = pixelfast.CustomHead(4, 4, lambda parameters: parameters.softmax(-1), encode="symmetric")
    images = pixelfast.sample(model, 3, head=head, seed=1, engine="torch")
    assert torch.equal(images, pixelfast.sample(model, 3, head=head, seed=1, engine="naive"))


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_on_a_gpu(device: str, model: PixelCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELFAST_DEVICE", device)
    try:
        sampler = pixelfast.compile(model, engine="torch")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert sampler.verify(sampler.sample(3, seed=1), seed=1).ok


@pytest.mark.parametrize("device", ["meta", "nonsense", "cuda:99"])
def test_what_does_not_compute_is_refused(device: str, model: PixelCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELFAST_DEVICE", device)
    with pytest.raises(EngineUnavailable, match=f"'torch' cannot compute on the device '{device}': .* Move the module"):
        pixelfast.compile(model, engine="torch")


def test_the_module_s_device_is_taken_and_can_be_overridden(model: PixelCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    program = pixelfast.compile(model, engine="reference").prepare().program
    assert TorchEngine(program).device == torch.device("cpu")
    with pytest.raises(EngineUnavailable, match="on the device 'meta'"):
        registry.make("torch", program, device=torch.device("meta"))
    monkeypatch.setenv("PIXELFAST_DEVICE", "cpu")
    made = registry.make("torch", program, device=torch.device("meta"))
    assert isinstance(made, TorchEngine)
    assert made.device == torch.device("cpu")


def test_auto_never_takes_it() -> None:
    for device in ("cpu", "cuda", "mps", "xpu"):
        assert registry.choose("auto", "fp32", Categorical(3), torch.device(device)) != "torch"
