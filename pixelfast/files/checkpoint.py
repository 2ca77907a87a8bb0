"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, and other people's weight files.

No code of a file is ever run, nothing is loaded in silence, and every file is written whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from ..distributions.base import Head
from ..distributions.categorical import Categorical
from ..distributions.mixture import MixtureOfLogistics
from ..errors import CheckpointError, CheckpointWarning, PixelfastError, described, like, nearest, place_of
from ..host.ending import leaves_at_exit
from ..inputs.announce import announce
from ..inputs.arguments import check_flags, check_type
from ..models import MODELS
from ..models.size import build_bounded
from .access import MAX_BYTES, is_folder, make_folder, opened, path_of, status, write_together
from .matching import Match, match_weights
from .weight_files import read_weights

SHIPPED = Path(__file__).parent.parent / "checkpoints"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CONFIG_BYTES = 2**24
RESERVED = ("architecture", "arguments", "levels", "encode")


def shipped() -> list[str]:
    """The names of the checkpoints that come with pixelfast: ``load(name)`` loads one."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if (folder / WEIGHTS).exists())


def save(
    model: nn.Module, folder: str | Path, extra: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write the weights and the configuration of one of pixelfast's own models; returns the folder.

    Args:
        extra: what else belongs into ``config.json``: data, class names, bits/dim. It cannot replace what describes the
            model itself: architecture, arguments, levels, encode.
        dtype: how floating-point weights are stored (``torch.float16`` halves the file); None keeps them as they are.

    Raises:
        CheckpointError: the model is none of ``pixelfast.models``, its head was exchanged for one that JSON cannot
            hold, or ``extra`` is no JSON.
        OutputError: the folder cannot be written; the checkpoint that was there is still there.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> folder = pixelfast.save(model, "small", extra={"data": "none"})
        >>> sorted(file.name for file in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    check_type("extra", extra, Mapping, "a dictionary")  # type: ignore[type-abstract]
    names = [name for name, kind in MODELS.items() if type(model) is kind]
    if not names:
        raise CheckpointError(
            f"a checkpoint folder describes one of {sorted(MODELS)}, and {type(model).__name__} is none of them: "
            "save its state_dict with safetensors or torch.save, and load it with load(path, model=...)"
        )
    head = cast(Head, model.head)
    if not _follows_from(model.config, head) or not isinstance(head.encode, (str, tuple)):
        raise CheckpointError(
            "config.json can hold the head that the model's arguments say, with a named or (scale, offset) encoding, "
            f"not {head}"
        )
    config = {
        "architecture": names[0],
        "arguments": model.config,
        "levels": head.levels,
        "encode": head.encode,
        **{name: value for name, value in (extra or {}).items() if name not in RESERVED},
    }
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"extra= must be JSON: {error}") from error
    check_type("dtype", dtype, torch.dtype, "a torch.dtype")
    target = path_of(folder, CheckpointError)
    make_folder(target)
    tensors = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    write_together(
        {target / WEIGHTS: lambda path: path.write_bytes(content), target / CONFIG: lambda path: path.write_text(text, "utf-8")}
    )
    return target


def _follows_from(config: Any, head: Head) -> bool:
    """Whether a model of these arguments has such a head, encoding and layout apart."""
    levels, mixtures = config["levels"], config.get("mixtures")
    expected = MixtureOfLogistics(levels, mixtures, config["shape"][0]) if mixtures else Categorical(levels)
    parts = [{name: value for name, value in vars(h).items() if name not in ("encode", "layout")} for h in (head, expected)]
    return type(head) is type(expected) and parts[0] == parts[1]


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


@leaves_at_exit
def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    strict: bool = True,
    ema: bool = False,
    prefix: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> nn.Module:
    """A model in evaluation mode from a checkpoint, with float32 weights.

    Args:
        path: the name of a shipped checkpoint, a folder that ``save`` wrote, or a weight file (.safetensors, .pt, .pth,
            .ckpt, .bin), which needs ``model``.
        model: the model to fill, in place: its own tensors are overwritten, with their own types and on their own device, or
            left alone where an error is raised. Nestings of the file (``state_dict``, ``model``, Lightning's), prefixes
            (``module.``, ``_orig_mod.``) and both kinds of weight_norm are understood.
        strict: refuse a file that lacks weights of the model or has others; else the model keeps its own where the file has
            none, with a ``CheckpointWarning``. Masks, counters and other tensors that nobody trains may always differ.
        ema: take the averaged weights (EMA); by default the plain ones are taken where the file has both.
        prefix: take what stands under this prefix, if the file leaves a choice.
        max_bytes: what the file, and the model that a folder describes, may open to; a file may always open to as much as it
            takes on the disk.

    Returns:
        ``model`` itself, or the one that the folder describes. ``pixelfast.files.checkpoint.match`` tells what fits how.

    Raises:
        CheckpointError: the file is missing, truncated, names objects that could run code, or does not fit the model.

    Example:
        >>> digits = pixelfast.load("digits")  # comes along
        >>> digits.shape, digits.head.levels
        ((1, 28, 28), 4)
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> torch.save({"state_dict": model.state_dict()}, "weights.pt")
        >>> pixelfast.load("weights.pt", model) is model
        True
    """
    source = _find(path)
    check_flags(strict=strict, ema=ema)
    check_type("prefix", prefix, str, "text")
    if model is not None and not isinstance(model, nn.Module):
        raise CheckpointError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    own = model is None and is_folder(source, CheckpointError)
    if model is None and not own:
        raise CheckpointError(
            f"{source} holds weights only: give the model that they belong to, load(path, model=...), or the folder "
            f"with {CONFIG}"
        )
    config = read_config(source) if own else {}
    file = _weights_of(source)
    tensors = read_weights(file, max_bytes)
    if model is None:
        model = _build(config, source / CONFIG, tensors, max_bytes)
    report, fitting = match_weights(tensors, model, file, ema, prefix)
    report.require(strict)
    state = model.state_dict()
    taken = {name: tensor.to(state[name].dtype) for name, tensor in fitting.items()}
    try:
        model.load_state_dict(taken, strict=False)
    except Exception as error:  # a load_state_dict of their own, or weights that cannot be written to
        raise CheckpointError(
            f"{type(model).__name__} does not take the weights of {file}: {described(error)} ({place_of(error)})"
        ) from error
    for remark in report.remarks():
        announce(f"{report.path.name} into {report.model}: {remark}", CheckpointWarning)
    return model.eval()


def match(
    path: str | Path, model: nn.Module, *, ema: bool = False, prefix: str | None = None, max_bytes: int = MAX_BYTES
) -> Match:
    """How a weight file fits a model: what `load` would take, what is missing and what is left over. Nothing is loaded.

    Raises:
        CheckpointError: the file cannot be read, or leaves a choice.
    """
    check_flags(ema=ema)
    check_type("prefix", prefix, str, "text")
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    file = _weights_of(_find(path))
    return match_weights(read_weights(file, max_bytes), model, file, ema, prefix)[0]


def _weights_of(source: Path) -> Path:
    """The file of weights itself, or that of a checkpoint folder."""
    if not is_folder(source, CheckpointError):
        return source
    if status(source / WEIGHTS, CheckpointError) is None:
        raise CheckpointError(f"the checkpoint folder {source} holds no {WEIGHTS}: give the file of weights itself")
    return source / WEIGHTS


def read_config(path: str | Path) -> dict[str, Any]:
    """``config.json`` of a shipped checkpoint or of a checkpoint folder."""
    file = _find(path) / CONFIG
    if status(file, CheckpointError) is None:
        raise CheckpointError(f"the checkpoint folder {file.parent} holds no {CONFIG}, so its architecture is unknown")
    with opened(file, "JSON", CONFIG_BYTES, CheckpointError) as source:
        if source.size > CONFIG_BYTES:
            raise CheckpointError(f"{file} has {source.size:,} bytes, and describes a model in {CONFIG_BYTES:,} at most")
        config = json.loads(source.handle.read(CONFIG_BYTES).decode())
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object, found {type(config).__name__}")
    return config


def _find(path: str | Path) -> Path:
    result = path_of(path, CheckpointError)
    if isinstance(path, str) and path in shipped():
        return SHIPPED / path
    if status(result, CheckpointError) is None:
        beside = [str(result.with_name(name)) for name in _names_beside(result)]
        near = nearest(str(path), [*shipped(), *beside])
        hint = f"did you mean {near!r}?" if near else f"shipped are {shipped()}"
        raise CheckpointError(f"there is no checkpoint {str(path)!r}, neither shipped nor as a file or folder: {hint}")
    return result


def _names_beside(path: Path) -> list[str]:
    """A few names of the folder in which a file should lie."""
    try:
        with os.scandir(path.parent) as entries:
            return [entry.name for entry in itertools.islice(entries, 1000)]
    except OSError:
        return []


def _build(config: Mapping[str, Any], file: Path, tensors: Mapping[str, Tensor], max_bytes: int) -> nn.Module:
    """The model that a configuration describes, if it is not far larger than its weights."""
    name, arguments = config.get("architecture"), config.get("arguments")
    if not isinstance(name, str) or name not in MODELS:
        raise CheckpointError(
            f"{file} names the architecture {name!r}, but pixelfast knows {sorted(MODELS)}{like(name, MODELS)}"
        )
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{file} has no 'arguments' of the architecture {name!r}")
    encode = config.get("encode", "symmetric")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        model = build_bounded(MODELS[name], arguments, max_bytes, (size, len(tensors)))
        head = cast(Head, model.head)  # the model's arguments say which one
        head.encode = tuple(encode) if isinstance(encode, list) else encode
        table = head.table(cast("tuple[int, int, int]", model.shape))  # raises where the encoding is unknown
    except Exception as error:  # arguments may be anything, and fail anywhere in the model
        reason = error if isinstance(error, PixelfastError) else described(error)
        raise CheckpointError(f"{file}: the arguments do not fit the architecture {name!r}: {reason}") from error
    if not torch.isfinite(table).all():
        raise CheckpointError(f"{file}: the encoding {encode!r} gives values that are no numbers, or infinite")
    if config.get("levels", head.levels) != head.levels:
        raise CheckpointError(f"{file} says {config['levels']!r} levels, and its arguments {head.levels}: one of them is wrong")
    return model
