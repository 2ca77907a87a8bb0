"""NetKet's cached sampler (JAX) on the same network as `borrowed.LatticeNet`: the other maintained library that keeps features.

Both are masked convolutions of the same depth, width and kernel in float32, drawn site by site from cached features; XLA's
compilation is left out of the time. The gate is that they are the same network: with NetKet's weights, `LatticeNet` must give
NetKet's conditional probabilities on the lattices that NetKet drew. NetKet runs in a process of its own, since it brings its
own threads, so its times are not taken in turns with ours. Letters: N lattices, H rows, W columns, L sites.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from pixelfast.precision import PRECISIONS
from pixelfast.verify import relative_error
from speed.borrowed import LatticeNet
from speed.measure import timed, turns
from speed.models import Model, Shape
from speed.results import Gate, Row
from speed.rows import NETKET


def measure(entry: Model, shape: Shape, images: int, runs: int, threads: int) -> Row:
    """NetKet's row for one number of lattices; a skipped one if it is not installed."""
    hold_to(threads)
    try:
        import jax
        import netket
    except ImportError as error:
        return Row(NETKET, "skipped", f"NetKet cannot be imported ({error}): pip install 'pixelfast[netket]' brings it")
    module = entry.make(shape)[0]
    if not isinstance(module, LatticeNet) or shape[1] != shape[2]:
        return Row(NETKET, "skipped", "NetKet's convolutions need a square lattice and a LatticeNet")
    hilbert = netket.hilbert.Spin(0.5, shape[1] * shape[2])
    layers = len(module.convolutions)
    features = module.convolutions[0].out_channels
    kernel = module.rows, module.cols
    model = netket.models.FastARNNConv2D(
        hilbert=hilbert, layers=layers, features=features, kernel_size=kernel, activation=jax.nn.relu, param_dtype=np.float32
    )
    spins = np.ones((1, hilbert.size), np.float32)
    variables = model.init(jax.random.PRNGKey(0), spins, 0, method=model.conditional)
    parameters = {name: value for name, value in variables.items() if name != "cache"}
    state = Sampling(netket, hilbert, model, parameters, images)
    compile_s = timed(state)[0]
    gate = same_network(module, model, parameters, np.asarray(state.drawn, np.float32), shape)
    if not gate.ok:
        return Row(NETKET, "failed", gate.reason, gate=gate)
    times, _ = turns({NETKET: state}, runs)
    note = f"NetKet {netket.__version__}, jax {jax.__version__}; measured in a process of its own, not in turns"
    return Row(NETKET, "ok", times=times[NETKET], compile_s=compile_s, gate=gate, note=note)


def hold_to(threads: int) -> None:
    """XLA takes every processor that the process may use: leave it so many. Without effect once JAX runs."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Sampling:
    """Draws N lattices with NetKet; the first call compiles."""

    def __init__(self, netket: Any, hilbert: Any, model: Any, parameters: Any, images: int) -> None:
        self.sampler = netket.sampler.ARDirectSampler(hilbert, dtype=np.float32)
        self.model, self.parameters, self.images = model, parameters, images
        self.state = self.sampler.init_state(model, parameters, seed=0)
        self.drawn: Any = None

    def __call__(self) -> None:
        drawn, self.state = self.sampler.sample(self.model, self.parameters, state=self.state, chain_length=self.images)
        self.drawn = drawn.reshape(-1, drawn.shape[-1]).block_until_ready()  # (N, L) of -1 and 1


def same_network(module: LatticeNet, model: Any, parameters: Any, spins: np.ndarray, shape: Shape) -> Gate:
    """Whether `module` with NetKet's weights gives NetKet's conditionals on spins (N, L)."""
    some = spins[:64].copy()  # JAX's arrays cannot be written to, which PyTorch would warn of
    local = model.hilbert.states_to_local_indices(np.array([[-1.0] * some.shape[1], [1.0] * some.shape[1]], np.float32))
    low, high = int(local[0, 0]), int(local[1, 0])  # which of the two outputs belongs to -1 and to 1
    conditionals = np.asarray(model.apply(parameters, some, method=model.conditionals), np.float64)  # (N, L, 2)
    theirs = torch.from_numpy(np.log(conditionals[..., high]) - np.log(conditionals[..., low])).float()
    transplant(module, parameters["params"], low, high)
    with torch.no_grad():
        ours = module(torch.from_numpy(some).view(-1, *shape)).flatten(1)  # (N, L)
    error = relative_error(ours, theirs)
    if error > PRECISIONS["fp32"].tolerance:
        return Gate(False, reason=f"it is another network: logits differ by {error:.1e} of their standard deviation")
    return Gate(True, parameter_error=error)


def transplant(module: LatticeNet, weights: Any, low: int, high: int) -> None:
    """Put NetKet's weights into the module. Its probabilities are softmax(2 x) of two outputs x: logit = 2 (x_1 - x_0)."""
    last = len(module.convolutions) - 1
    for i, convolution in enumerate(module.convolutions):
        kernel = torch.from_numpy(np.array(weights[f"_layers_{i}"]["kernel"])).permute(3, 2, 0, 1)  # (out, in, rows, cols)
        bias = torch.from_numpy(np.array(weights[f"_layers_{i}"]["bias"]))
        if i == last:
            kernel, bias = 2 * (kernel[high] - kernel[low])[None], 2 * (bias[high] - bias[low])[None]
        own = dict(convolution.named_parameters())
        own["weight"].data.copy_(kernel)
        own["bias"].data.copy_(bias)
