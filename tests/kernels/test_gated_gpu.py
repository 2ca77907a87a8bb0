"""The fused gated convolution on a GPU, against its naive twin; skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch
from gated_cases import CASES, Case, check_low_precision, check_values_and_gradients, error

pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32(case: Case) -> None:
    check_values_and_gradients(case, torch.float32, "cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_low_precision(case: Case, dtype: torch.dtype) -> None:
    check_low_precision(case, dtype, "cuda")


@pytest.mark.parametrize("stacks", [1, 2])
def test_a_gated_pixelcnn(stacks: int) -> None:
    from pixelfast.models import GatedPixelCNN, fuse_gates

    torch.manual_seed(0)
    model = GatedPixelCNN((3, 32, 32), levels=16, features=48, layers=3, classes=5, stacks=stacks).cuda()
    x, labels = torch.randn(5, 3, 32, 32, device="cuda"), torch.arange(5, device="cuda")
    results = []
    for on in (False, True):
        fuse_gates(model, on).zero_grad()
        with torch.backends.cudnn.flags(allow_tf32=False):
            logits = model(x, labels)
            logits.square().mean().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None and p.grad.any())])
    assert len(results[0]) == len(results[1])
    for found, expected in zip(results[1], results[0], strict=True):
        assert error(found, expected.double()) <= 1e-4
