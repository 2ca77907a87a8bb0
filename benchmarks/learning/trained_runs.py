"""Train every architecture for a few minutes on real images, and write down how far bits/dim fall.

    python benchmarks/learning/trained_runs.py --data FOLDER [--only NAME,NAME] [--runs runs/short] [--out FOLDER]
    python benchmarks/learning/trained_runs.py --quick       one epoch of a few of the small images in benchmarks/data

Each run is the command `pixelfast train` as anybody would call it; `trainings.py` lists them. A run that was interrupted goes
on where it stopped, and one that is finished is not repeated. Writes `report.md`, `results.json` and `samples.png`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from learning.histogram import independent_pixels
from learning.patch_codes import write_codes
from learning.trained_report import write_report
from learning.trainings import CODES, TRAININGS, Training
from pixelfast import data
from pixelfast.cli import main as cli
from pixelfast.files import checkpoint
from pixelfast.models import PixelCNNAutoencoder
from pixelfast.training.train import STATE, bits_per_dim
from speed.surroundings import conditions

SMALL = Path(__file__).parents[1] / "data"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, report."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    facts = conditions(args.threads)
    results = []
    for name in args.only:
        training = quickly(TRAININGS[name]) if args.quick else TRAININGS[name]
        results.append(run(name, training, args, facts["commit"]))
    args.out.mkdir(parents=True, exist_ok=True)
    told = [{name: value for name, value in result.items() if name != "file"} for result in results]
    text = json.dumps({"facts": facts, "quick": args.quick, "runs": told}, indent=1)
    (args.out / "results.json").write_text(text + "\n", encoding="utf-8")
    write_report(args.out, facts, results, args.runs, args.samples)
    print(f"\nwrote {args.out / 'report.md'}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where mnist5k.npz, fashion5k.npz and emoji16.npz lie")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(TRAININGS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/short"), metavar="FOLDER", help="where the checkpoints go")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the report goes. Default: beside the checkpoints")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="samples of each in the picture. Default: 8")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="Default: 1")
    parser.add_argument("--quick", action="store_true", help="is everything in order?")
    args = parser.parse_args(argv)
    args.only = [name.strip() for name in args.only.split(",")] if args.only else list(TRAININGS)
    unknown = [name for name in args.only if name not in TRAININGS]
    if unknown:
        parser.error(f"there is no run {', '.join(map(repr, unknown))}: choose among {', '.join(map(repr, TRAININGS))}")
    args.out = args.out or args.runs
    wanted = {"fashion5k.npz" if (name := TRAININGS[run].data).startswith(CODES) else name for run in args.only}
    missing = [] if args.quick else sorted(str(file) for name in wanted if not (file := place(name, args.data)).exists())
    if missing:
        parser.error(f"there is no {', no '.join(missing)}: --data takes their folder, see benchmarks/README.md")
    return args


def place(name: str, folder: Path | None) -> Path:
    """Where a data set lies: in the repository, or in the folder of the others."""
    return SMALL / name if (SMALL / name).exists() else (folder or Path()) / name


def quickly(training: Training) -> Training:
    """The same model for one epoch of a few small images: numbers that mean nothing."""
    words = shlex.split(training.arguments)
    for flag in {"--epochs", "--limit", "--batch-size"} & set(words):
        del words[words.index(flag) : words.index(flag) + 2]
    arguments = shlex.join([*words, "--epochs", "1", "--limit", "32", "--batch-size", "16"])
    if training.data.startswith(CODES):
        return replace(training, arguments=arguments)
    name, levels = ("emoji8.npz", 8) if training.data.startswith("emoji") else ("digits8.npz", 17)
    return replace(training, data=name, levels=levels, source_levels=levels, arguments=arguments)


def run(name: str, training: Training, args: argparse.Namespace, commit: str) -> dict[str, Any]:
    """Train by the command line, and read in the folder what came out."""
    folder = args.runs / name.replace(" ", "-")
    file = place(training.data, args.data)
    if training.data.startswith(CODES):
        file = args.runs / training.data
        if not file.exists():
            write_codes(place("digits8.npz" if args.quick else "fashion5k.npz", args.data), args.runs / CODES)
    words = ["--levels", str(training.levels)]
    words += [] if training.source_levels == 256 else ["--source-levels", str(training.source_levels)]
    words += shlex.split(training.arguments)
    print(f"\npixelfast train --data {training.data} {shlex.join(words)}", flush=True)
    before = len(history(folder))
    begin = time.process_time()
    common = ["--data", str(file), "--threads", str(args.threads), "--out", str(folder), "--no-progress"]
    if cli.main(["train", *common, *words]):
        raise SystemExit(f"the run {name!r} failed; what went wrong stands above")
    trained = len(history(folder)) > before
    ledger = spent(folder, time.process_time() - begin if trained else 0.0, commit)
    result = data.load(file, training.levels, source_levels=training.source_levels)
    images = result.images[: int(words[words.index("--limit") + 1]) if "--limit" in words else None]
    model = checkpoint.load(folder)
    return {
        "name": name,
        "command": f"pixelfast train --data {training.data} {shlex.join(words)} --out runs/{folder.name}",
        "data": training.data,
        "file": str(file),
        "source_levels": training.source_levels,
        "given": training.given,
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "images": len(images),
        "held_out": len(result.test_images),
        "shape": list(result.shape),
        "levels": training.levels,
        **ledger,
        "history": history(folder),
        "uniform": math.log2(training.levels),
        "independent_pixels": independent_pixels(images, result.test_images, training.levels),
        "wrong_condition": with_wrong_condition(model, result) if training.given else None,
    }


@torch.no_grad()
def with_wrong_condition(model: nn.Module, found: data.Dataset) -> float:
    """Held-out bits/dim given the next label, or the code or upper codes of another image: what is known must be of use."""
    images, labels, maps = found.test_images, found.test_labels, found.test_maps
    if isinstance(model, PixelCNNAutoencoder):
        codes = torch.cat([model.encode(model.head.encode_images(part)) for part in images.split(64)])
        return bits_per_dim(model.decoder, images, codes.roll(1, 0))
    wrong = None if labels is None else (labels + 1) % (int(labels.max()) + 1)
    return bits_per_dim(model, images, wrong, None if maps is None else maps.roll(1, 0))


def history(folder: Path) -> list[dict[str, Any]]:
    """What each finished epoch of a run came to, as `pixelfast train` keeps it; nothing before the first."""
    file = folder / STATE
    return torch.load(file, weights_only=True)["history"] if file.exists() else []


def spent(folder: Path, seconds: float, commit: str) -> dict[str, Any]:
    """Processor time of all calls that a run took, which the clock of a busy machine does not tell, and the first's commit."""
    file = folder / "ledger.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"processor_seconds": 0.0, "commit": commit}
    known["processor_seconds"] = round(known["processor_seconds"] + seconds, 1)
    file.write_text(json.dumps(known), encoding="utf-8")
    return known


if __name__ == "__main__":
    sys.exit(main())
