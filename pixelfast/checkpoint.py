"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, and other people's weight files.

No code of a file is ever run, nothing is loaded in silence, and every file is written whole or not at all.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, CheckpointWarning, PixelfastError
from .heads import Categorical, Head
from .matching import Match, match_weights
from .mixture import MixtureOfLogistics
from .models import MODELS
from .weight_files import read_weights

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RESERVED = ("architecture", "arguments", "levels", "encode")


def shipped() -> list[str]:
    """The names of the checkpoints that come with pixelfast: ``load(name)`` loads one."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if (folder / WEIGHTS).exists())


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` a temporary file beside ``path`` and move it there: a reader finds the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    """
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
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    write_atomically(target / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_atomically(target / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
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


def load(
    path: str | Path, model: nn.Module | None = None, *, strict: bool = True, ema: bool = False, prefix: str | None = None
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

    Returns:
        ``model`` itself, or the one that the folder describes. ``pixelfast.checkpoint.match`` tells what fits how.

    Raises:
        CheckpointError: the file is missing, truncated, names objects that could run code, or does not fit the model.
    """
    source = _find(path)
    if source.is_dir() and model is None:
        model = _build(read_config(source), source / CONFIG)
    elif model is None:
        raise CheckpointError(
            f"{source} holds weights only: give the model that they belong to, load(path, model=...), or the folder "
            f"with {CONFIG}"
        )
    report, tensors = _matched(source, model, ema, prefix)
    report.require(strict)
    own = model.state_dict()
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}, strict=False)
    for remark in report.remarks():
        warnings.warn(f"{report.path.name} into {report.model}: {remark}", CheckpointWarning, stacklevel=2)
    return model.eval()


def match(path: str | Path, model: nn.Module, *, ema: bool = False, prefix: str | None = None) -> Match:
    """How a weight file fits a model: what `load` would take, what is missing and what is left over. Nothing is loaded.

    Raises:
        CheckpointError: the file cannot be read, or leaves a choice.
    """
    return _matched(_find(path), model, ema, prefix)[0]


def _matched(source: Path, model: nn.Module, ema: bool, prefix: str | None) -> tuple[Match, dict[str, Tensor]]:
    if source.is_dir():
        source = source / WEIGHTS
        if not source.exists():
            raise CheckpointError(f"the checkpoint folder {source.parent} holds no {WEIGHTS}: give the file of weights itself")
    return match_weights(read_weights(source), model, source, ema, prefix)


def read_config(path: str | Path) -> dict[str, Any]:
    """``config.json`` of a shipped checkpoint or of a checkpoint folder."""
    file = _find(path) / CONFIG
    if not file.exists():
        raise CheckpointError(f"the checkpoint folder {file.parent} holds no {CONFIG}, so its architecture is unknown")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object, found {type(config).__name__}")
    return config


def _find(path: str | Path) -> Path:
    if isinstance(path, str) and path in shipped():
        return SHIPPED / path
    found = Path(path)
    if not found.exists():
        near = difflib.get_close_matches(str(path), shipped(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped are {shipped()}"
        raise CheckpointError(f"there is no checkpoint {str(path)!r}, neither shipped nor as a file or folder: {hint}")
    return found


def _build(config: Mapping[str, Any], file: Path) -> nn.Module:
    name, arguments = config.get("architecture"), config.get("arguments")
    if name not in MODELS:
        raise CheckpointError(f"{file} names the architecture {name!r}, but pixelfast knows {sorted(MODELS)}")
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{file} has no 'arguments' of the architecture {name!r}")
    encode = config.get("encode", "symmetric")
    try:
        model = MODELS[name](**arguments)
        head = cast(Head, model.head)  # the model's arguments say which one
        head.encode = tuple(encode) if isinstance(encode, list) else encode
        head.table(cast("tuple[int, int, int]", model.shape))  # raises where the encoding is unknown
        return model
    except (TypeError, PixelfastError) as error:
        raise CheckpointError(f"{file}: the arguments do not fit the architecture {name!r}: {error}") from error
