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
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from ..host.locks import Lock
from .access import MAX_BYTES, Source, is_folder, opened

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
DEPTH = 8
"""Dictionaries are opened so deep: a damaged file may hold one that contains itself."""
NAMES = 1_000_000
"""The most names that are looked at: dictionaries that hold each other many times have more than anyone can read."""
PICKLE_BYTES = 2**24
"""A compressed list of names and shapes may open to so much: each of its bytes may be a step of PyTorch's reader."""


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

OTHER_KINDS = {
    (b"version https://git-lfs",): "a Git LFS pointer: the weights were not fetched. Run git lfs pull in its repository",
    (b"<!doctype html", b"<html"): "a web page: the download gave no weights. Open it in a browser to see why",
}
"""How files begin that are often downloaded in the place of weights, and what they are."""

_PERMITTING = Lock(forks_wait=True)
"""PyTorch keeps what it permits in a global."""


def read_weights(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The tensors of a weight file. Nested dictionaries are opened: their keys are joined by dots.

    Raises:
        CheckpointError: the file is missing, a folder, truncated, of no known kind, larger than the limit, or names what is
            not loaded.
    """
    if is_folder(path, CheckpointError):
        raise CheckpointError(f"{path} is a folder, a file of weights ({', '.join(SUFFIXES)}) is needed")
    safe = path.suffix == ".safetensors"
    with opened(path, "safetensors file" if safe else "PyTorch file", max_bytes, CheckpointError) as file:
        _refuse_other_kinds(file)
        if safe:
            file.allow(file.size)
            return load_file(path)
        tensors = {}
        for name, tensor in _flat(unpickled(file), path):
            _check(file, name, tensor)
            tensors[name] = tensor
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors by name: save model.state_dict(), alone or in a dictionary, with torch.save"
        )
    return tensors


def unpickled(file: Source, device: torch.device | str = "cpu") -> Any:
    """What a PyTorch file holds, without running code from it."""
    _check_sizes(file)
    permitted: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    try:
        with _PERMITTING, torch.serialization.safe_globals(permitted):
            return torch.load(file.handle, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(file.path, error) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{file.path} is a TorchScript archive, which is a program and is not run. Where you trust its origin, write "
                "its weights by torch.save(torch.jit.load(path).state_dict(), other_path), and load those"
            ) from error
        raise


def _refuse_other_kinds(file: Source) -> None:
    """Refuse what is often downloaded in the place of weights, by its first bytes."""
    start = file.handle.read(64).lstrip().lower()
    file.handle.seek(0)
    for beginnings, what in OTHER_KINDS.items():
        if start.startswith(beginnings):
            raise CheckpointError(f"{file.path} is {what}")


def _check_sizes(file: Source) -> None:
    """Refuse an archive by what it says that it opens to. Only what PyTorch reads counts."""
    start = file.handle.read(4)
    file.handle.seek(0)
    if start != b"PK\3\4":
        file.allow(file.size)  # an old file, nothing of which is compressed
        return
    members = zipfile.ZipFile(file.handle).infolist()
    read = [info for info in members if "/data/" in info.filename or info.filename.endswith("/data.pkl")]
    file.allow(sum(info.file_size for info in read))
    for info in read:
        if info.filename.endswith(".pkl") and info.file_size > max(PICKLE_BYTES, info.compress_size):
            raise CheckpointError(
                f"{file.path}: {info.filename} opens to {info.file_size:,} bytes, but PyTorch compresses nothing"
            )
    file.handle.seek(0)


def _check(file: Source, name: str, tensor: Tensor) -> None:
    """Refuse tensors that are not numbers side by side, and those that repeat few numbers a great many times."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
        raise CheckpointError(f"{file.path}: {name} is a {tensor.type()}, and a plain tensor is needed")
    file.allow(tensor.numel() * tensor.element_size(), name)


def _refusal(path: Path, error: Exception) -> CheckpointError:
    """Which objects a file names that are not loaded; or that it is damaged."""
    names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return CheckpointError(f"{path} is damaged or no PyTorch file, {_line(error)}")
    with contextlib.suppress(Exception):  # files from before PyTorch 1.6, in which only the first one is known
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(STAND_INS)) or names
    result = ", ".join(names[:8])
    return CheckpointError(
        f"{path} names {result}, which would be imported or run, and is not: only tensors, plain containers and a few harmless "
        "objects (argparse.Namespace among them) are loaded. Where you trust its origin, open it once with "
        "torch.load(path, weights_only=False) where its code can be imported, and save the state_dict() alone with torch.save"
    )


def _line(error: Exception) -> str:
    """The first line of a message, without PyTorch's advice to give up safety."""
    text = str(error).strip()
    return text.split("WeightsUnpickler error:")[-1].strip().splitlines()[0] if text else type(error).__name__


def _flat(content: object, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of nested dictionaries."""
    left = NAMES

    def walk(content: object, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        nonlocal left
        if not isinstance(content, Mapping) or not depth:
            return
        for name, value in content.items():
            left -= 1
            if left < 0:
                raise CheckpointError(f"{path} holds over {NAMES:,} names: its dictionaries hold each other many times over")
            if not isinstance(name, str):
                continue  # what optimizers keep is numbered
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
            else:
                yield from walk(value, f"{prefix}{name}.", depth - 1)

    return walk(content, "", DEPTH)
