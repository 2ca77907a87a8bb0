"""`pixelfast sample`: images from a trained model, as pictures, arrays or an animation."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from ..api import compile
from ..data.arrays import ALL_AXES
from ..data.dataset import read_images
from ..data.values import quantise, source_levels_of
from ..engines import registry
from ..errors import InvalidInput, OutputError
from ..files.access import write_atomically
from ..pictures import Drawing, grid, read_given, sheet_size
from ..sampler import Sampler
from .conditions import add_condition_options, conditions
from .models import Opened, add_engine_options, add_model_options, open_model, positive, wants_progress, writable

GIF_SIDE = 65535

EXAMPLES = """examples:
  pixelfast sample -n 64 -o digits.png
  pixelfast sample -n 20 --label 3,8 --seed 7 --gif drawing.gif
  pixelfast sample --checkpoint emoji --label "food & drink" -n 36 --temperature 0.9 -o food.png -o food.npz
  pixelfast sample --given half.png --keep-rows 14 -n 8 --label 5 -o completed.png
  pixelfast sample --model mynets.py:PixelCNN --checkpoint weights.pt --levels 256 --encode unit --shape 1,28,28

Image i of a seed is the same in any batch, on any machine and with any engine.
"""


def add_sample(commands: Any, **common: Any) -> None:
    """Add the command `sample`."""
    parser = commands.add_parser(
        "sample",
        usage="pixelfast sample [-n N] [-o FILE] [--gif FILE] [--checkpoint NAME|PATH | --model MODULE:FACTORY] [options]",
        help="draw images from a trained model",
        description="Draw images from a trained model, exactly as the model itself would, only faster.",
        epilog=EXAMPLES,
        **common,
    )
    what = parser.add_argument_group("what to draw")
    what.add_argument("-n", type=positive, default=64, metavar="N", help="how many images. Default: 64")
    what.add_argument("--seed", type=int, default=0, help="0 .. 2^64 - 1. Default: 0")
    what.add_argument("--first", type=int, default=0, metavar="I", help="draw the images I, I + 1, ... of the seed. Default: 0")
    add_condition_options(
        what,
        "class names or numbers, like 7 or cat,dog, which the images get in turn; all: every class. Default: all, where "
        "the model is conditional on a class",
    )
    what.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divides the logits, above 0. Default: 1")
    what.add_argument(
        "--given",
        metavar="FILE",
        help="complete this image: a picture (transparent: unknown), or the integers of an .npy or .npz, (C, H, W) or "
        "(N, C, H, W) (-1: unknown), as `pixelfast sample` writes them",
    )
    what.add_argument(
        "--source-levels",
        type=positive,
        metavar="S",
        help="of --given, how many values its pixels can take, where it does not say",
    )
    what.add_argument("--axes", choices=ALL_AXES, help="of --given, the axes of an array, where its shape leaves a choice")
    what.add_argument("--keep-rows", type=int, metavar="R", help="of --given, know only the upper R rows")
    out = parser.add_argument_group("what to write")
    out.add_argument(
        "-o",
        "--out",
        action="append",
        metavar="FILE",
        help=".png: a grid; .npz: images (N, C, H, W), labels and seed; .npy: images only. May be given several times. "
        "Default: samples.png",
    )
    out.add_argument("--gif", metavar="FILE", help="an animation of the images (64 at most) being drawn, row by row")
    out.add_argument("--columns", type=positive, metavar="N", help="images in a row of the grid. Default: a nearly square grid")
    out.add_argument("--scale", type=positive, metavar="N", help="enlarge pixels N times. Default: images about 64 wide")
    out.add_argument("--captions", action="store_true", help="write its class under each image of a .png")
    out.add_argument("--log-prob", action="store_true", help="also give bits/dim, and log_prob (N,), in nats, in the .npz")
    out.add_argument("--verify", action="store_true", help="check the images against the model itself; takes a forward pass")
    how = parser.add_argument_group("how")
    add_engine_options(how)
    how.add_argument("--batch-size", type=positive, metavar="N", help="images drawn together; they do not depend on it")
    how.add_argument(
        "--self-check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the first images, four at most, with the model itself. Default: do",
    )
    how.add_argument("--progress", action=argparse.BooleanOptionalAction, help="a progress bar. Default: on a terminal only")
    add_model_options(parser)
    parser.set_defaults(run=run_sample)


def run_sample(args: argparse.Namespace) -> int:
    """Draw, report, write."""
    names = args.out or ([] if args.gif else ["samples.png"])
    files = [writable(name, tuple(WRITERS)) for name in names]
    if args.gif is not None:
        writable(args.gif, (".gif",))
    opened = open_model(args)
    _check_number(args, "labels", 8)
    labels, cond = conditions(args, opened, args.n)
    started = time.perf_counter()
    options = {"cond": cond, "engine": args.engine, "precision": args.precision, "self_check": args.self_check}
    options["order"] = args.order
    sampler = compile(opened.module, opened.shape, opened.head, **options)
    compiled = time.perf_counter()
    _announce(args.engine, sampler)
    grid_options = {"columns": args.columns, "scale": args.scale}
    drawing = None if args.gif is None else Drawing(sampler.head.levels, order=sampler.order, **grid_options)
    _check_number(args, "images", math.prod(sampler.shape))
    _check_pictures(args, files, sampler.shape)
    given = _given(args, sampler)
    what = {"seed": args.seed, "cond": cond, "temperature": args.temperature, "given": given, "first": args.first}
    how = {"batch_size": args.batch_size, "threads": args.threads, "progress": wants_progress(args.progress)}
    began = time.perf_counter()
    drawn = sampler.sample(args.n, return_log_prob=args.log_prob, on_row=drawing, **what, **how)
    seconds = time.perf_counter() - began
    images, log_prob = drawn if args.log_prob else (drawn, None)
    lower = "" if sampler.precision == "fp32" else f", precision {sampler.precision}"
    done = "drawn and checked" if sampler.self_check and sampler.engine != registry.NAIVE else "drawn"
    print(
        f"{opened.name}: {args.n} images of {' x '.join(map(str, sampler.shape))}, seed {args.seed}, "
        f"engine {sampler.engine}{lower}\n"
        f"compiled in {compiled - started:.1f} s, {done} in {seconds:.2f} s ({1000 * seconds / args.n:.3g} ms an image)"
    )
    if log_prob is not None:
        unknown = np.ones(sampler.shape) if given is None else (given < 0).reshape(len(given), -1).mean(0)
        bits = -float(log_prob.mean()) / math.log(2) / float(unknown.sum())
        print(f"bits/dim of what was drawn: {bits:.4f}, mean of {args.n} images, temperature {args.temperature:g}")
    if args.verify:
        print(f"verified: {sampler.verify(images, **what)}")
    found = {"images": images, "labels": labels, "log_prob": log_prob}
    writing = [(file, partial(WRITERS[file.suffix.lower()], file, found, args, sampler.head.levels, opened)) for file in files]
    if drawing is not None:
        writing.append((Path(args.gif), partial(drawing.save, args.gif)))
    failures = []
    for file, write in writing:  # one that fails must not lose the others
        try:
            write()
            print(f"wrote {file}")
        except OutputError as error:
            failures.append(str(error))
    if failures:
        raise OutputError("; ".join(failures))
    return 0


def _check_number(args: argparse.Namespace, what: str, size: int) -> None:
    """Refuse more images than the memory is meant to hold, `size` bytes each, before anything is made of them."""
    if args.n * size > args.max_bytes:
        raise InvalidInput(
            f"-n {args.n}: {what} would take {args.n * size:,} bytes or more, and the limit is {args.max_bytes:,}: draw in "
            "parts, by --first, or raise --max-bytes"
        )


def _check_pictures(args: argparse.Namespace, files: Sequence[Path], shape: tuple[int, int, int]) -> None:
    """Refuse pictures that could not be written, before anything is drawn."""
    channels, height, width = shape
    drawn = [(str(file), args.n, math.inf) for file in files if file.suffix.lower() == ".png"]
    drawn += [] if args.gif is None else [(args.gif, min(args.n, Drawing.MOST), GIF_SIDE)]
    for name, count, side in drawn:
        if channels not in (1, 3):
            raise InvalidInput(f"{name}: a picture has 1 or 3 channels, and the images {channels}: write an .npz instead")
        rows, columns = sheet_size(count, height, width, columns=args.columns, scale=args.scale, text=args.captions)
        if 3 * rows * columns > args.max_bytes or max(rows, columns) > side:
            raise InvalidInput(
                f"{name} would have {rows:,} x {columns:,} pixels: lower --scale, --columns or -n, write an .npz, or raise "
                f"--max-bytes {args.max_bytes:,}{' (no GIF has a longer side than 65,535)' if side == GIF_SIDE else ''}"
            )


def _announce(asked: str, sampler: Sampler) -> None:
    """Say so where "auto" could take no fast engine."""
    if asked == "auto" and not registry.ENGINES[sampler.engine].fast:
        reason = next(iter(registry.refusals(sampler.head, sampler.precision).values()))
        print(f"pixelfast: using the slower engine {sampler.engine!r}: {reason}", file=sys.stderr)


def _given(args: argparse.Namespace, sampler: Sampler) -> np.ndarray | None:
    """The values of --given, (N, C, H, W) with -1 where unknown."""
    if args.given is None:
        if args.keep_rows is not None:
            raise InvalidInput("--keep-rows says how much of --given is known: give that too")
        return None
    if Path(args.given).suffix.lower() in (".npy", ".npz"):
        given = _read_array(args, sampler.shape, sampler.head.levels)
    else:
        given = read_given(args.given, sampler.shape, sampler.head.levels, args.source_levels, args.max_bytes)
    if args.keep_rows is not None:
        if not 0 <= args.keep_rows < sampler.shape[1]:
            raise InvalidInput(f"--keep-rows must lie in 0 .. {sampler.shape[1] - 1}, got {args.keep_rows}")
        given[:, :, args.keep_rows :] = -1
    if (given >= 0).all():
        raise InvalidInput("every pixel of --given is known: say with --keep-rows, or by transparency, what is to be drawn")
    return given


def _read_array(args: argparse.Namespace, shape: tuple[int, int, int], levels: int) -> np.ndarray:
    """Integers, -1 where unknown: those of an .npy are the model's own levels unless --source-levels says otherwise."""
    found, said = read_images(args.given, shape, args.axes, args.max_bytes)
    given, known = found.astype(np.int64), found >= 0
    if args.given.lower().endswith(".npz") or args.source_levels is not None:
        _, source = source_levels_of(args.given, [found[known]], levels, said=said, asked=args.source_levels)
        given[known] = quantise(found[known], levels, source).numpy()
    return given


Found = dict[str, Tensor | None]


def _write_png(file: Path, found: Found, args: argparse.Namespace, levels: int, opened: Opened) -> None:
    images, labels = found["images"], found["labels"]
    assert images is not None
    captions = None
    if args.captions and labels is not None:
        captions = [opened.classes[label] if opened.classes else str(label) for label in labels.tolist()]
    picture = grid(images, levels, columns=args.columns, scale=args.scale, captions=captions)
    write_atomically(file, lambda path: picture.save(path, format="PNG"))


def _write_npz(file: Path, found: Found, args: argparse.Namespace, levels: int, opened: Opened) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}
    _write_with(file, lambda handle: np.savez_compressed(handle, seed=np.uint64(args.seed), levels=levels, **arrays))


def _write_npy(file: Path, found: Found, args: argparse.Namespace, levels: int, opened: Opened) -> None:
    images = found["images"]
    assert images is not None
    _write_with(file, lambda handle: np.save(handle, images.numpy()))


def _write_with(file: Path, save: Callable[[IO[bytes]], None]) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as handle:
            save(handle)

    write_atomically(file, write)


WRITERS = {".png": _write_png, ".npz": _write_npz, ".npy": _write_npy}
"""How a file is written, by its suffix."""
