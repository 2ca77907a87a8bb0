"""`pixelfast check`: is a model autoregressive, what does it see, and is it fed as it was trained?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from ..check import check
from ..data.picture_files import pillow
from ..errors import InvalidInput
from ..files.access import write_atomically
from ..inputs.arguments import head_of
from ..readings import MOST_IMAGES
from .conditions import add_condition_options, conditions
from .data_options import DATA, add_data_options, labels_as_known, read_data
from .models import Opened, add_model_options, add_threads_option, open_model, writable

EXAMPLES = """examples:
  pixelfast check --checkpoint digits
  pixelfast check --model mynets.py:Net --levels 256 --encode unit --shape 3,32,32 --picture field.png
  pixelfast check --model mynets.py:Net --checkpoint weights.pt --levels 256 --shape 3,32,32 --data cifar.npz

Exit status: 0 if the model is autoregressive and can be sampled fast, 1 if not, or if another encoding or layout than the one
in use clearly fits --data better, 2 if it could not be examined.
"""


def add_check(commands: Any, **common: Any) -> None:
    """Add the command `check`."""
    parser = commands.add_parser(
        "check",
        help="is a model autoregressive, what does it see, what does sampling cost?",
        usage="pixelfast check [--checkpoint NAME|PATH | --model MODULE:FACTORY] [--data PATH] [--picture FILE.png] [options]",
        description="Trace a model and report whether it is autoregressive (if not, where it leaks), its receptive field\n"
        "and blind spot, and what sampling costs; and on images such as it was trained on, which encoding and layout fit it.",
        epilog=EXAMPLES,
        **common,
    )
    parser.add_argument("--picture", metavar="FILE.png", help="draw the receptive field of the middle pixel")
    parser.add_argument("--data", metavar="PATH", help="score every encoding and layout on images of this: " + DATA)
    parser.add_argument("--with-labels", action="store_true", help="hand the data's labels to a model of your own")
    add_data_options(parser)
    add_condition_options(parser, "a label, where a model of your own takes one")
    add_threads_option(parser)
    add_model_options(parser)
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print the report; the exit status says whether the model can be sampled fast."""
    if args.picture is not None:
        writable(args.picture, (".png",))
    opened = open_model(args)
    cond, images = conditions(args, opened, 1)[1], None
    if args.data is not None:
        images, labels = _scored(args, opened)
        cond = labels if labels is not None else cond
    report = check(opened.module, opened.shape, opened.head, cond=cond, order=args.order, data=images)
    print(report)
    if args.picture is not None:
        picture = pillow().Image.fromarray(report.picture(16))
        write_atomically(Path(args.picture), lambda path: picture.save(path, format="PNG"))
        print(f"wrote {args.picture}")
    return 0 if report.autoregressive and report.unscheduled is None and not report.misread else 1


def _scored(args: argparse.Namespace, opened: Opened) -> tuple[Tensor, Tensor | None]:
    """The first images of --data, and their labels where the model takes some."""
    result = read_data(args, head_of(opened.module, opened.head).levels, 0.0)
    wanted = args.label is None and args.cond is None and (args.with_labels or (opened.own and bool(opened.labels)))
    if wanted and result.labels is None:
        raise InvalidInput(f"{opened.name} is conditional on a class, but the data have no labels")
    labels = None if result.labels is None or not wanted else result.labels[:MOST_IMAGES]
    return result.images[:MOST_IMAGES], labels_as_known(opened, result, labels)
