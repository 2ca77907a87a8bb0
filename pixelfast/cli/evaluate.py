"""`pixelfast eval`: bits/dim of a model on a data set."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor

from ..api import compile
from ..engines import registry
from ..errors import InvalidInput
from ..inputs.arguments import head_of, shape_of
from .conditions import held_out
from .data_options import DATA, add_data_options, labels_as_known, read_data
from .models import Opened, add_model_options, add_threads_option, open_model, positive

EXAMPLES = """examples:
  pixelfast eval                                         the shipped digits, on 64 held-out images
  pixelfast eval --checkpoint runs/digits --data mnist.npz
  pixelfast eval --model mynets.py:Net --checkpoint weights.pt --levels 256 --data cifar.npz --split all

Bits/dim are -log2 p(image) / (channels x rows x columns), averaged over the images.
"""


def add_eval(commands: Any, **common: Any) -> None:
    """Add the command `eval`."""
    parser = commands.add_parser(
        "eval",
        usage="pixelfast eval [--checkpoint NAME|PATH | --model MODULE:FACTORY] [--data PATH] [options]",
        help="bits/dim of a model on a data set",
        description="Score images by the exact probability that a model gives them.",
        epilog=EXAMPLES,
        **common,
    )
    parser.add_argument("--data", metavar="PATH", help=DATA + ". Default: the held-out images that a shipped checkpoint brings")
    add_data_options(parser)
    parser.add_argument("--split", default="test", choices=("test", "train", "all"), help="which images. Default: test")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N images only")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images of one forward pass. Default: 64")
    parser.add_argument("--with-labels", action="store_true", help="hand the data's labels to a model of your own")
    add_threads_option(parser)
    add_model_options(parser)
    parser.set_defaults(run=run_eval)


def run_eval(args: argparse.Namespace) -> int:
    """Score and print."""
    opened = open_model(args)
    images, labels, maps = (
        None if part is None else part[: args.limit]
        for part in _images(args, opened, head_of(opened.module, opened.head).levels)
    )
    assert images is not None
    if not len(images):
        raise InvalidInput("no images are held out: score those that there are, by --split train or --split all")
    wanted = bool(opened.labels) if opened.own else args.with_labels
    if wanted and labels is None:
        raise InvalidInput(f"{opened.name} is conditional on a class, but the data have no labels")
    upper = opened.own and bool(opened.module.config.get("upper"))  # type: ignore[union-attr,operator]
    if upper and maps is None:
        raise InvalidInput(f"{opened.name} is conditional on a map of upper codes, but the data have no s_test or s_train")
    given = {name: part for name, part, used in (("h", labels, wanted), ("s", maps, upper)) if used}
    cond = given if upper else labels if wanted else None
    shape = opened.shape or shape_of(opened.module, images.shape[1:])
    sampler = compile(opened.module, shape, opened.head, cond=cond, engine=registry.NAIVE, order=args.order)
    log_prob = sampler.log_prob(images, cond=cond, batch_size=args.batch_size)
    bits = -log_prob / math.log(2) / images[0].numel()
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    print(
        f"{opened.name}: {float(bits.mean()):.4f} bits/dim (standard error {error:.4f}), {-float(log_prob.mean()):.1f} nats an "
        f"image, on {len(images)} images of {' x '.join(map(str, shape))}"
    )
    return 0


def _images(args: argparse.Namespace, opened: Opened, levels: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The images to score, integers (N, C, H, W), their labels and maps."""
    if args.data is None:
        return *held_out(opened.name), None
    result = read_data(args, levels, 0.0 if args.split == "all" else None)
    train, test = (result.images, result.labels, result.maps), (result.test_images, result.test_labels, result.test_maps)
    images, labels, maps = {"test": test, "train": train, "all": train}[args.split]
    if args.split == "all":
        labels, maps = (None if a is None or b is None else torch.cat([a, b]) for a, b in zip(train[1:], test[1:], strict=True))
        images = torch.cat([images, test[0]])
    wanted = bool(opened.labels) if opened.own else args.with_labels
    return images, labels_as_known(opened, result, labels) if wanted else labels, maps
