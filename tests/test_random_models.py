"""Random architectures against the naive loop. PIXELFAST_FUZZ_CASES=10000 draws that many new ones; 200 fixed ones else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st
from oracle import Traced, compare, trace
from random_models import Config, arranged, build, conditions_of, configs, head_of, sees_too_much

from pixelfast import InvalidInput, NotAutoregressive
from pixelfast.trace.output import OutputLayout

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

ASKED = os.environ.get("PIXELFAST_FUZZ_CASES")
CASES = int(ASKED or 200)
IMAGES = 2


def fuzz(cases: int) -> settings:
    """Fixed cases by default; new ones, and the smallest that fails, if the number of cases is asked for."""
    return settings(
        max_examples=cases, derandomize=ASKED is None, database=None, deadline=None, print_blob=True,
        phases=[Phase.generate] if ASKED is None else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@fuzz(CASES)
@given(configs(), st.sampled_from(("nothing", "rows", "scattered")), st.sampled_from((1.0, 0.6, 3.0)))
def test_engines_agree_with_the_naive_loop(config: Config, known: str, temperature: float) -> None:
    note(f"reproduce with: compare_with_naive({config!r}, {known!r}, {temperature})")
    compare_with_naive(config, known, temperature)


def compare_with_naive(config: Config, known: str, temperature: float) -> None:
    """Pixels, parameters and log-probabilities of every engine against one forward for each sub-pixel."""
    cond = conditions_of(config, IMAGES)
    traced = traced_model(config, cond)
    check_layout(traced, config)
    given_values = known_pixels(config, traced.head.levels, known)
    ties = compare(traced, IMAGES, config.seed, cond, temperature=temperature, given=given_values)
    assert ties == 0 or ASKED is not None, "a draw lies at a CDF edge: change a seed"


def traced_model(config: Config, cond: Any) -> Traced:
    """The model through the pipeline. The layout is asked for where it is ambiguous, and then one of those named."""
    module = build(config)
    try:
        return trace(module, config.shape, head_of(config, config.layout if config.explicit else None), cond)
    except InvalidInput as error:
        message = str(error)
    named = [text.split('"')[0] for text in message.split('layout="')[1:]]
    assert any(same_numbers(text, config) for text in named), message
    return trace(module, config.shape, head_of(config, config.layout), cond)


def same_numbers(text: str, config: Config) -> bool:
    return torch.equal(read_positions(text, config), read_positions(config.layout, config))


def read_positions(text: str, config: Config) -> torch.Tensor:
    """Where a layout reads the parameters of each sub-pixel in the model's output."""
    channels, height, width = config.shape
    output = arranged(torch.zeros(IMAGES, config.parameters, channels, height, width), config.layout)
    return OutputLayout(text, channels, height, width, config.parameters).read(
        torch.arange(output.numel()).view(output.shape), IMAGES
    )


def check_layout(traced: Traced, config: Config) -> None:
    """The layout that was found reads the parameters that the model meant."""
    found = traced.compiled.analysis.layout
    channels, height, width = config.shape
    planes = torch.arange(IMAGES * config.parameters * channels * height * width)
    planes = planes.view(IMAGES, config.parameters, channels, height, width)
    meant = planes[:, :, :1].expand_as(planes) if config.shared else planes
    assert torch.equal(found.read(arranged(planes, config.layout), IMAGES), meant.permute(0, 3, 4, 2, 1)), found.text


def known_pixels(config: Config, levels: int, known: str) -> np.ndarray | None:
    """Given values (N, H, W, C): the upper rows, or two thirds of all sub-pixels and one whole row."""
    if known == "nothing":
        return None
    channels, height, width = config.shape
    rng = np.random.default_rng(config.seed)
    values = rng.integers(levels, size=(IMAGES, height, width, channels)).astype(np.int32)
    if known == "rows":
        values[:, (height + 1) // 2 :] = -1
    else:
        hidden = rng.random(values.shape) < 1 / 3
        hidden[:, height // 2] = False
        values[hidden] = -1
    return values


@fuzz(max(20, CASES // 8))
@given(configs(leaky=True))
def test_one_open_weight_is_found(config: Config) -> None:
    """One forbidden weight in a random masked convolution, if it really reaches a prediction."""
    assume(sees_too_much(config))
    note(f"config: {config!r}")
    error = leak_of(config)
    assert error.layer, "the leak's layer must be named"
    assert error.layer in str(error)
    assert error.offset >= (0, 0)


def leak_of(config: Config) -> NotAutoregressive:
    model, head = build(config), head_of(config, config.layout)
    with pytest.raises(NotAutoregressive) as caught:
        trace(model, config.shape, head, conditions_of(config, IMAGES))
    return caught.value


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(configs())
def test_the_random_models_are_autoregressive(config: Config) -> None:
    """The generator of models itself: changing a sub-pixel changes no prediction of it or of earlier ones."""
    assert not sees_too_much(config)
