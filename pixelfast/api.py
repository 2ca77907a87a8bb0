"""The front door: `compile` a model once, or `sample` from it right away."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .distributions.base import Head
from .engines import registry
from .engines.naive import NaiveEngine
from .errors import AmbiguousLayout, InvalidInput
from .host.boundary import public
from .host.contents import Contents, module_contents
from .inputs.announce import announce_encoding
from .inputs.arguments import count_of, head_of, module_of, order_of, shape_of
from .inputs.conditions import Conditions
from .sampler import OnRow, Sampler
from .trace.capture import frozen_copy
from .trace.index import IMAGES


@public
def compile(
    model: nn.Module,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    *,
    cond: Any = None,
    engine: str = "auto",
    precision: str = "fp32",
    self_check: bool = True,
    order: str | None = None,
) -> Sampler:
    """Compile a trained model once, to sample often.

    Args:
        model: any autoregressive `nn.Module` over images; it is copied and stays as it is.
        shape: (C, H, W); by default `model.shape`.
        head: how its outputs become distributions and how values are fed back (`encode=`, which is assumed, with a warning,
            where the head does not say it); by default `model.head`.
        cond: an example of what the module takes after the image. Without one, a module that needs conditions is compiled
            when `sample` first gets some.
        engine: "auto", "cpu", "triton", "cuda", "reference", "torch" or "naive". "auto" takes "triton" where the module is on a
            GPU of NVIDIA's; "torch" runs on any device of PyTorch's, slowly.
        precision: "fp32", which is exact, or a lower one of the engines "cpu" and "triton", which is not:
            "fp16w" stores the weights of convolutions and linear layers as float16 and computes in float32. The largest
            error of a parameter was 0.3 % of their standard deviation (none for the checkpoints that come along).
            One image of a large model takes 0.8 times as long, several take as long as in float32.
            "fp16" and "bf16", of the engine "triton", round these weights, and what they are multiplied with, to float16 or
            bfloat16, and sum in float32.
            What was measured: docs/precision.md.
        self_check: compare the first images that are drawn, four at most for each kind of condition, with one forward of the
            module on them, and raise VerificationError if the engine drew from other parameters than the module gives. "naive"
            raises NotAutoregressive if parameters changed after they were drawn from.
        order: in which order the model draws pixels; by default `model.order` if that names one, else "raster": rows from
            the top, each from the left. "raster-right-to-left", "raster-bottom-up" and "raster-bottom-up-right-to-left" are
            the same from other corners; "columns", "columns-right-to-left", "columns-bottom-up" and
            "columns-bottom-up-right-to-left" draw column after column. Images, given values, conditions and the noise of
            each pixel stay where they are.

    Returns:
        A `Sampler`, whose `sample`, `verify` and `log_prob` may be called from several threads.

    Raises:
        InvalidInput, NotAutoregressive, UnsupportedModel, EngineUnavailable, NumericalError: each says what to do.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> sampler = pixelfast.compile(model)
        >>> sampler.sample(2, seed=0).shape
        torch.Size([2, 1, 7, 5])
    """
    module_of(model)
    registry.check_name(engine, precision)
    size, distribution = shape_of(model, shape), head_of(model, head)
    announce_encoding(model, distribution)
    sampler = Sampler(model, size, distribution, engine, precision, self_check, order_of(model, order))
    if sampler.engine == registry.NAIVE:
        return sampler
    try:
        sampler.prepare(cond)
    except AmbiguousLayout:
        raise
    except InvalidInput:
        # A forward with more arguments may only lack its conditions, which come with the call.
        if cond is not None or not _takes_conditions(model):
            raise
    return sampler


@dataclass(frozen=True)
class _Kept:
    """A sampler that `sample` keeps, and what it was made from.

    Attributes:
        model: the module; kept as long as that lives.
        options: size, engine and the like.
        contents: of module and head at that time.
        outcome: what these gave for fixed images with the conditions of the first call, where contents are uncertain.
    """

    model: weakref.ref[nn.Module]
    options: tuple[object, ...]
    contents: tuple[Contents, Contents]
    sampler: Sampler
    outcome: tuple[Conditions, list[Tensor]] | None

    def serves(self, model: nn.Module, head: Head, options: tuple[object, ...], found: tuple[Contents, Contents]) -> bool:
        """Whether the sampler is the one that compiling would give now."""
        if self.model() is not model or self.options != options or self.contents != found:
            return False
        if all(part.certain for part in found):
            return True
        if self.outcome is None:
            return False
        conditions, expected = self.outcome
        now = _outcome(self.sampler, frozen_copy(model), head.frozen(self.sampler.shape), conditions)
        return all(map(torch.equal, expected, now))


_kept: dict[int, _Kept] = {}
"""By the id of the module: modules may have an `==` of their own."""


@public
def sample(
    model: nn.Module,
    n: int = 1,
    *,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    cond: Any = None,
    temperature: float = 1.0,
    given: Tensor | np.ndarray | None = None,
    return_log_prob: bool = False,
    progress: bool = False,
    on_row: OnRow | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    first: int = 0,
    engine: str = "auto",
    precision: str = "fp32",
    self_check: bool = True,
    order: str | None = None,
) -> Any:
    """Draw n images from a trained model: `compile` and `Sampler.sample` in one.

    The compiled sampler is kept for the next call with the same model, and used if nothing has changed: weights, buffers,
    attributes and what they hold, layers, hooks, the head, the code of the forward, and the functions and values that it closes
    over or reads from Python modules of yours. Where something of that cannot be compared (objects of C
    extensions), two fixed images decide: module and head must give for them what they gave when they were compiled. Neither
    sees a change in files, environment variables, the global state of installed packages, or PyTorch itself; use
    `compile` anew after such a change.

    Args:
        model: any autoregressive `nn.Module` over images; it is copied and stays as it is.
        n: how many images, at least 1.
        shape, head, engine, precision, self_check, order: as in `compile`.
        seed, generator: the key of the noise, 0 .. 2**64 - 1, or what draws it. Image i of a seed is always the same.
        cond: what the module takes after the image: one argument, a tuple of positional or a dict of keyword arguments, with
            one entry for each image or one for all.
        temperature: divides the logits; within 1e-30 .. 1e30.
        given: known values, (n, C, H, W) or (C, H, W), integers 0 .. K-1, -1 where unknown.
        return_log_prob: also return the natural logarithm of the probability of what was drawn, float64 (n,).
        progress, on_row: a progress bar; a function that is called as on_row(row, images) for each finished row.
        batch_size, threads, first: how many images are drawn together, by how many threads, and the index of the first one.
            `Sampler.sample` says more of each of these.

    Returns:
        uint8 (n, C, H, W), int32 if there are more than 256 levels; with `return_log_prob`, also float64 (n,).

    Raises:
        InvalidInput, NotAutoregressive, UnsupportedModel, EngineUnavailable, NumericalError, VerificationError: each says what
            was found and what to do.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> images = pixelfast.sample(model, n=2, seed=0)
        >>> images.shape, images.dtype
        (torch.Size([2, 1, 7, 5]), torch.uint8)
        >>> upper = images.int()
        >>> upper[:, :, 3:] = -1  # unknown
        >>> completed = pixelfast.sample(model, n=2, seed=1, given=upper)
        >>> torch.equal(completed[:, :, :3], images[:, :, :3])
        True
    """
    module_of(model)
    count_of("n", n)
    size, distribution = shape_of(model, shape), head_of(model, head)
    named = order_of(model, order).name
    key, found = (size, engine, precision, self_check, named), (module_contents(model), distribution.contents())
    kept = _kept.get(id(model))
    options: dict[str, Any] = {
        "seed": seed, "generator": generator, "cond": cond, "temperature": temperature, "given": given,
        "return_log_prob": return_log_prob, "progress": progress, "on_row": on_row, "batch_size": batch_size,
        "threads": threads, "first": first,
    }  # fmt: skip
    if kept is not None and kept.serves(model, distribution, key, found):
        return kept.sampler.sample(n, **options)
    how: dict[str, Any] = {"engine": engine, "precision": precision, "self_check": self_check, "order": named}
    sampler = compile(model, size, distribution, cond=cond, **how)
    images = sampler.sample(n, **options)
    outcome = None
    if not all(part.certain for part in found):
        conditions = sampler._understood(cond, n).rows(torch.tensor([0, n - 1]), n)
        conditions = conditions.map(lambda tensor: tensor.detach().clone())
        outcome = conditions, _outcome(sampler, sampler._module, sampler.head, conditions)
    number = id(model)
    _kept[number] = _Kept(weakref.ref(model, lambda _: _kept.pop(number, None)), key, found, sampler, outcome)
    return images


def _outcome(sampler: Sampler, module: nn.Module, head: Head, conditions: Conditions) -> list[Tensor]:
    """What a frozen module and a head give for two fixed images: all that sampling asks of them."""
    channels, height, width = sampler.shape
    values = torch.randint(head.levels, (IMAGES, height, width, channels), generator=torch.Generator().manual_seed(0))
    parameters = NaiveEngine(module, head, sampler._oracle(conditions).layout).parameters(values, conditions)
    own = head.conditionals(parameters, values)
    return [parameters, own, head.probabilities(own), head.log_prob(own, values)]


def _takes_conditions(model: nn.Module) -> bool:
    try:
        return len(inspect.signature(model.forward).parameters) > 1
    except (TypeError, ValueError):
        return True
