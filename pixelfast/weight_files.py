"""Weight files: the tensors of anybody's .safetensors or PyTorch file by name, without running code from it.

A PyTorch file is a pickle, and a pickle may call anything. `torch.load(weights_only=True)` calls nothing but what builds
tensors and plain containers. Old checkpoints keep a few other things beside their weights (the arguments of a script, a
learning rate as a NumPy number), for which a stand-in is made here that holds nothing; see `STAND_INS`. Whatever else a file
names is refused.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import CheckpointError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
DEPTH = 8
"""Dictionaries are opened so deep: a damaged file may hold one that contains itself."""


class _Left:
    """Stands for an object that nobody needs: its content is thrown away."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dict:
    """Makes plain dictionaries, which weights may lie in, where the file names a kind of its own."""

    def __new__(cls, *args: Any) -> Any:
        return {}


STAND_INS: dict[str, type] = {
    "argparse.Namespace": _Left,
    "collections.defaultdict": _Dict,
    **{f"builtins.{name}": _Left for name in ("dict", "float", "int", "list")},  # what a defaultdict makes
    **{f"pathlib{part}.{name}Path": _Left for part in ("", "._local") for name in ("Posix", "Windows", "PurePosix")},
    **{f"numpy.{core}.multiarray.{name}": _Left for core in ("core", "_core") for name in ("scalar", "_reconstruct")},
    "numpy.dtype": _Left,
    "numpy.ndarray": _Left,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": _Left,
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor": _Left,
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": _Left,
    "pytorch_lightning.utilities.parsing.AttributeDict": _Dict,
    "lightning_fabric.utilities.data.AttributeDict": _Dict,
    "lightning.fabric.utilities.data.AttributeDict": _Dict,
}
"""What a file may name beside tensors and plain containers, and what is made instead. None of it is imported or called."""

_PERMITTING = threading.Lock()
"""PyTorch keeps what it permits in a global."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file. Nested dictionaries are opened: their keys are joined by dots.

    Raises:
        CheckpointError: the file is missing, a folder, truncated, of no known kind, or names what is not loaded.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, a file of weights ({', '.join(SUFFIXES)}) is needed")
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # of many kinds: its own, of the system, of types that this PyTorch lacks
            raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    tensors = dict(_flat(_unpickled(path), "", DEPTH))
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors by name: save model.state_dict(), alone or in a dictionary, with torch.save"
        )
    return tensors


def _unpickled(path: Path) -> object:
    permitted: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    try:
        with _PERMITTING, torch.serialization.safe_globals(permitted):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive, which is a program and is not run. Where you trust its origin, write its "
                "weights by torch.save(torch.jit.load(path).state_dict(), other_path), and load those"
            ) from error
        raise CheckpointError(f"{path} is truncated or no PyTorch file: {_line(error)}") from error
    except Exception as error:  # a damaged pickle can fail in any way, and none of them may look like a bug of the caller
        raise CheckpointError(f"{path} is truncated or no PyTorch file: {type(error).__name__}: {_line(error)}") from error


def _refusal(path: Path, error: Exception) -> CheckpointError:
    """Which objects a file names that are not loaded; or that it is damaged."""
    names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return CheckpointError(f"{path} is damaged or no PyTorch file, {_line(error)}")
    with contextlib.suppress(Exception):  # files from before PyTorch 1.6, in which only the first one is known
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(STAND_INS)) or names
    found = ", ".join(names[:8])
    return CheckpointError(
        f"{path} names {found}, which would be imported or run, and is not: only tensors, plain containers and a few harmless "
        "objects (argparse.Namespace among them) are loaded. Where you trust its origin, open it once with "
        "torch.load(path, weights_only=False) where its code can be imported, and save the state_dict() alone with torch.save"
    )


def _line(error: Exception) -> str:
    """The first line of a message, without PyTorch's advice to give up safety."""
    text = str(error).strip()
    return text.split("WeightsUnpickler error:")[-1].strip().splitlines()[0] if text else type(error).__name__


def _flat(content: object, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping) or not depth:
        return
    for name, value in content.items():
        if not isinstance(name, str):
            continue  # what optimizers keep is numbered
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        else:
            yield from _flat(value, f"{prefix}{name}.", depth - 1)
