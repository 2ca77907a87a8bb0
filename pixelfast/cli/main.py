"""The command line: pixelfast train | sample | check | eval."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PixelfastError, described
from ..inputs.announce import plain_warnings
from .check import add_check
from .evaluate import add_eval
from .output import Parser, complain, kept_quiet
from .sample import add_sample
from .train import add_train

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


if __name__ == "__main__":
    sys.exit(main())
