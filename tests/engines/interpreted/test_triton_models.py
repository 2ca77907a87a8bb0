"""Whole images of small models by the public way; what the Triton engine draws: tests/engines/test_conformance_programs.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from program_cases import MODELS

import pixelfast


@pytest.mark.parametrize("name", ["pixelcnn", "gated"])
def test_by_name(name: str) -> None:
    """The public way, with its self-check."""
    module, cond = MODELS[name].traced().module, MODELS[name].cond
    sampler = pixelfast.compile(module, cond=cond, engine="triton")
    images, log_prob = sampler.sample(2, seed=3, cond=None if cond is None else cond[:2], return_log_prob=True)
    assert sampler.engine == "triton"
    expected, theirs = pixelfast.sample(
        module, 2, seed=3, cond=None if cond is None else cond[:2], engine="reference", return_log_prob=True
    )
    assert torch.equal(images, expected)
    np.testing.assert_allclose(log_prob, theirs, rtol=1e-5)
