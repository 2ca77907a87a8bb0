"""The command line: pixelfast train | sample | check | eval."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..check import check
from ..data.picture_files import pillow
from ..errors import InvalidInput, PixelfastError, described
from ..files.access import write_atomically
from ..inputs.announce import plain_warnings
from ..inputs.arguments import head_of
from ..readings import MOST_IMAGES
from .conditions import add_condition_options, conditions
from .models import Opened, add_model_options, add_threads_option, open_model, writable
from .output import Parser, complain, kept_quiet
from .sample import add_sample
from .train import DATA, add_data_options, add_eval, add_train, labels_as_known, read_data

REFUSED, FAULT, INTERRUPTED = 2, 3, 130

ABOUT = """Exact, fast sampling from autoregressive image models (PixelCNN and its family).

  pixelfast sample -n 64 -o digits.png                draw 64 digits with a checkpoint that comes along
  pixelfast sample --checkpoint emoji --label flags   colour images of one class
  pixelfast check --model mynets.py:Net --levels 256 --shape 1,28,28
                                                      is your model autoregressive, and what does it see?
  pixelfast train --data mnist.npz --levels 4 --out runs/digits
  pixelfast eval --checkpoint runs/digits --data mnist.npz

`pixelfast COMMAND --help` explains every option.

Exit status: 0 done; 1 check found that the model is not autoregressive or cannot be sampled fast; 2 refused, with the reason;
3 a fault of pixelfast itself; 130 interrupted.
"""

CHECK_EXAMPLES = """examples:
  pixelfast check --checkpoint digits
  pixelfast check --model mynets.py:Net --levels 256 --encode unit --shape 3,32,32 --picture field.png
  pixelfast check --model mynets.py:Net --checkpoint weights.pt --levels 256 --shape 3,32,32 --data cifar.npz

Exit status: 0 if the model is autoregressive and can be sampled fast, 1 if not, or if another encoding or layout than the one
in use clearly fits --data better, 2 if it could not be examined.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, see `ABOUT`."""
    with kept_quiet() as output:
        status = _run(argv)
    if output is not None and output.failure is not None and not isinstance(output.failure, BrokenPipeError):
        complain(f"pixelfast: standard output cannot be written: {output.failure.strerror}")
        return status or REFUSED
    return status


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with plain_warnings():
            return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if args.traceback or os.environ.get("PIXELFAST_DEBUG", "0") not in ("", "0"):
            raise
        if isinstance(error, (PixelfastError, OSError)):
            complain(f"pixelfast {args.command}: {error}")
            return REFUSED
        if isinstance(error, MemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error):
            complain(f"pixelfast {args.command}: the memory of this machine is too small for that ({described(error)})")
            return REFUSED
        complain(
            f"pixelfast {args.command}: a fault of pixelfast itself, {described(error)}. Please report it with what "
            f"PIXELFAST_DEBUG=1 pixelfast {args.command} ... shows"
        )
        return FAULT


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("pixelfast", description=ABOUT, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"pixelfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    for add in (add_train, add_sample, add_check, add_eval):
        add(commands, parents=[common], formatter_class=form)
    return parser


def add_check(commands: Any, **common: Any) -> None:
    """Add the command `check`."""
    parser = commands.add_parser(
        "check",
        help="is a model autoregressive, what does it see, what does sampling cost?",
        usage="pixelfast check [--checkpoint NAME|PATH | --model MODULE:FACTORY] [--data PATH] [--picture FILE.png] [options]",
        description="Trace a model and report whether it is autoregressive (if not, where it leaks), its receptive field\n"
        "and blind spot, and what sampling costs; and on images such as it was trained on, which encoding and layout fit it.",
        epilog=CHECK_EXAMPLES,
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


if __name__ == "__main__":
    sys.exit(main())
