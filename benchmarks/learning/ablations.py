"""The classic ablations by one command each: train every variant with several seeds, and compare bits/dim of held-out images.

    python benchmarks/learning/ablations.py layer-norm|blocks|colour|skips|blind-spot|all [--seeds 3] [--epochs N]
    python benchmarks/learning/ablations.py all --data mnist.npz --levels 4          on data of yours
    python benchmarks/learning/ablations.py all --quick                              is everything in order?

`ablation_variants.py` lists them. Without --data they run on the small images in benchmarks/data. Each run keeps its state in
--runs: an interrupted command goes on, and variants that two ablations share are trained once. Writes `report.md`,
`results.json` and a plot for each ablation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # what lies in benchmarks/ is imported from there, by its folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from learning.ablation_report import write_report
from learning.ablation_variants import ABLATIONS, DATA, Ablation, Images, Variant, unseen, weights
from learning.histogram import independent_pixels
from pixelfast import data
from pixelfast.errors import InvalidInput, PixelfastError
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import train
from speed.surroundings import conditions

QUICK = 40
"""Images of a quick run."""


@dataclass(frozen=True)
class Job:
    """Everything that a run depends on but its variant."""

    name: str
    found: data.Dataset
    options: TrainOptions
    runs: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, report."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    facts = conditions(args.threads)
    try:
        results = {name: ablation(name, ABLATIONS[name], args) for name in args.names}
    except PixelfastError as error:
        print(f"ablations.py: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"facts": facts, "quick": args.quick, "ablations": results}, indent=1)
    (args.out / "results.json").write_text(text + "\n", encoding="utf-8")
    write_report(args.out, facts, results, args.quick)
    print(f"\nwrote {args.out / 'report.md'}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=(*ABLATIONS, "all"), help="which ablation")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each variant. Default: 3; quick 1")
    parser.add_argument("--epochs", type=int, metavar="N", help="Default: 10 for digits8, 6 for others; quick 1")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate. Default: 0.002")
    parser.add_argument("--data", type=Path, metavar="PATH", help="images for `pixelfast train`. Default: benchmarks/data")
    parser.add_argument("--levels", type=int, default=256, metavar="K", help="of --data: quantise to K values. Default: 256")
    parser.add_argument("--source-levels", type=int, default=256, metavar="S", help="of --data: a pixel's values. Default: 256")
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N images only")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="for states. Default: runs/ablations; quick: none")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="Default: benchmarks/results/<date>-ablations-<which>")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="Default: 1")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} images, one epoch, one seed: numbers that mean nothing")
    args = parser.parse_args(argv)
    args.names = list(ABLATIONS) if args.which == "all" else [args.which]
    args.seeds = args.seeds or (1 if args.quick else 3)
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    args.out = args.out or (Path("runs/quick-ablations") if args.quick else results_folder(today, args.which))
    args.runs = args.runs or (None if args.quick else Path("runs/ablations"))
    return args


def results_folder(today: str, which: str) -> Path:
    return Path(__file__).parents[1] / "results" / f"{today}-ablations{'' if which == 'all' else f'-{which}'}"


def ablation(name: str, asked: Ablation, args: argparse.Namespace) -> dict[str, Any]:
    """All variants with all seeds."""
    images = DATA[asked.data] if args.data is None else Images(args.data, args.levels, args.source_levels, 6)
    result = data.load(images.file, images.levels, source_levels=images.source_levels)
    if asked.colour and result.shape[0] == 1:
        raise InvalidInput(f"{name} needs colour images, and those of {images.file} are grey: leave out the one or the other")
    limit = QUICK if args.quick else args.limit
    held_out = result.test_images[: QUICK if args.quick else None]
    result = data.Dataset(result.images[:limit], None, held_out, None, result.levels)
    options = TrainOptions(epochs=args.epochs or (1 if args.quick else images.epochs), lr=args.lr)
    job = Job(images.file.stem, result, options, args.runs)
    print(f"\n{asked.title}: {name}, {len(result.images)} images of {'x'.join(map(str, result.shape))} from {images.file.name}")
    return {
        "title": asked.title,
        "data": images.file.name,
        "images": len(result.images),
        "held_out": len(result.test_images),
        "shape": list(result.shape),
        "levels": result.levels,
        "options": asdict(options),
        "independent_pixels": independent_pixels(result.images, result.test_images, result.levels),
        "variants": [variant(one, job, args.seeds, asked.blind_spot) for one in asked.variants],
    }


def variant(one: Variant, job: Job, seeds: int, blind_spot: bool) -> dict[str, Any]:
    """One variant with all its seeds."""
    model = one.build(job.found.shape, job.found.levels, 0)
    runs = [curve(one, job, seed) for seed in range(seeds)]
    last = ", ".join(f"{run['held_out'][-1]:.4f}" for run in runs)
    print(f"  {one.name}: {weights(model):,} weights, held out {last}", flush=True)
    facts = {"name": one.name, "model": one.model, "arguments": dict(one.arguments), "weights": weights(model)}
    return {**facts, **({"unseen": unseen(model, job.found.shape)} if blind_spot else {}), "runs": runs}


def curve(one: Variant, job: Job, seed: int) -> dict[str, Any]:
    """Bits/dim of one run after every epoch."""
    options = TrainOptions(**{**asdict(job.options), "seed": seed})
    words = [job.name, str(options.epochs), one.model, *(f"{key}={value}" for key, value in sorted(one.arguments.items()))]
    folder = None if job.runs is None else job.runs / "-".join([*words, str(seed)])
    model = one.build(job.found.shape, job.found.levels, seed)
    history = train(model, job.found.images, test=(job.found.test_images,), options=options, folder=folder)
    return {
        "seed": seed,
        "trained_on": [round(epoch.train_bits, 5) for epoch in history],
        "held_out": [round(epoch.test_bits, 5) for epoch in history],
    }


if __name__ == "__main__":
    sys.exit(main())
