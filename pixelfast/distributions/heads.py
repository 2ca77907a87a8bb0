"""Heads: how a model's outputs become a distribution over one sub-pixel, and how values are fed back into the model.

A head turns (parameters, noise) into a value by inverse CDF, gives the log-probability of a value, and encodes integer
values as the model's input. Parameters stand in the last dimension: (..., P). Where one set of parameters describes all
channels of a pixel, `conditional` turns it into those of one sub-pixel, given the values of the channels before it; draws and
probabilities are then taken from these.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidInput, like
from ..host.contents import Contents, contents

Encode = str | tuple[float, float] | Tensor | Sequence[float] | Callable[[Tensor], Tensor]


class Assumed(str):
    """The name of an encoding that nobody chose: a head's default. Equal to the same name given by hand."""


SYMMETRIC, UNIT = Assumed("symmetric"), Assumed("unit")

ENCODINGS = '"integer", "unit", "symmetric", (scale, offset), a table of K values, or a function of integer images'


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
        shared: one set of P parameters describes all channels of a pixel; the output has no axis C.
        rounding: differences of parameters up to this come from the rounding of float32, beside what their own size allows.
    """

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
        elif _is_affine(self.encode):
            held["encode"] = self._read_numbers(self.encode)
        elif not isinstance(self.encode, str) and not callable(self.encode):
            held["encode"] = self._read_table()
        return contents(type(self), held)

    def frozen(self, shape: Sequence[int]) -> Head:
        """A copy for images of a shape (C, H, W) whose encoding stays as it is, whatever happens to a table or function."""
        clone, table = copy.copy(self), self.table(shape)
        if not isinstance(self.encode, str) and not _is_affine(self.encode):
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
            InvalidInput: the encoding is unknown, has the wrong size, or looks at more than one value at a time.
        """
        channels, levels = shape[0], self.levels
        if self._frozen_table is not None and len(self._frozen_table) == channels:
            return self._frozen_table
        values = torch.arange(levels)
        encode = self.encode
        if isinstance(encode, str):
            if encode == "integer":
                return values.repeat(channels, 1)
            if encode not in ("unit", "symmetric"):
                meant = like(encode, ("integer", "unit", "symmetric"))
                raise InvalidInput(f"unknown encoding {encode!r}: encode= takes {ENCODINGS}{meant}")
            unit = values.float() / max(levels - 1, 1)
            return (unit if encode == "unit" else 2 * unit - 1).repeat(channels, 1)
        if callable(encode) and not isinstance(encode, Tensor):
            return _tabulate(encode, tuple(shape), levels)
        if _is_affine(encode):
            scale, offset = self._read_numbers(encode)
            return (values * scale + offset).float().repeat(channels, 1)
        table = self._read_table()
        if table.shape == (levels,):
            return table.repeat(channels, 1)
        if table.shape == (channels, levels):
            return table.clone()
        raise InvalidInput(
            f"the encoding table has shape {tuple(table.shape)}, but {levels} levels and {channels} channels need "
            f"({levels},) or ({channels}, {levels})"
        )

    def _read_table(self) -> Tensor:
        try:
            return torch.as_tensor(self.encode, dtype=torch.float32).detach().cpu().to_dense()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"encode={self.encode!r} is no encoding: it takes {ENCODINGS}") from error

    def _read_numbers(self, encode: tuple[float, float]) -> tuple[float, float]:
        try:
            return float(encode[0]), float(encode[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"encode={encode!r} is no encoding: it takes {ENCODINGS}") from error


class Categorical(Head):
    """A softmax over K values: the model gives K logits (or log-probabilities) for each sub-pixel.

    Args:
        levels: K, how many values a sub-pixel can take; at least 2.
        encode, layout: see `Head`.

    Raises:
        InvalidInput: fewer than 2 levels.
    """

    def __init__(self, levels: int = 256, encode: Encode = SYMMETRIC, layout: str | None = None) -> None:
        if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels < 2**31:
            raise InvalidInput(f"a categorical head needs at least 2 levels, and less than 2**31, got {levels!r}")
        super().__init__(levels, levels, encode, layout)

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return (parameters.double() / temperature).softmax(-1)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        logits = (parameters.double() / temperature).log_softmax(-1)
        return logits.gather(-1, values.long().unsqueeze(-1)).squeeze(-1)


class Bernoulli(Head):
    """Two values, 0 and 1: the model gives one number for each sub-pixel, the logit of 1.

    Args:
        probability: the model gives the probability of 1 instead of its logit.
        encode, layout: see `Head`.
    """

    def __init__(self, probability: bool = False, encode: Encode = UNIT, layout: str | None = None) -> None:
        super().__init__(2, 1, encode, layout)
        self.probability = bool(probability)

    def describes_distribution(self, parameters: Tensor) -> Tensor:
        if self.probability:
            return ((parameters >= 0) & (parameters <= 1)).all(-1)
        return parameters.isfinite().all(-1)

    @property
    def needs(self) -> str:
        if self.probability:
            return (
                "a probability within 0 .. 1: does the model give logits, for which the head is Bernoulli() without "
                "probability=True? A probability that rounding moves past 0 or 1 is for the model to clamp"
            )
        return "a finite logit: look for NaN or very large numbers in the weights and conditions"

    def _logit(self, parameters: Tensor, temperature: float) -> Tensor:
        logit = parameters.double().squeeze(-1)
        return (logit.logit() if self.probability else logit) / temperature

    def probabilities(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        logit = self._logit(parameters, temperature)
        return torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)], -1)

    def log_prob(self, parameters: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
        logit = self._logit(parameters, temperature)
        return F.logsigmoid(torch.where(values.bool(), logit, -logit))


def _is_affine(encode: Encode) -> TypeGuard[tuple[float, float]]:
    """Whether an encoding is (scale, offset)."""
    return isinstance(encode, tuple) and len(encode) == 2


def _tabulate(encode: Callable[[Tensor], Tensor], shape: tuple[int, ...], levels: int) -> Tensor:
    """The table (C, K) of a function of integer images, and the proof that it works on each value by itself."""
    channels, height, width = shape
    flat = torch.arange(levels).view(-1, 1, 1, 1).expand(levels, channels, height, width)
    table = torch.stack([_call(encode, image.unsqueeze(0))[0, :, 0, 0] for image in flat], 1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(levels, (3, channels, height, width), generator=generator)
    expected = table[torch.arange(channels).view(1, -1, 1, 1), images]
    if not torch.equal(_call(encode, images), expected):
        raise InvalidInput(
            "the function given as encode= does not work on each value by itself (it gave another result for the same "
            "value elsewhere in an image): an encoding may depend on the value and its channel only"
        )
    return table


def _call(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    encoded = encode(images.clone())
    if not isinstance(encoded, Tensor) or encoded.shape != images.shape:
        found = tuple(encoded.shape) if isinstance(encoded, Tensor) else type(encoded).__name__
        raise InvalidInput(f"the function given as encode= turned images of shape {tuple(images.shape)} into {found}")
    return encoded.detach() if encoded.dtype == torch.int64 else encoded.detach().float()
