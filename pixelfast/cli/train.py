"""`pixelfast train`: from a data set to a checkpoint."""

from __future__ import annotations

import argparse
import inspect
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data
from ..errors import InvalidInput, described
from ..models import MODELS
from ..models.size import build_bounded
from ..training.options import TrainOptions
from ..training.train import Epoch, train
from .data_options import DATA, add_data_options, read_data
from .models import add_limit_option, add_threads_option, positive, use_threads, wants_progress

EXAMPLES = """examples:
  pixelfast train --data mnist.npz --levels 4 --out runs/digits --epochs 10 --shift 1
  pixelfast train --data pictures/ --levels 16 --features 60 --flip --out runs/pictures
  pixelfast train --data train-images-idx3-ubyte.gz --model pixelcnn --blocks 8 --norm --out runs/pixelcnn
  pixelfast train --data pictures/ --model pixelcnnpp --features 32 --blocks 1 --lr 1e-3 --out runs/pixelcnnpp
  pixelfast sample --checkpoint runs/digits -o digits.png

Interrupted, the same command goes on from the last saved state. Bits/dim are -log2 p(image) / (channels x rows x columns),
averaged over the images: log2 K for a model that knows nothing.
"""

ARCHITECTURE = {
    "features": "channels between the layers. Default: 64; pixelcnnpp 160, pixelsnail 256, pixelrnn 32",
    "layers": "gated, pixelrnn, autoencoder: layers after the first. Default: 8; pixelrnn 7",
    "stacks": "gated: 1 for a single stack, which has a blind spot. Default: 2",
    "kernel": "gated, pixelrnn, autoencoder: width of the convolutions, odd. Default: 3",
    "blocks": "pixelcnn, pixelcnnpp, pixelsnail: residual blocks. Default: 5; pixelsnail 12",
    "mixtures": "pixelcnnpp, pixelsnail: logistics of each pixel. Default: 10; pixelsnail has logits instead",
    "residuals": "pixelsnail: residual nets of each block. Default: 4",
    "heads": "pixelsnail: of the attention. Default: 1",
    "embed": "pixelsnail: look values up in a table of vectors of this size. Default: values enter as numbers",
    "upper": "pixelsnail: size of the code book of an upper map to condition on, which an .npz brings as s_train and s_test",
    "code": "autoencoder: numbers of the code, or channels of its map. Default: 10",
}

OPTIONS = {
    "epochs": "passes over the images",
    "batch_size": "images of one step",
    "lr": "highest learning rate",
    "weight_decay": "of AdamW",
    "ema": "decay of the averaged weights, which are what is saved; 0: off",
    "clip": "largest norm of the gradient; 0: off",
    "warmup": "steps until the learning rate is reached",
    "seed": "of weights, order and augmentation",
    "shift": "move images by up to N pixels",
    "flip": "mirror half of the images",
    "save_every": "steps between two saved states inside an epoch; 0: after each epoch only",
    "bfloat16": "train in bfloat16 where that is safe: faster on recent processors",
}


def add_train(commands: Any, **common: Any) -> None:
    """Add the command `train`."""
    parser = commands.add_parser(
        "train",
        help="train a model on images of yours",
        usage="pixelfast train --data PATH --out FOLDER [--model NAME] [--levels K] [options]",
        description="Train a model by maximum likelihood and save it as a checkpoint folder. Gated PixelCNN, PixelCNN++ and\n"
        "PixelSNAIL are conditional on the class where the data have labels.",
        epilog=EXAMPLES,
        **common,
    )
    parser.add_argument("--data", required=True, metavar="PATH", help=DATA)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the checkpoint and the training state go")
    add_data_options(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="train on the first N images only, for a trial")
    parser.add_argument("--restart", action="store_true", help="start anew, even if FOLDER holds the state of a run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda. Default: cpu")
    add_threads_option(parser)
    add_limit_option(parser)
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, help="a progress bar. Default: on a terminal only")
    model = parser.add_argument_group("the model")
    model.add_argument("--model", default="gated", choices=sorted(MODELS), help="the architecture. Default: gated")
    model.add_argument(
        "--levels", type=positive, metavar="K", help="quantise pixels to K values. Default: what the data have, 256 of bytes"
    )
    for name, text in ARCHITECTURE.items():
        model.add_argument(f"--{name}", type=positive, metavar="N", help=text)
    model.add_argument("--residual", choices=("small", "original"), help="pixelcnn: the residual block. Default: small, 7x7")
    model.add_argument("--norm", action="store_true", default=None, help="pixelcnn: layer normalisation over channels")
    model.add_argument("--skips", action="store_true", default=None, help="pixelcnn: the head sees the sum of all blocks")
    model.add_argument("--lstm", choices=("row", "diagonal"), help="pixelrnn: the recurrence. Default: row")
    model.add_argument("--spatial", action="store_true", default=None, help="autoencoder: the code is a map, not a vector")
    model.add_argument("--dropout", type=float, metavar="P", help="pixelcnnpp, pixelsnail: in residual nets. Default: 0.5")
    model.add_argument("--no-colour", action="store_true", help="predict the colours of a pixel independently of each other")
    model.add_argument("--no-labels", action="store_true", help="not conditional on the class, even if the data have labels")
    how = parser.add_argument_group("how to train")
    for field in fields(TrainOptions):
        flag, text = "--" + field.name.replace("_", "-"), OPTIONS[field.name]
        if isinstance(field.default, bool):
            how.add_argument(flag, action="store_true", help=text)
        else:
            kind = type(field.default)
            how.add_argument(flag, type=kind, default=field.default, metavar="N", help=f"{text}. Default: {field.default:g}")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train and save."""
    use_threads(args)
    options = TrainOptions(**{field.name: getattr(args, field.name) for field in fields(TrainOptions)})
    found = read_data(args, args.levels)
    images, labels = found.images[: args.limit], None if found.labels is None else found.labels[: args.limit]
    torch.manual_seed(options.seed)
    model = _build(args, found)
    conditional = bool(getattr(model, "classes", 0))
    maps, test_maps = (found.maps, found.test_maps) if args.upper else (None, None)
    if args.upper and maps is None:
        raise InvalidInput(f"--upper needs a map of upper codes for each image, and {args.data} has no s_train")
    given = [f"conditional on {model.classes} classes"] if conditional else []
    given += ["conditional on a map of upper codes"] if maps is not None else []
    print(
        f"{args.model}, {sum(p.numel() for p in model.parameters()):,} weights, {found.levels} levels; {len(images)} images of "
        f"{' x '.join(map(str, found.shape))}, {len(found.test_images)} held out, "
        f"{' and '.join(given) or 'unconditional'}"
    )
    train(
        _on_device(model, args.device),
        images,
        labels if conditional else None,
        None if maps is None else maps[: args.limit],
        test=(found.test_images, found.test_labels if conditional else None, test_maps),
        options=options,
        folder=args.out,
        resume=not args.restart,
        extra={"classes": list(found.classes), "dataset": Path(args.data).name},
        progress=wants_progress(args.progress),
        on_epoch=lambda epoch: print(_line(epoch, options.epochs), flush=True),
    )
    print(f"saved. Draw from it: pixelfast sample --checkpoint {args.out} -o samples.png")
    return 0


def _build(args: argparse.Namespace, found: data.Dataset) -> nn.Module:
    """The model of the chosen architecture for these data; options that it does not have are refused."""
    known = inspect.signature(MODELS[args.model]).parameters
    names = (*ARCHITECTURE, "residual", "norm", "skips", "lstm", "spatial", "dropout")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    foreign = [f"--{name}" for name in chosen if name not in known] + ["--no-colour"] * (
        args.no_colour and "colour" not in known
    )
    if foreign:
        raise InvalidInput(f"{', '.join(foreign)} is no option of --model {args.model}")
    if args.no_colour:
        chosen["colour"] = False
    if "classes" in known and found.labels is not None and not args.no_labels:
        chosen["classes"] = max(len(found.classes), int(found.labels.max()) + 1)
    return build_bounded(MODELS[args.model], {"shape": found.shape, "levels": found.levels, **chosen}, args.max_bytes)


def _on_device(model: nn.Module, device: str) -> nn.Module:
    try:
        if torch.device(device).type == "meta":
            raise InvalidInput("--device meta has no memory: train on cpu or cuda")
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"--device {device} cannot be used: {described(error)}") from error


def _line(epoch: Epoch, epochs: int) -> str:
    held = "" if math.isnan(epoch.test_bits) else f", held out {epoch.test_bits:.4f}"
    return f"epoch {epoch.epoch}/{epochs}: bits/dim {epoch.train_bits:.4f} while training{held}, {epoch.seconds:.0f} s"
