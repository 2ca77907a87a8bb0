"""Mixtures of logistics as models and as programs without a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pixelfast import MixtureOfLogistics
from pixelfast.distributions.base import Head
from pixelfast.engines.base import Request, Result
from pixelfast.ir.program import Buffer, Draw, Field, FieldSlot, Instruction, Map, Program, Rect, Slot
from pixelfast.lowering.draws import head_name, mixture_of

TEMPERATURES = [1e-30, 0.05, 1.0, 3.0, 43.0, 50.0, 1e3, 1e30]
HOT = 1e30
"""A temperature that makes all values equally probable, whatever the parameters."""


class Pixels(nn.Module):
    """Parameters of a pixel from the rows above: (N, P, H, W), or in another arrangement."""

    def __init__(self, head: MixtureOfLogistics, arrange: str = "NKHW") -> None:
        super().__init__()
        self.head, self.arrange = head, arrange
        self.conv = nn.Conv2d(head.channels, head.parameters, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        above = nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1]
        y = self.conv(above)
        rows = y.permute(0, 2, 3, 1)
        return {"NKHW": y, "NHWK": rows, "(NHW)K": rows.flatten(0, 2), "NK(HW)": y.flatten(2), "N(HW)K": rows.flatten(1, 2)}[
            self.arrange
        ]


class Masked(nn.Module):
    """A network whose first convolution sees the pixel itself as well, if it is told to: (N, P, H, W)."""

    def __init__(self, head: MixtureOfLogistics, see_colours: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head, c = head, head.channels
        self.first, self.middle = nn.Conv2d(c, 17, 3, padding=1), nn.Conv2d(17, 17, (1, 3), padding=(0, 1))
        self.out = nn.Conv2d(17, head.parameters, 1)
        with torch.no_grad():
            self.first.weight[:, :, 2] = 0
            self.first.weight[:, :, 1, 2] = 0
            self.first.weight[:, see_colours:, 1, 1] = 0
            self.middle.weight[..., 2] = 0
            self.out.weight *= 4
            self.out.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.middle(torch.relu(self.first(x)))))


def pixel_program(head: Head, pixels: int) -> Program:
    """A program without a network: the parameters of a row of pixels come as a field."""
    channels = head.channels if isinstance(head, MixtureOfLogistics) else 1
    image, parameters = Rect(0, 1, 0, pixels), head.parameters
    slot = Slot(0, 0, parameters)
    return Program(
        shape=(channels, 1, pixels),
        levels=head.levels,
        parameters=parameters,
        head=head_name(head),
        buffers=(Buffer("parameters", parameters, 1, (0, pixels), image),),
        fields=(Field(parameters, 0, 0, 1, pixels, None),),
        row=(),
        steps=((Instruction(slot, Map((FieldSlot(0, 0, parameters),), ()), image),), *[()] * (channels - 1)),
        draws=tuple(Draw(channel, slot) for channel in range(channels)),
        encodes=((),) * channels,
        mixture=mixture_of(head),
    )


def some_parameters(head: MixtureOfLogistics, pixels: int, width: float) -> np.ndarray:
    """(1, 1, pixels, P): around 0, and as wide as asked for."""
    rng = np.random.default_rng(head.parameters)
    return (rng.standard_normal((1, 1, pixels, head.parameters)) * width).astype(np.float32)


def extremes(mean: float, log_scale: float) -> tuple[Program, list[Request]]:
    """Scales that underflow, means far beyond the image, and a red value that all components but exclude."""
    head = MixtureOfLogistics(256, 2, 3)
    parameters = torch.zeros(1, 1, 1, 20)
    parameters[..., 2:4] = torch.tensor([mean, -mean])
    parameters[..., 4:6] = log_scale
    given = np.array([[[[200, -1, -1]]]], np.int32)
    noise = np.array([[[[0.1, 0.3, 0.6]]]], np.float32)
    program, fields = pixel_program(head, 1), (parameters.numpy(),)
    calls = [
        Request(noise, None, fields, want_log_prob=True),
        Request(noise, given, fields, want_log_prob=True),
        Request(noise, given, fields, 2.0, want_log_prob=True),
    ]
    return program, calls


def far_out(head: MixtureOfLogistics, images: int) -> np.ndarray:
    """(N, 1, 1, P): logits, means and log-scales from ordinary to absurd, one kind of each to an image."""
    rng, wide = np.random.default_rng(head.parameters), 1 if head.channels == 1 else 3
    logits = rng.standard_normal((images, head.mixtures)) * rng.choice([1, 300], (images, 1))
    kinds = []
    for _ in range(head.channels):
        means = rng.standard_normal((images, head.mixtures)) * rng.choice([0.5, 30, 1000], (images, 1))
        log_scales = rng.standard_normal((images, head.mixtures)) + rng.choice([-7, -3, 2, 300, 800], (images, 1))
        kinds.append([means, log_scales, rng.standard_normal((images, head.mixtures))][: 2 if wide == 1 else 3])
    if head.parameter_layout == "colour-major":
        parts = [logits, *(part for colour in kinds for part in colour)]
        result = np.concatenate(parts, -1)
    else:
        result = np.stack([logits, *(colour[kind] for kind in range(len(kinds[0])) for colour in kinds)], -1)
    return result.reshape(images, 1, 1, head.parameters).astype(np.float32)


def agrees(
    run: Callable[[Program, Request], Result], head: MixtureOfLogistics, parameters: np.ndarray, temperature: float
) -> None:
    """Values and their log-probabilities, of each image one pixel, against the formulas that the naive loop draws from."""
    rng = np.random.default_rng(1)
    noise = rng.random((len(parameters), 1, 1, head.channels), dtype=np.float32)
    noise[:2] = np.array([0.0, 1.0 - 2.0**-24], np.float32)[:, None, None, None]
    found = run(pixel_program(head, 1), Request(noise, None, (parameters,), temperature, want_log_prob=True))
    values, uniform = torch.from_numpy(found.values).long(), torch.from_numpy(noise).double()
    own = head.conditionals(torch.from_numpy(parameters).unsqueeze(-2).expand(-1, -1, -1, head.channels, -1), values)
    assert float(head.edge_distance(own, uniform, values, temperature).max()) <= 1e-7
    expected = head.log_prob(own, values, temperature).flatten(1).sum(1)
    assert found.log_prob is not None
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-8, atol=1e-8)
    if temperature == HOT:
        np.testing.assert_array_equal(found.values, np.floor(noise.astype(np.float64) * head.levels))
