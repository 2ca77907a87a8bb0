"""Conditions on the command line: labels by name or number, and arrays from files."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput
from ..files import checkpoint
from ..files.access import MAX_BYTES
from ..files.array_files import is_npz, open_npz, read_npy
from .models import Opened


def add_condition_options(parser: Any, label_help: str) -> None:
    """--label and --cond."""
    parser.add_argument("--label", metavar="LIST", help=label_help)
    parser.add_argument(
        "--cond", metavar="FILE", help="other conditions: an .npy (one argument) or an .npz (arguments by name)"
    )


def conditions(args: argparse.Namespace, opened: Opened, n: int) -> tuple[Tensor | None, Any]:
    """The labels, if there are any, and what the module takes after the image."""
    if args.cond is not None and args.label is not None:
        raise InvalidInput("both --label and --cond were given: put the labels into the file of --cond")
    if args.cond is not None:
        return None, read_conditions(args.cond, args.max_bytes)
    labels = labels_for(opened, args.label, n)
    return labels, labels


def labels_for(opened: Opened, text: str | None, n: int) -> Tensor | None:
    """The label of each of n images, int64 (n,), or None for a model without: image i gets the i-th of a list, in turn.

    Args:
        text: "all", or class names and numbers with commas between them; None: "all" where the model needs a label.
    """
    if text is None and not opened.labels:
        return None
    if text is not None and opened.own and not opened.labels:
        raise InvalidInput(f"{opened.name} takes no label: leave --label out")
    if text is not None and text != "all":
        chosen = [_label(opened, part.strip()) for part in text.split(",")]
    else:
        chosen = list(range(opened.labels))
    if not chosen:
        raise InvalidInput(f"--label all: how many classes {opened.name} has is not known; list the labels, like 0,1,2")
    return torch.tensor(chosen)[torch.arange(n) % len(chosen)]


def _label(opened: Opened, text: str) -> int:
    """A class by name (any case, or its beginning), or by number."""
    names = [name.lower() for name in opened.classes]
    starts = [index for index, name in enumerate(names) if name.startswith(text.lower())] if text else []
    if text.lower() in names:
        return names.index(text.lower())
    if text.isdecimal() and len(text) < 10 and (not opened.labels or int(text) < opened.labels):
        return int(text)
    if len(starts) == 1:
        return starts[0]
    if opened.classes and opened.classes != tuple(map(str, range(opened.labels))):
        known = ", ".join(f"{index} {name}" for index, name in enumerate(opened.classes))
    else:
        known = f"0 .. {opened.labels - 1}" if opened.labels else "0, 1, 2, ..."
    raise InvalidInput(f"--label {text!r} is no class of {opened.name}: classes are {known}")


def read_conditions(path: str, max_bytes: int = MAX_BYTES) -> Any:
    """`cond=` from a file: the array of an .npy as one argument, the arrays of an .npz as arguments by name.

    Raises:
        InvalidInput: it is no such file, is damaged, or is larger than the limit.
    """
    if not is_npz(path, max_bytes):
        return _tensor(path, read_npy(path, max_bytes))
    with open_npz(path, max_bytes) as arrays:
        return {name: _tensor(path, array) for name, array in arrays.items()}


def _tensor(path: str, array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"--cond {path} holds {array.dtype}, which a model cannot take: {error}") from error


def held_out(name: str) -> tuple[Tensor, Tensor]:
    """The held-out images that come with a shipped checkpoint, uint8 (N, C, H, W), and their labels, int64 (N,).

    Raises:
        InvalidInput: there are none.
    """
    file = checkpoint.SHIPPED / name / "held_out.npz"
    if not file.exists():
        raise InvalidInput(f"the checkpoint {name!r} brings no held-out images: give some with --data")
    with open_npz(file) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"].astype(np.int64))
