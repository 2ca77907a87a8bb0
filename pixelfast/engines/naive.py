"""The oracle: the user's own module, one full forward for every sub-pixel. Slow, and right by definition."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..distributions.base import Head
from ..inputs.conditions import Conditions
from ..ir.scan_order import RASTER, Order
from ..trace.capture import call
from ..trace.output import OutputLayout
from .base import Request, Result, numerical_error


class NaiveEngine:
    """Samples from a frozen module by the usual loop.

    Args:
        module: in eval mode; gives an output in `layout`.
        order: of generation.
        conditions: those of a call, for all of its images.
    """

    name = "naive"

    def __init__(self, module: nn.Module, head: Head, layout: OutputLayout, order: Order = RASTER) -> None:
        self.module, self.head, self.layout, self.order = module, head, layout, order
        tensors = [*module.parameters(), *module.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")

    def parameters(self, values: Tensor, conditions: Conditions) -> Tensor:
        """One full forward: values int64 (N, H, W, C), 0 where unknown -> parameters float32 (N, H, W, C, P)."""
        images = values.permute(0, 3, 1, 2)
        inputs = self.head.encode_images(images).to(self.device)
        output = call(self.module, inputs, conditions.to(self.device))
        return self.layout.read(output, len(images)).float().cpu()

    def run(self, request: Request, conditions: Conditions, watched: Tensor | None = None) -> Result:
        """Draw all sub-pixels in the order of generation.

        Args:
            watched: (n, H, W, C, P) for the first n images, filled with the parameters that each sub-pixel was drawn from.

        Raises:
            NumericalError: NaN or infinite parameters; `position` is (image, row, col, channel).
        """
        images, height, width, channels = request.noise.shape
        given = np.full(request.noise.shape, -1, np.int32) if request.given is None else request.given
        known = torch.from_numpy(given >= 0)
        values = torch.from_numpy(given).long().clamp_min(0)
        noise = torch.from_numpy(request.noise)
        log_prob = torch.zeros(images, dtype=torch.float64)
        for line, pixels in enumerate(self.order.pixels(height, width).tolist()):
            for row, col in (divmod(pixel, width) for pixel in pixels):
                for channel in range(channels):
                    here = (slice(None), row, col, channel)
                    if known[here].all():
                        continue
                    parameters = self.parameters(values, conditions)[here]
                    if watched is not None:
                        watched[here] = parameters[: len(watched)]
                    own = self.conditional(parameters, values[:, row, col, :channel], known[here], (row, col, channel))
                    drawn = self.head.draw(own, noise[here], request.temperature)
                    values[here] = torch.where(known[here], values[here], drawn)
                    gained = self.head.log_prob(own, values[here], request.temperature)
                    log_prob += torch.where(known[here], torch.zeros_like(gained), gained)
            if request.on_row is not None:
                request.on_row(line, values.to(torch.int32).numpy())
        return Result(
            values.to(torch.int32).numpy(),
            log_prob.numpy() if request.want_log_prob else None,
            self.parameters(values, conditions).numpy() if request.want_parameters else None,
        )

    def conditional(self, parameters: Tensor, earlier: Tensor, known: Tensor, place: tuple[int, int, int]) -> Tensor:
        """The own parameters of a sub-pixel: (N, P) -> (N, P'). Where its value is known they may be any: nobody uses them.

        Raises:
            NumericalError: they describe no distribution in an image in which they are drawn from.
        """
        unknown = ~known
        sound = self.head.describes_distribution(parameters)
        if (unknown & ~sound).any():
            raise numerical_error(int((unknown & ~sound).nonzero()[0, 0]), *place)
        # Functions of a user's head may refuse what describes no distribution: what is known needs none.
        parameters = torch.where(known[:, None], parameters[unknown][0], parameters)
        own = self.head.conditional(parameters, earlier)
        if (broken := unknown & own.isnan().any(-1)).any():
            raise numerical_error(int(broken.nonzero()[0, 0]), *place)
        return own
