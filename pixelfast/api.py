"""The front door: `compile` a model once, or `sample` from it right away."""

from __future__ import annotations

import hashlib
import inspect
import threading
import weakref
from typing import Any

import torch
from torch import nn

from .arguments import count_of, head_of, module_of, order_of, shape_of
from .engines import registry
from .errors import InvalidInput
from .heads import Head
from .sampler import Sampler


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
        head: how its outputs become distributions and how values are fed back; by default `model.head`.
        cond: an example of what the module takes after the image. Without one, a module that needs conditions is compiled
            when `sample` first gets some.
        engine: "auto", "cpu", "triton", "reference" or "naive". "auto" takes "triton" where the module is on a GPU.
        precision: "fp32", which is exact, or a lower one of the engines "cpu" and "triton", which is not:
            "fp16w" stores the weights of convolutions and linear layers as float16 and computes in float32. The largest
            error of a parameter was 0.3 % of their standard deviation (none for the checkpoints that come along).
            One image of a large model takes 0.8 times as long, several take as long as in float32.
            "bf16" rounds these weights, and what they are multiplied with, to bfloat16, and sums in float32. The largest error
            was 5 % of the standard deviation. Meant for processors with AVX-512 BF16, and for GPUs; others are slower for it.
            "fp16", of the engine "triton", rounds both to float16, and sums in float32.
            What was measured: docs/precision.md.
        self_check: compare the first images that are drawn, four at most for each kind of condition, with one forward of the
            module on them, and raise VerificationError if the engine drew from other parameters than the module gives.
        order: in which order the model draws pixels; by default `model.order` if that names one, else "raster": rows from
            the top, each from the left. "raster-right-to-left", "raster-bottom-up" and "raster-bottom-up-right-to-left" are
            the same from other corners; "columns", "columns-right-to-left", "columns-bottom-up" and
            "columns-bottom-up-right-to-left" draw column after column. Images, given values, conditions and the noise of
            each pixel stay where they are.

    Raises:
        InvalidInput, NotAutoregressive, UnsupportedModel, EngineUnavailable, NumericalError: each says what to do.
    """
    module_of(model)
    registry.check_name(engine, precision)
    size, distribution = shape_of(model, shape), head_of(model, head)
    sampler = Sampler(model, size, distribution, engine, precision, self_check, order_of(model, order))
    if sampler.engine == "naive":
        return sampler
    try:
        sampler.prepare(cond)
    except InvalidInput:
        # A forward with more arguments may only lack its conditions, which come with the call.
        if cond is not None or not _takes_conditions(model):
            raise
    return sampler


_cache: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], Sampler]] = weakref.WeakKeyDictionary()
_cache_lock = threading.Lock()


def sample(
    model: nn.Module,
    n: int = 1,
    *,
    shape: tuple[int, int, int] | None = None,
    head: Head | None = None,
    engine: str = "auto",
    precision: str = "fp32",
    self_check: bool = True,
    order: str | None = None,
    **options: Any,
) -> Any:
    """Draw n images from a trained model: `compile` and `Sampler.sample` in one; see there for all options.

    The compiled sampler is kept for the next call with the same model, as long as its weights do not change.
    """
    module_of(model)
    count_of("n", n)
    unknown = set(options) - set(inspect.signature(Sampler.sample).parameters)
    if unknown:
        raise InvalidInput(f"sample() got unknown options {', '.join(sorted(unknown))}")
    size, distribution = shape_of(model, shape), head_of(model, head)
    named = order_of(model, order).name
    key = (size, id(distribution), engine, precision, self_check, named, _fingerprint(model))
    with _cache_lock:
        kept = _cache.get(model)
    if kept is not None and kept[0] == key:
        sampler = kept[1]
    else:
        how: dict[str, Any] = {"engine": engine, "precision": precision, "self_check": self_check, "order": named}
        sampler = compile(model, size, distribution, cond=options.get("cond"), **how)
        with _cache_lock:
            _cache[model] = key, sampler
    return sampler.sample(n, **options)


def _fingerprint(model: nn.Module) -> str:
    """A digest of all weights and buffers: `.data` writes change weights without a trace elsewhere."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _takes_conditions(model: nn.Module) -> bool:
    try:
        return len(inspect.signature(model.forward).parameters) > 1
    except (TypeError, ValueError):
        return True
