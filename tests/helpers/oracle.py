"""Comparing engines with the naive loop: the user's own module, one full forward for every sub-pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pixelfast
from pixelfast.distributions import noise
from pixelfast.distributions.base import Head
from pixelfast.distributions.bernoulli import Bernoulli
from pixelfast.engines import reference, registry
from pixelfast.engines.base import Request, Result, reordered, restored
from pixelfast.engines.naive import NaiveEngine
from pixelfast.engines.native import engine as cpu
from pixelfast.inputs.conditions import Conditions
from pixelfast.ir.scan_order import RASTER, Order
from pixelfast.pipeline import Compiled, evaluate_fields
from pixelfast.trace.capture import frozen_copy
from pixelfast.verify import MOST_ROUNDING, OWN_ROUNDING, own_rounding

# The acceptance limits of the product: parameters against one forward, relative to their spread, and how close to an edge
# of the distribution function a number must lie for a draw to be excused.
PARAMETERS = 1e-4
EDGE = 1e-5
# Sums of a hundred terms, each from parameters that differ in their last bits.
LOG_PROB = 1e-4

NATIVE = cpu.unavailable_reason() is None
ENGINES = ("cpu", "reference") if NATIVE else ("reference",)
SIZE = (7, 5)


@dataclass(frozen=True)
class Traced:
    """A module taken through the pipeline once, for all engines."""

    module: nn.Module
    shape: tuple[int, int, int]
    head: Head
    compiled: Compiled
    order: Order = RASTER

    @property
    def oracle(self) -> NaiveEngine:
        return NaiveEngine(self.module, self.head, self.compiled.analysis.layout, self.order)

    def request(self, n: int, seed: int, cond: Any = None, **options: Any) -> Request:
        fields = evaluate_fields(self.compiled, Conditions.parse(cond), n)
        return Request(
            noise.uniforms(seed, 0, n, self.shape), options.pop("given", None), fields,
            want_log_prob=True, want_parameters=True, head=self.head, **options,
        )  # fmt: skip

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that can draw from this head."""
        return tuple(name for name in ENGINES if name not in registry.refusals(self.head))

    def run(self, engine: str, request: Request, cond: Any = None) -> Result:
        if engine == "naive":
            return self.oracle.run(request, Conditions.parse(cond))
        request = reordered(request, self.order)
        if engine == "reference":
            return restored(reference.run(self.compiled.program, request, poison=True), self.order)
        return restored(cpu.CpuEngine(self.compiled.program).run(request), self.order)


def trace(
    module: nn.Module, shape: tuple[int, int, int], head: Head, cond: Any = None, order: str | None = None
) -> Traced:
    sampler = pixelfast.compile(module, shape, head, cond=cond, engine="reference", order=order)
    return Traced(frozen_copy(module), shape, head, sampler.prepare(cond), sampler.order)


def judge(oracle: NaiveEngine, request: Request, cond: Conditions, values: np.ndarray, log_prob: np.ndarray, name: str) -> int:
    """Finished images (N, H, W, C) against one forward on them; returns the ties.

    Each value must be the draw of the module's own parameters: so the usual loop, which draws one after the other, would have
    drawn the same images, as long as the module sees earlier values only.
    """
    head, heat = oracle.head, request.temperature
    drawn = torch.from_numpy(values).long()
    known = torch.zeros(drawn.shape, dtype=torch.bool) if request.given is None else torch.from_numpy(request.given >= 0)
    if request.given is not None:
        np.testing.assert_array_equal(values[known.numpy()], request.given[known.numpy()], err_msg=f"{name}: given values")
    parameters = oracle.parameters(drawn, cond)
    own = head.conditionals(parameters, drawn)
    noise = torch.from_numpy(request.noise)
    differs = ~known & (head.draw(own, noise, heat) != drawn)
    distance = head.edge_distance(own[differs], noise[differs], drawn[differs], heat)
    expected = torch.where(known, 0.0, head.log_prob(own, drawn, heat)).flatten(1).sum(1).numpy()
    tolerance, edge = LOG_PROB * max(1.0, 1 / heat), EDGE
    if (distance > EDGE).any() or not np.allclose(log_prob, expected, tolerance, tolerance):
        room = room_for_rounding(oracle, drawn, parameters, cond, heat)
        tolerance, edge = tolerance + drawn[0].numel() * room, edge + room
    wrong = int((distance > edge).sum())
    assert not wrong, f"{name}: {wrong} of {drawn.numel()} draws are not the module's, by up to {float(distance.max()):.1e}"
    np.testing.assert_allclose(log_prob, expected, rtol=tolerance, atol=tolerance, err_msg=f"{name}: log-probabilities")
    return int(differs.sum())


def room_for_rounding(oracle: NaiveEngine, drawn: Tensor, parameters: Tensor, cond: Conditions, heat: float) -> float:
    """How far the rounding of a delicate module may move its probabilities; 0 for others.

    A probability next to 1 has lost the digits that its logit needs: divided by a high temperature, the last one decides.
    """
    room = 4 * OWN_ROUNDING * min(own_rounding(oracle, drawn, parameters, cond), MOST_ROUNDING) * max(1.0, 1 / heat)
    if isinstance(oracle.head, Bernoulli) and oracle.head.probability:
        near = [(parameters + step).clamp(0, 1) for step in (-(2.0**-22), 2.0**-22)]
        low, high = (oracle.head.probabilities(moved, heat)[..., 1] for moved in near)
        room += float((high - low).max())
    return room


def first(cond: Any, n: int) -> Any:
    """Conditions of the first n images."""
    return Conditions.parse(cond).map(lambda tensor: tensor[:n] if tensor.dim() and len(tensor) > 1 else tensor)


def images_of(result: Result, n: int) -> Result:
    """The part of a result that belongs to its first n images."""
    assert result.log_prob is not None
    assert result.parameters is not None
    return Result(result.values[:n], result.log_prob[:n], result.parameters[:n])


def compare(traced: Traced, n: int, seed: int = 0, cond: Any = None, **options: Any) -> int:
    """Every engine against the naive loop: pixels, parameters under teacher forcing, log-probabilities; returns the ties."""
    request = traced.request(n, seed, cond, **options)
    naive = traced.run("naive", request, cond)
    return sum(agree(traced, traced.run(engine, request, cond), naive, request, cond, engine) for engine in traced.engines)


def agree(traced: Traced, found: Result, naive: Result, request: Request, cond: Any, name: str) -> int:
    """How many images part from the naive loop's at a draw whose noise lies at a CDF edge; fails for any other reason."""
    assert found.parameters is not None
    assert found.log_prob is not None
    assert naive.log_prob is not None
    ties = tied_images(traced, found, naive, request)
    forced = traced.oracle.parameters(torch.from_numpy(found.values).long(), Conditions.parse(cond)).numpy()
    assert spread_error(found.parameters, forced) <= PARAMETERS, f"{name}: parameters differ from one forward's"
    same = ~ties
    np.testing.assert_allclose(found.log_prob[same], naive.log_prob[same], rtol=LOG_PROB, atol=LOG_PROB, err_msg=name)
    return int(ties.sum())


def tied_images(traced: Traced, found: Result, naive: Result, request: Request) -> np.ndarray:
    """Images (N,) that differ, provided that the first draw in which each of them differs is a tie."""
    assert naive.parameters is not None
    n = len(found.values)
    differs = (found.values != naive.values).reshape(n, -1)
    ties = differs.any(1)
    for image in np.flatnonzero(ties):
        at = (image, *np.unravel_index(differs[image].argmax(), found.values.shape[1:]))
        earlier = torch.from_numpy(naive.values[at[:-1]][: at[-1]]).long()
        own = traced.head.conditional(torch.from_numpy(naive.parameters[at]), earlier)
        distance = traced.head.edge_distance(
            own, torch.tensor(float(request.noise[at]), dtype=torch.float64),
            torch.tensor(int(found.values[at])), request.temperature,
        )  # fmt: skip
        assert float(distance) <= EDGE, f"draw {at} is {found.values[at]}, the naive loop's is {naive.values[at]}"
    return ties


def spread_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the standard deviation of what was expected; infinite numbers must be equal.

    Numbers that hardly differ from each other still carry the rounding errors of their size.
    """
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    wide = expected[finite].astype(np.float64)
    if not wide.size:
        return 0.0
    return float(np.abs(found[finite] - wide).max() / max(wide.std(), 1e-2 * np.abs(wide).max(), 1e-3))


def snapshot(module: nn.Module) -> Mapping[str, Any]:
    """Everything of a module that sampling must leave as it was: bits, flags, attributes, hooks, gradients."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    children = dict(module.named_modules())
    return {
        "keys": list(module.state_dict()),
        "bits": {name: t.detach().clone().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for name, t in tensors},
        "identity": {name: (id(t), t.data_ptr(), t.requires_grad, t.grad is None) for name, t in tensors},
        "training": {name: child.training for name, child in children.items()},
        "attributes": {name: sorted(vars(child)) for name, child in children.items()},
        "classes": {name: type(child) for name, child in children.items()},
        "hooks": {name: (len(c._forward_hooks), len(c._forward_pre_hooks)) for name, c in children.items()},
    }
