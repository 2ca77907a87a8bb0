"""Plain arithmetic: what the module sees inside its forward, whatever the caller has set, and that all is set back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracle import ENGINES
from torch import Tensor, nn

import pixelfast
from pixelfast.host.arithmetic import plain

SHAPE = (1, 3, 4)
HEAD = pixelfast.Categorical(4, encode="unit")
MATMUL, CUDNN, MKLDNN = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn


def switches() -> dict[str, Any]:
    """All that a forward could see; what PyTorch refuses to say, since new and old switches contradict each other, by name."""
    result: dict[str, Any] = {"dtype": torch.get_default_dtype(), "device": torch.get_default_device().type}
    result |= {"autocast": torch.is_autocast_enabled("cpu"), "inference": torch.is_inference_mode_enabled()}
    readers: dict[str, Callable[[], Any]] = {
        "precision": torch.get_float32_matmul_precision,
        "matmul": lambda: MATMUL.allow_tf32,
        "cudnn": lambda: CUDNN.allow_tf32,
    }
    for name, part in (("cuda", MATMUL), ("conv", CUDNN.conv), ("rnn", CUDNN.rnn), ("mkldnn", MKLDNN.matmul)):
        readers[f"{name} fp32"] = lambda part=part: part.fp32_precision
    for name, read in readers.items():
        try:
            result[name] = read()
        except RuntimeError as error:
            result[name] = type(error)
    return result


EXACT = {"precision": "highest", "matmul": False, "cudnn": False, "dtype": torch.float32, "device": "cpu"}
EXACT |= {"autocast": False, "inference": False}
EXACT |= dict.fromkeys(("cuda fp32", "conv fp32", "rnn fp32", "mkldnn fp32"), "ieee")
SEEN: list[dict[str, Any]] = []


class Seeing(nn.Module):
    """A causal model that leaves in `SEEN` what its forward sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 1, dtype=torch.float32, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            SEEN.append(switches())
        return self.conv(nn.functional.pad(x, (1, 0))[..., :-1]) + torch.zeros(4, 1, 1)


@contextlib.contextmanager
def restored(write: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    write(value)
    try:
        yield
    finally:
        write(before)


def attribute(owner: Any, name: str, value: Any) -> Any:
    return restored(lambda new: setattr(owner, name, new), value, getattr(owner, name))


CALLERS: dict[str, Callable[[], Any]] = {
    "medium": lambda: restored(torch.set_float32_matmul_precision, "medium", "highest"),
    "allow_tf32": lambda: attribute(MATMUL, "allow_tf32", True),
    "new switches of a GPU": lambda: attribute(MATMUL, "fp32_precision", "tf32"),
    "new switches of a processor": lambda: restored(
        lambda value: setattr(MKLDNN.matmul, "fp32_precision", value), "bf16", "none"
    ),
    "float64": lambda: restored(torch.set_default_dtype, torch.float64, torch.float32),
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("caller", CALLERS)
def test_forwards_are_exact_and_all_is_set_back(caller: str) -> None:
    model = Seeing()
    known = torch.zeros(2, *SHAPE, dtype=torch.int64)
    expected = pixelfast.sample(model, 2, shape=SHAPE, head=HEAD, engine="naive", seed=0)
    scored = pixelfast.compile(model, SHAPE, HEAD, engine="naive").log_prob(known)
    SEEN.clear()
    with CALLERS[caller]():
        before = switches()
        for engine in ("reference", "naive"):
            sampler = pixelfast.compile(model, SHAPE, HEAD, engine=engine)
            assert torch.equal(sampler.sample(2, seed=0), expected)
            assert sampler.verify(expected, seed=0).ok
            assert torch.equal(sampler.log_prob(known), scored)
        assert pixelfast.check(model, SHAPE, HEAD).autoregressive
        assert switches() == before
        with pytest.raises(pixelfast.InvalidInput):
            sampler.sample(2, seed=-1)
        assert switches() == before
    assert len(SEEN) > 20
    assert all(found == EXACT for found in SEEN)


def test_a_module_in_double_keeps_the_default_that_it_was_made_under() -> None:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            moved = nn.functional.pad(x, (1, 0))[..., :-1]
            return torch.eye(4) @ self.conv(moved).flatten(2)

    with restored(torch.set_default_dtype, torch.float64, torch.float32):
        model = Double()
        head = pixelfast.Categorical(4, encode="unit", layout="NK(HW)")
        found = [pixelfast.sample(model, 2, shape=SHAPE, head=head, engine=e, seed=0) for e in ("reference", "naive")]
        assert torch.get_default_dtype() == torch.float64
    assert torch.equal(*found)


def test_forwards_of_other_types_do_not_share_a_default() -> None:
    """The default type is one for all threads: while a forward needs float64, no other forward may run."""
    within, done, seen = threading.Event(), threading.Event(), []

    class Double(Seeing):
        def forward(self, x: Tensor) -> Tensor:
            if armed:
                within.set()
                done.wait(0.3)
                seen.append(torch.get_default_dtype())
            return super().forward(x)

    class Single(Seeing):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_default_dtype())
            return super().forward(x)

    armed, images = False, torch.zeros(1, *SHAPE, dtype=torch.int64)
    with restored(torch.set_default_dtype, torch.float64, torch.float32):
        double, single = (pixelfast.compile(net, SHAPE, HEAD, engine="naive") for net in (Double().double(), Single()))
        for sampler in (double, single):
            sampler.log_prob(images)
        armed = True
        seen.clear()
        thread = threading.Thread(target=double.log_prob, args=(images,))
        thread.start()
        assert within.wait(10)
        single.log_prob(images)
        done.set()
        thread.join()
    assert seen == [torch.float64, torch.float32]


def test_models_made_and_compiled_in_inference_mode_serve_outside() -> None:
    with torch.inference_mode():
        model = Seeing()
        sampler = pixelfast.compile(model, SHAPE, HEAD, engine=ENGINES[0])
        images = sampler.sample(2, seed=0)
    assert not images.is_inference()
    assert torch.equal(sampler.sample(2, seed=0), images)
    assert sampler.verify(images, seed=0).ok


def test_the_last_thread_to_leave_sets_back() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with plain():
            entered.set()
            leave.wait(10)

    with restored(torch.set_float32_matmul_precision, "high", "highest"):
        thread = threading.Thread(target=stay)
        thread.start()
        entered.wait(10)
        with plain():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "highest", "another thread is still inside"
        leave.set()
        thread.join()
        assert torch.get_float32_matmul_precision() == "high"
