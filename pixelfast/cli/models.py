"""What the commands share: which model is meant and what its outputs are; files, threads and progress."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from ..distributions.base import Head
from ..distributions.bernoulli import Bernoulli
from ..distributions.categorical import Categorical
from ..distributions.encoding import Encode
from ..engines import registry
from ..errors import CheckpointError, InvalidInput, described, nearest, place_of
from ..files import checkpoint
from ..files.access import MAX_BYTES, is_folder, status
from ..inputs.arguments import THREADS
from ..ir.scan_order import ORDERS
from ..models.size import allow_predictions
from ..pictures import pillow
from ..precision import PRECISIONS

HEADS = ("categorical", "bernoulli", "bernoulli-probability")
DEFAULT = "digits"


@dataclass(frozen=True)
class Opened:
    """A model as the options describe it; shape and head are None where the model itself knows them."""

    name: str
    module: nn.Module
    shape: tuple[int, int, int] | None
    head: Head | None
    labels: int
    """How many classes a label chooses from; 0 if that is not known or the model takes none."""
    classes: tuple[str, ...]
    """Names of the classes, if they have names."""
    own: bool
    """Is it one of pixelfast's own models, of which everything is known?"""


def add_limit_option(parser: Any) -> None:
    """--max-bytes."""
    parser.add_argument(
        "--max-bytes",
        type=byte_count,
        default=MAX_BYTES,
        metavar="N",
        help="what a file, or a model that it describes, may open to, unless it takes as much on the disk. "
        f"Default: {MAX_BYTES:,}",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which model is meant, and how much may be read."""
    add_limit_option(parser)
    model = parser.add_argument_group("which model")
    model.add_argument(
        "--checkpoint",
        metavar="NAME|PATH",
        help="a checkpoint that comes with pixelfast (digits, emoji), or a folder that `pixelfast train` wrote; with "
        f"--model, a file of weights (.safetensors, .pt, .pth, .ckpt, .bin). Default: {DEFAULT}, or none with --model",
    )
    own = parser.add_argument_group("a model of your own", "Any autoregressive torch.nn.Module over images.")
    own.add_argument(
        "--model",
        metavar="MODULE:FACTORY",
        help="a class or function that returns the module: package.module:name or path/to/file.py:name",
    )
    own.add_argument("--ema", action="store_true", help="of --checkpoint, take the averaged weights (EMA)")
    own.add_argument("--prefix", help="of --checkpoint, take what stands under this prefix, where the file leaves a choice")
    own.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="refuse a --checkpoint that lacks weights of the model or has others. Default: refuse",
    )
    own.add_argument("--model-args", metavar="JSON", help="its keyword arguments, for instance '{\"features\": 32}'")
    own.add_argument(
        "--head",
        choices=HEADS,
        help="what the outputs mean: K logits for each sub-pixel, or one logit or probability of 1. Default: categorical",
    )
    own.add_argument("--levels", type=positive, metavar="K", help="how many values a sub-pixel takes (categorical)")
    own.add_argument(
        "--encode",
        metavar="HOW",
        help="how a value k is fed to the module: integer (k), unit (k/(K-1)), symmetric (2k/(K-1)-1) or SCALE,OFFSET. "
        "Default: assumed to be symmetric, unit with a Bernoulli head; `pixelfast check --data` finds out",
    )
    own.add_argument("--layout", help="where the parameters stand in the output, for instance N(KC)HW; asked for if needed")
    own.add_argument(
        "--order", choices=tuple(ORDERS), help="in which order it draws pixels. Default: what the model says, or raster"
    )
    own.add_argument("--shape", metavar="C,H,W", help="channels, rows and columns; default: what the model was made for")


def add_engine_options(parser: Any) -> None:
    parser.add_argument(
        "--engine",
        default="auto",
        choices=registry.NAMES,
        help="; ".join(f"{name}: {entry.summary}" for name, entry in registry.ENGINES.items())
        + f"; {registry.NAIVE}: one forward for each sub-pixel. Default: auto, the fastest",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=tuple(PRECISIONS),
        help="; ".join(
            f"{name}: {precision.summary} (of {', '.join(registry.having_precision(name))})"
            for name, precision in PRECISIONS.items()
        ),
    )
    add_threads_option(parser)


def add_threads_option(parser: Any) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="default: as many as this process may use")


def open_model(args: argparse.Namespace) -> Opened:
    """The model that the options name.

    Raises:
        InvalidInput: options contradict each other, or the factory fails.
        CheckpointError: the checkpoint is missing, damaged or does not fit.
    """
    use_threads(args)
    shape = None if args.shape is None else parse_shape(args.shape)
    if args.model is None:
        return _open_checkpoint(args, shape)
    module = _build(args.model, args.model_args)
    if args.checkpoint is not None:
        _fill(module, args)
    elif args.ema or args.prefix is not None or not args.strict:
        raise InvalidInput("--ema, --prefix and --no-strict say how --checkpoint FILE is read: give that too")
    with strangers_code(args.model):
        labels, known = getattr(module, "classes", 0), getattr(module, "head", None)
    count = labels if isinstance(labels, int) and not isinstance(labels, bool) else 0
    opened = Opened(args.model, module, shape, _head(args, known), count, (), own=False)
    head = opened.head or known
    if shape is not None and isinstance(head, Head):
        allow_predictions(shape, head, args.max_bytes)
    return opened


def _fill(module: nn.Module, args: argparse.Namespace) -> None:
    """Load --checkpoint into the module."""
    how = {"strict": args.strict, "ema": args.ema, "prefix": args.prefix, "max_bytes": args.max_bytes}
    checkpoint.load(args.checkpoint, module, **how)


def _open_checkpoint(args: argparse.Namespace, shape: tuple[int, int, int] | None) -> Opened:
    describing = ("model_args", "prefix", "head", "levels", "encode", "layout", "order")
    foreign = [name for name in describing if getattr(args, name) is not None]
    foreign += ["ema"] if args.ema else []
    foreign += ["no_strict"] if not args.strict else []
    if foreign:
        names = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise InvalidInput(f"{names} describe a model of your own: give it by --model MODULE:FACTORY")
    name = DEFAULT if args.checkpoint is None else args.checkpoint
    module = checkpoint.load(name, max_bytes=args.max_bytes)
    if shape is not None:
        allow_predictions(shape, cast(Head, module.head), args.max_bytes)
    count, names = int(getattr(module, "classes", 0)), checkpoint.read_config(name).get("classes", [])
    if not isinstance(names, list):
        raise CheckpointError(f"{name}: `classes` of its config.json must be a list of names, found {type(names).__name__}")
    unnamed = range(len(names), count) if names else ()
    classes = (*(str(text) for text in names), *(str(label) for label in unnamed))
    return Opened(name, module, shape, None, count, classes, own=True)


def _build(spec: str, arguments: str | None) -> nn.Module:
    """The module that MODULE:FACTORY returns."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InvalidInput(f"--model takes MODULE:FACTORY, for instance mymodels:PixelCNN or nets/mine.py:build, got {spec!r}")
    try:
        options = json.loads(arguments) if arguments is not None else {}
    except ValueError as error:
        raise InvalidInput(f"--model-args is no JSON: {error}") from error
    if not isinstance(options, dict):
        raise InvalidInput(f"--model-args takes a JSON object, for instance '{{\"features\": 32}}', got {arguments}")
    source = _import(place)
    with strangers_code(spec):
        factory = getattr(source, name, None)
    if factory is None:
        names = [known for known in vars(source) if not known.startswith("_")]
        near = nearest(name, names)
        hint = f"did you mean {near!r}?" if near else f"it has {', '.join(names[:20]) or 'no names'}"
        raise InvalidInput(f"{place} has no {name!r}; {hint}")
    with strangers_code(spec):
        module = factory(**options)
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"{spec} gave a {type(module).__name__}, but must give a torch.nn.Module")
    return module


def _import(place: str) -> ModuleType:
    """A module by its dotted name, the working directory included, or by the path of its file."""
    if not place.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        with strangers_code(place, "cannot be imported,"):
            return importlib.import_module(place)
    if not stat.S_ISREG(getattr(status(place), "st_mode", 0)):
        raise InvalidInput(f"there is no file {place}")
    sys.path.insert(0, str(Path(place).resolve().parent))  # what it imports may lie beside it
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None
    assert spec.loader is not None
    with strangers_code(place, "cannot be imported,"):
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)  # where dataclasses and pickle look for it
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def strangers_code(name: str, how: str = "failed with") -> Iterator[None]:
    """Whatever a stranger's code raises, even to leave the program, becomes an error that says where."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise InvalidInput(f"{name} {how} {described(error)} ({place_of(error)})") from error


def _head(args: argparse.Namespace, known: Any) -> Head | None:
    """The head that the options describe, or None where the module has its own and no option is given."""
    if all(getattr(args, name) is None for name in ("head", "levels", "encode", "layout")):
        if isinstance(known, Head):
            return None
        raise InvalidInput(
            "what do the model's outputs mean? Give --levels K for K logits of each sub-pixel, or --head bernoulli"
        )
    encode: dict[str, Any] = {} if args.encode is None else {"encode": parse_encode(args.encode)}
    if args.head in (None, "categorical"):
        if args.levels is None:
            raise InvalidInput("how many values does a sub-pixel take? Give --levels K")
        return Categorical(args.levels, layout=args.layout, **encode)
    if args.levels not in (None, 2):
        raise InvalidInput(f"a Bernoulli head has 2 levels, but --levels is {args.levels}: leave it out")
    probability = args.head == "bernoulli-probability"
    return Bernoulli(probability, layout=args.layout, **encode)


def parse_encode(text: str) -> Encode:
    """A name of an encoding as it is, and "SCALE,OFFSET" as two numbers."""
    if "," not in text:
        return text
    try:
        scale, offset = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidInput(f"--encode takes integer, unit, symmetric or SCALE,OFFSET, got {text!r}") from error
    return scale, offset


def parse_shape(text: str) -> tuple[int, int, int]:
    """ "C,H,W" or "CxHxW" as three positive integers."""
    try:
        channels, height, width = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise InvalidInput(f"--shape takes C,H,W (channels, rows, columns), for instance 1,28,28, got {text!r}") from error
    if min(channels, height, width) < 1:
        raise InvalidInput(f"--shape takes three positive integers, got {text!r}")
    return channels, height, width


def positive(text: str, most: int = 2**31 - 1) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or len(text) > 20 or not 1 <= int(text) <= most:
        bound = f"at most {most}" if text.isdecimal() and int(text[:20]) > 1 else "at least 1"
        raise argparse.ArgumentTypeError(f"must be a whole number of {bound}, got {text[:40]!r}")
    return int(text)


def byte_count(text: str) -> int:
    """Bytes, for argparse."""
    return positive(text, 2**63 - 1)


def use_threads(args: argparse.Namespace) -> None:
    """Hold PyTorch to --threads."""
    if args.threads is not None:
        if args.threads > THREADS:
            raise InvalidInput(f"--threads must lie in 1 .. {THREADS}, got {args.threads}")
        torch.set_num_threads(min(args.threads, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 64))


def wants_progress(asked: bool | None) -> bool:
    """--progress, --no-progress, or by default a bar on a terminal if there can be one."""
    if asked and find_spec("tqdm") is None:
        raise InvalidInput('--progress needs tqdm: pip install "pixelfast[demo]"')
    return asked if asked is not None else sys.stderr.isatty() and find_spec("tqdm") is not None


def writable(name: str, suffixes: tuple[str, ...]) -> Path:
    """The path of a file to write, refused before any work is done."""
    file = Path(name)
    if file.suffix.lower() not in suffixes:
        raise InvalidInput(f"{name} must end in {' or '.join(suffixes)}")
    found = status(file)
    if not is_folder(file.parent):
        raise InvalidInput(f"{name}: there is no folder {file.parent}")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise InvalidInput(f"{name} is no regular file, and is not written over: choose another name")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"{name} cannot be written: there is no right to write into {file.parent}")
    if file.suffix.lower() in (".png", ".gif"):
        pillow()
    return file
