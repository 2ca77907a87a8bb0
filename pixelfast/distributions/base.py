"""A head: how a model's outputs become a distribution over one sub-pixel, and how values are fed back into the model.

A head turns (parameters, noise) into a value by inverse CDF, gives the log-probability of a value, and encodes integer
values as the model's input. Parameters stand in the last dimension: (..., P). Where one set of parameters describes all
channels of a pixel, `conditional` turns it into those of one sub-pixel, given the values of the channels before it; draws and
probabilities are then taken from these.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidInput
from ..host.contents import Contents, contents
from .encoding import Assumed, Encode, is_affine, read_numbers, read_table, table_of

CUSTOM = "custom"
"""The name of heads that programs do not know: their functions come with each call."""


def size_of(what: str, name: str, value: object, least: int) -> int:
    """One of a head's sizes: an integer of Python or NumPy.

    Raises:
        InvalidInput: it is none, or not in ``least`` .. 2**31 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
        raise InvalidInput(f"{what} needs at least {least} {name}, and less than 2**31, got {value!r}")
    return int(value)


class Head(ABC):
    """A distribution over the integers 0 .. levels-1 for every sub-pixel.

    Heads are values: two are equal if all that they hold is, tables by content and functions by their code and what that uses.
    A function that cannot be looked into is equal to itself only.

    Args:
        levels: how many values a sub-pixel can take (K).
        parameters: how many numbers describe the distribution of one sub-pixel (P).
        encode: how integer images become the model's input. ``"integer"``: int64 as they are; ``"unit"``: k/(K-1);
            ``"symmetric"``: 2k/(K-1)-1; a tuple ``(scale, offset)``: k*scale+offset; a list or tensor: a table of K
            values, or of (C, K); or a function of an int64 image (N, C, H, W) that works on each value by itself. Left out, it
            is assumed to be what the signature says: sampling a module then warns (`EncodingWarning`), and
            `pixelfast.check(..., data=images)` finds out which it is.
        layout: where the parameters stand in the model's output, for outputs that can be read in several ways,
            for instance ``"N(KC)HW"``; None infers it.

    Attributes:
        drawn_as: the name that programs have for the distribution; a subclass with probabilities of its own is another one.
        shared: one set of P parameters describes all channels of a pixel; the output has no axis C.
        rounding: differences of parameters up to this come from the rounding of float32, beside what their own size allows.

    Example:
        >>> head = pixelfast.Categorical(4, encode="unit")  # a head is one of the subclasses
        >>> parameters, noise = torch.zeros(2, 4), torch.tensor([0.1, 0.6])  # of two sub-pixels
        >>> values = head.draw(parameters, noise)
        >>> values
        tensor([0, 2])
        >>> head.log_prob(parameters, values).exp()
        tensor([0.2500, 0.2500], dtype=torch.float64)
    """

    drawn_as: str = CUSTOM
    shared: bool = False
    rounding: float = 0.0
    _frozen_table: Tensor | None = None

    def __init__(self, levels: int, parameters: int, encode: Encode, layout: str | None) -> None:
        self.levels, self.parameters, self.encode, self.layout = levels, parameters, encode, layout

    def __repr__(self) -> str:
        layout = "" if self.layout is None else f", layout={self.layout!r}"
        return f"{type(self).__name__}({self.levels} levels, encode={self.encode!r}{layout})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Head) or type(self) is not type(other):
            return False
        own, its = self.contents(), other.contents()
        return own.certain and its.certain and own == its

    def __hash__(self) -> int:
        # Only what `encode` and functions do not change: a head may be changed while it is a key.
        return hash((type(self), self.levels, self.parameters))

    def contents(self) -> Contents:
        """What the head holds; a table of values counts by the numbers in it, whatever it was given as."""
        held = {**vars(self), "encode": self.encode, "_frozen_table": None}
        if self._frozen_table is not None:
            held["encode"] = self._frozen_table
        elif isinstance(self.encode, Assumed):
            held["encode"] = str(self.encode)
        elif is_affine(self.encode):
            held["encode"] = read_numbers(self.encode)
        elif not isinstance(self.encode, str) and not callable(self.encode):
            held["encode"] = read_table(self.encode)
        return contents(type(self), held)

    def frozen(self, shape: Sequence[int]) -> Head:
        """A copy for images of a shape (C, H, W) whose encoding stays as it is, whatever happens to a table or function."""
        clone, table = copy.copy(self), self.table(shape)
        if not isinstance(self.encode, str) and not is_affine(self.encode):
            clone._frozen_table = table.clone()
        return clone

    def conditional(self, parameters: Tensor, earlier: Tensor) -> Tensor:
        """A sub-pixel's own parameters, given the pixel's earlier channels: (..., P), int64 (..., c) -> (..., P').

        They go into all other methods. Unless `shared`, the model itself has seen the earlier channels: nothing changes.
        """
        return parameters

    def conditionals(self, parameters: Tensor, values: Tensor) -> Tensor:
        """The own parameters of all sub-pixels of finished images: (..., C, P), int64 (..., C) -> (..., C, P')."""
        if not self.shared:
            return parameters
        channels = range(values.shape[-1])
        return torch.stack([self.conditional(parameters[..., c, :], values[..., :c]) for c in channels], -2)

    def describes_distribution(self, parameters: Tensor) -> Tensor:
        """Whether the model's parameters (..., P) can be drawn from: bool (...). A logit of -infinity means never."""
        return (parameters < torch.inf).all(-1) & (parameters > -torch.inf).any(-1)

    @property
    def needs(self) -> str:
        """What parameters must be so that there is a distribution to draw from, and what to do where they are not."""
        return (
            "numbers, none of them NaN or +infinity, and not all of them -infinity: look for NaN or very large numbers in the "
            "weights and conditions"
        )

    @abstractmethod
    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities of the K values: (..., P) -> (..., K), in float64."""

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        """Natural logarithm of the probability of ``values``: (..., P), (...) -> (...), in float64."""
        probabilities = self.probabilities(parameters, temperature)
        return probabilities.gather(-1, values.long().unsqueeze(-1)).squeeze(-1).log()

    def draw(self, parameters: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Values by inverse CDF: the number of k with P(value <= k) <= noise. (..., P), (...) -> int64 (...)."""
        edges = self.probabilities(parameters, temperature).cumsum(-1)
        # The last edge is 1, which no noise reaches; rounding of the sum must not let one past it.
        return (edges[..., :-1] <= noise.to(edges.dtype).unsqueeze(-1)).sum(-1)

    def edges(self, parameters: Tensor) -> Tensor:
        """P(value <= k) of all values but the last: (..., P) -> (..., K-1), in float64, to 1e-12."""
        return self.probabilities(parameters).cumsum(-1)[..., :-1]

    def edge_distance(self, parameters: Tensor, noise: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        """How far ``noise`` lies outside the CDF interval of ``values``: 0 where the draw is exactly that value."""
        edges = F.pad(self.probabilities(parameters, temperature).cumsum(-1), (1, 0))
        index = values.long().unsqueeze(-1)
        below = edges.gather(-1, index).squeeze(-1) - noise
        above = noise - edges.gather(-1, index + 1).squeeze(-1)
        return torch.maximum(below, above).clamp_min(0)

    def encode_images(self, images: Tensor) -> Tensor:
        """Integer images (N, C, H, W) as the model's input, of the same shape."""
        if images.numel() and not 0 <= int(images.min()) <= int(images.max()) < self.levels:
            raise InvalidInput(
                f"images hold values {int(images.min())} .. {int(images.max())}, but the head has levels 0 .. {self.levels - 1}"
            )
        table = self.table(tuple(images.shape[1:])).to(images.device)  # (C, K)
        channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
        return table[channel, images.long()]

    def table(self, shape: Sequence[int]) -> Tensor:
        """The model's input for each channel and value: (C, K); int64 for ``"integer"``, else float32.

        Raises:
            InvalidInput: see `encoding.table_of`.
        """
        if self._frozen_table is not None and len(self._frozen_table) == shape[0]:
            return self._frozen_table
        return table_of(self.encode, self.levels, shape)
