"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, and other people's weight files.

Nothing is ever unpickled beyond tensors, nothing is loaded in silence, and every file is written whole or not at all.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import CheckpointError, PixelfastError
from .heads import Categorical, Head
from .mixture import MixtureOfLogistics
from .models import MODELS

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RESERVED = ("architecture", "arguments", "levels", "encode")
NESTINGS = ("state_dict", "model_state_dict", "model", "net", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


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


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A model in evaluation mode from a checkpoint, with float32 weights.

    Args:
        path: the name of a shipped checkpoint, a folder that ``save`` wrote, or a weight file (.safetensors, .pt, .pth,
            .ckpt, .bin), which needs ``model``.
        model: the model to fill. Nestings (``state_dict``, ``model``) and prefixes (``module.``, ``_orig_mod.``) of the
            file are understood.

    Raises:
        CheckpointError: the file is missing, truncated, foreign, or does not fit the model.
    """
    source = _find(path)
    if source.is_dir():
        if model is None:
            model = _build(read_config(source), source / CONFIG)
        source = source / WEIGHTS
        if not source.exists():
            raise CheckpointError(f"the checkpoint folder {source.parent} holds no {WEIGHTS}")
    elif model is None:
        raise CheckpointError(
            f"{source} holds weights only: give the model that they belong to, load(path, model=...), or the folder "
            f"with {CONFIG}"
        )
    _fill(model, read_weights(source), source)
    return model.eval()


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, nestings opened, and nothing but tensors ever unpickled."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no PyTorch file, is damaged, or holds objects other than tensors, which could run code and are "
            f"not loaded. Where you trust its origin, load it once with torch.load(..., weights_only=False) and save "
            f"model.state_dict() alone. PyTorch says: {str(error).splitlines()[0]}"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or no PyTorch file: {error}") from error
    return _open_nesting(content, path)


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


def _open_nesting(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[name] for name in NESTINGS if isinstance(content.get(name), Mapping)), None)
        if inner is None and tensors:
            return tensors
        content = inner
    raise CheckpointError(f"{path} holds no tensors by name, neither directly nor under {', '.join(NESTINGS)}")


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load ``tensors`` into ``model``, all of them and nothing else, or raise CheckpointError."""
    wanted = model.state_dict()
    tensors = _without_prefix(tensors, wanted)
    missing = [name for name in wanted if name not in tensors]
    surplus = [name for name in tensors if name not in wanted]
    if len(missing) == len(wanted):
        raise CheckpointError(
            f"nothing in {path} fits {type(model).__name__}: the file has {_some(tensors)}, the model {_some(wanted)}"
        )
    if missing or surplus:
        lines = [f"{path} does not fit {type(model).__name__}:"]
        lines += [f"  missing in the file: {name}{_near(name, surplus)}" for name in missing[:8]]
        lines += [f"  not in the model: {name}{_near(name, missing)}" for name in surplus[:8]]
        raise CheckpointError("\n".join(lines) + f"\n({len(missing)} missing, {len(surplus)} surplus in all)")
    wrong = [name for name in wanted if wanted[name].shape != tensors[name].shape]
    if wrong:
        lines = [f"  {n}: file {tuple(tensors[n].shape)}, model {tuple(wanted[n].shape)}" for n in wrong[:8]]
        raise CheckpointError(f"{path}: {len(wrong)} tensors have other shapes than the model's\n" + "\n".join(lines))
    model.load_state_dict({name: tensors[name].to(wanted[name].dtype) for name in wanted})


def _without_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes of wrappers, up to three of them, of which the most names fit the model."""
    chains = ["".join(chain) for depth in range(4) for chain in itertools.product(PREFIXES, repeat=depth)]
    best = max(chains, key=lambda chain: sum(name.removeprefix(chain) in wanted for name in tensors))
    return {name.removeprefix(best): tensor for name, tensor in tensors.items()}


def _near(name: str, others: list[str]) -> str:
    near = difflib.get_close_matches(name, others, 1, 0.5)
    return f" (nearest: {near[0]})" if near else ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
