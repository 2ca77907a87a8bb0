"""Is one checkout of pixelfast slower than another? Both are measured on this machine, in turns, call by call.

    python benchmarks/compare.py OLD_CHECKOUT [NEW_CHECKOUT] [--models a,b] [--n 1,16] [--engines cpu] [--seconds 20]

NEW_CHECKOUT is the repository of this file unless another is named. Models, noise, Python and libraries are the same for both;
each model gets two fresh processes, one for each checkout. Images are verified before they are timed. "Not slower" means that
the median of new / old is at most 1.02 (--percent) with 95 % confidence; "open" that more --seconds are needed to tell. Exit
code: 0 if nothing is slower, 1 if something is, cannot be measured, or is open, 2 if the arguments make no sense.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from pixelfast.engines.native.engine import usable_threads
from speed import models, rows
from speed.arguments import counts_of, names_of, positive
from speed.contest import Contender, ContestError, Pairs, compilations, drawings, interval
from speed.surroundings import BUSY, commit, conditions, processors_in_use
from speed.texts import aligned, duration

NEW = Path(__file__).resolve().parents[1]
HEAD = ("model", "row", "n", "old", "new", "new / old", "95 % within", "rounds", "")


@dataclass(frozen=True)
class Line:
    """What was found of one model.

    Attributes:
        what: a number of images, or "compile".
        pairs: None: nothing was measured, and `said` tells why.
        good: it is not slower; of compiling, that it works.
    """

    model: str
    row: str
    what: str
    pairs: Pairs | None
    said: str
    good: bool

    def texts(self) -> tuple[str, ...]:
        """The cells of its row, under those of `HEAD`."""
        if self.pairs is None:
            return (self.model, self.row, self.what, *[""] * 5, self.said)
        ratios = self.pairs.ratios
        low, high = interval(ratios.runs)
        within = f"{low:.3f} to {high:.3f}" if math.isfinite(high) else ""
        medians = duration(self.pairs.old.median), duration(self.pairs.new.median)
        return (self.model, self.row, self.what, *medians, f"{ratios.median:.3f}", within, str(len(ratios.runs)), self.said)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, and tell."""
    parser = arguments()
    args = parser.parse_args(argv)
    try:
        names, engines = models.find(args.models, args.quick), rows.find(args.engines)
        if strange := [name for name in engines if name not in rows.ENGINES]:
            raise ValueError(f"{', '.join(strange)}: only engines of the package are compared: {', '.join(rows.ENGINES)}")
    except ValueError as error:
        parser.error(str(error))
    facts = {**conditions(args.threads), "commit": f"{commit(args.new)}, compared with {commit(args.old)}"}
    print("\n".join(f"{name}: {text}" for name, text in facts.items()), flush=True)
    if (used := processors_in_use()) > BUSY:
        print(f"OTHER PROGRAMS USE {used:.1f} PROCESSORS: rounds scatter, and it takes more of them to tell")
    lines = []
    for line in (line for name in names for line in compared(name, engines, args)):
        lines.append(line)
        print("  ".join(filter(None, line.texts())), file=sys.stderr, flush=True)
    print("\n" + "\n".join(aligned([HEAD, *(line.texts() for line in lines)])))
    if args.out is not None:
        found = {"facts": facts, "percent": args.percent, "lines": [asdict(line) for line in lines]}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    bad = sum(not line.good for line in lines)
    than = f"slower than {commit(args.old)} by more than {args.percent:g} %"
    print(f"\n{bad} of {len(lines)} lines may be {than}, or could not be measured" if bad else f"\nno model is {than}")
    return int(bad > 0)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="with its native engine built (make setup)")
    parser.add_argument("new", type=Path, nargs="?", default=NEW, metavar="NEW_CHECKOUT", help="default: that of this file")
    parser.add_argument("--models", type=names_of, metavar="NAME,...", help="default: all")
    parser.add_argument("--engines", type=names_of, metavar="NAME,...", default=["cpu"], help="default: cpu")
    parser.add_argument("--n", type=counts_of, metavar="N,...", help="numbers of images; default: some for each model")
    parser.add_argument("--seconds", type=positive, default=20, help="of each line; default: 20, but seven rounds at least")
    parser.add_argument("--percent", type=float, default=2.0, help="what counts as slower; default: 2")
    parser.add_argument("--threads", type=positive, default=usable_threads(), help="default: as many as this process may use")
    parser.add_argument("--quick", action="store_true", help="few models, small images: is everything in order?")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON with every round")
    return parser


def compared(name: str, engines: Sequence[str], args: argparse.Namespace) -> Iterator[Line]:
    """The lines of one model; what cannot be measured ends them, with a line that says why."""
    row, what = engines[0], "load"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            old = stack.enter_context(closing(Contender(args.old, Path(folder, "old"))))
            new = stack.enter_context(closing(Contender(args.new, Path(folder, "new"))))
            both = old, new
            for contender in both:
                contender.load(name, args.quick, args.threads)
            for row in engines:
                what = "compile"
                engine, precision = rows.ENGINES[row]
                yield Line(name, row, what, *compilations(both, engine, precision), True)
                for images in args.n or models.MODELS[name].images:
                    what = str(images)
                    same, pairs = drawings(both, images, args.seconds)
                    verdict = pairs.verdict(args.percent)
                    said = verdict if same else f"{verdict}, but it draws other images"
                    yield Line(name, row, what, pairs, said, verdict == "not slower")
        except ContestError as error:
            yield Line(name, row, what, None, f"FAILED: {error}", False)


if __name__ == "__main__":
    sys.exit(main())
