"""The demonstration: sample with the shipped checkpoints, time it against the usual loop, and look at the pictures.

    python benchmarks/demo.py [--out demo] [--runs 5] [--threads N]

For each checkpoint 64 images are drawn by `pixelfast.sample`'s own machinery. Times are medians over runs, compilation
apart. The usual loop (one full forward for every sub-pixel) would take minutes: a few of its steps are measured, in the
middle of the image, and the time of a whole image follows by multiplication. R is the time to sample the images over the
time of one forward pass of the module over the same images: eager PyTorch, as many threads, and the batch size of `BATCHES`
that suits it best. On a machine that is busy with other things all of these times are wrong, PyTorch's most of all.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pixelfast
from pixelfast.cli.conditions import held_out
from pixelfast.engines.native.engine import usable_threads
from pixelfast.files import checkpoint
from pixelfast.pictures import Drawing, grid
from speed.measure import timed as once
from speed.results import Times
from speed.surroundings import BUSY, conditions, processors_in_use
from speed.texts import duration

IMAGES = 64
COMPLETED = 16
TRIES = 3
STEPS = 3
"""Sub-pixels of the usual loop that are measured."""
BATCHES = (64, 16)


@dataclass(frozen=True)
class Line:
    """What is known about one checkpoint; the numbers of the CSV file."""

    checkpoint: str
    images: int
    channels: int
    height: int
    width: int
    engine: str
    threads: int
    compile_s: float
    sample_s: float
    sample_s_least: float
    sample_s_most: float
    forward_s: float
    forward_batch: int
    naive_s_extrapolated: float
    speedup: float
    ratio_r: float
    wrong_draws: int
    ties: int
    parameter_error: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and write its pictures and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for pictures and numbers; default: demo")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement; default: 5")
    parser.add_argument("--threads", type=int, default=None, help="default: as many as this process may use")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    threads = args.threads or usable_threads()
    torch.set_num_threads(threads)
    started = time.perf_counter()
    facts = conditions(threads)
    print("\n".join(f"{name}: {text}" for name, text in facts.items()))
    if (used := processors_in_use()) > BUSY:
        print(f"OTHER PROGRAMS USE {used:.1f} PROCESSORS: the times below are not to be trusted")
    lines = []
    for name in ("digits", "emoji"):
        model, sampler, labels, compile_s = prepare(name)
        line, images = measure(name, model, sampler, labels, compile_s, args.runs, threads)
        lines.append(line)
        draw(args.out, name, sampler, labels, images, threads)
        if name == "digits":
            complete(args.out, sampler, threads)
    write_csv(args.out / "results.csv", facts, lines)
    print(f"\npictures and results.csv are in {args.out}/; all of this took {time.perf_counter() - started:.0f} s")
    return 0


def prepare(name: str) -> tuple[torch.nn.Module, pixelfast.Sampler, Tensor, float]:
    """The model, its compiled sampler, the labels of the images, and how long compiling took."""
    model = pixelfast.load(name)
    labels = torch.arange(IMAGES) % int(model.classes)  # type: ignore[arg-type]
    begin = time.perf_counter()
    sampler = pixelfast.compile(model, cond=labels)
    return model, sampler, labels, time.perf_counter() - begin


def measure(
    name: str, model: torch.nn.Module, sampler: pixelfast.Sampler, labels: Tensor, compile_s: float, runs: int, threads: int
) -> tuple[Line, Tensor]:
    """Time sampling, one forward and the usual loop; verify; print. Returns the numbers and the images (N, C, H, W)."""
    channels, height, width = sampler.shape
    images = sampler.sample(IMAGES, seed=0, cond=labels, threads=threads)  # warms up, too
    sampling = timed(lambda: sampler.sample(IMAGES, seed=0, cond=labels, threads=threads), runs)
    batch, forward = one_forward(model, sampler.head.encode_images(images), labels, runs)
    step = naive_step(model, images, labels, runs)
    naive_s = step * channels * height * width
    found = sampler.verify(images, seed=0, cond=labels)
    ratio, speedup = sampling.median / forward.median, naive_s / sampling.median
    print(f"\n{name}: {IMAGES} images of {channels} x {height} x {width}, engine {sampler.engine}, {threads} threads")
    print(f"  compile:          {duration(compile_s)}, once for a model")
    print(f"  sample:           {described(sampling)}, {duration(sampling.median / IMAGES)} an image")
    print(f"  one forward:      {described(forward)}, eager PyTorch over the same images, {batch} at once")
    print(f"  R = {ratio:.2f}          sampling takes {ratio:.2f} times as long as one forward")
    print(f"  the usual loop:   {duration(naive_s)}, extrapolated from {STEPS} of its {channels * height * width} steps")
    print(f"  speed-up:         {float(f'{speedup:.2g}'):,.0f} times")
    print(f"  verify:           {found}")
    spread = sampling.least, sampling.most
    errors = (found.wrong + found.changed, found.ties, found.parameter_error)
    numbers = (compile_s, sampling.median, *spread, forward.median, batch, naive_s, speedup, ratio, *errors)
    return Line(name, IMAGES, channels, height, width, sampler.engine, threads, *numbers), images


@torch.no_grad()
def one_forward(model: torch.nn.Module, inputs: Tensor, labels: Tensor, runs: int) -> tuple[int, Times]:
    """The batch size in which one forward over all images is fastest, and its times."""

    def forward(batch: int) -> None:
        for begin in range(0, len(inputs), batch):
            model(inputs[begin : begin + batch], labels[begin : begin + batch])

    result = []
    for batch in BATCHES:
        forward(batch)  # warms up
        result.append((batch, timed(partial(forward, batch), runs)))
    return min(result, key=lambda entry: entry[1].median)


def naive_step(model: torch.nn.Module, images: Tensor, labels: Tensor, runs: int) -> float:
    """Seconds of one sub-pixel of the usual loop: all but a few sub-pixels in the middle of the images are given."""
    oracle = pixelfast.compile(model, engine="naive", self_check=False)  # nothing but the loop
    flat = images.int().flatten(1).clone()  # (N, C H W)
    middle = flat.shape[1] // 2
    flat[:, middle : middle + STEPS] = -1
    given = flat.view(images.shape)
    return timed(lambda: oracle.sample(len(images), seed=0, cond=labels, given=given), min(runs, 3)).median / STEPS


def draw(out: Path, name: str, sampler: pixelfast.Sampler, labels: Tensor, images: Tensor, threads: int) -> None:
    """A grid of the images with their classes, and an animation of them being drawn."""
    names = checkpoint.read_config(name).get("classes") or [str(label) for label in range(int(labels.max()) + 1)]
    captions = [names[label] for label in labels.tolist()]
    grid(images, sampler.head.levels, columns=8, captions=captions).save(out / f"{name}.png")
    drawing = Drawing(sampler.head.levels, columns=8)
    sampler.sample(IMAGES, seed=0, cond=labels, on_row=drawing, threads=threads)
    drawing.save(out / f"{name}.gif")


def complete(out: Path, sampler: pixelfast.Sampler, threads: int) -> None:
    """Complete the lower half of held-out digits, several times each, and verify the result."""
    images, labels = held_out("digits")
    chosen = torch.arange(COMPLETED) * len(images) // COMPLETED
    images, labels = images[chosen].int(), labels[chosen]
    half = images.clone()
    half[:, :, images.shape[2] // 2 :] = -1
    rows: list[Any] = [images, half]
    print(f"\ncompleting the lower half of {len(images)} held-out digits, {TRIES} times each")
    for seed in range(TRIES):
        begin = time.perf_counter()
        found = sampler.sample(len(images), seed=seed, cond=labels, given=half, threads=threads)
        took = time.perf_counter() - begin
        checked = sampler.verify(found, seed=seed, cond=labels, given=half)
        print(f"  seed {seed}: {duration(took / len(images))} an image; {checked}")
        rows.append(found.int())
    grid(torch.cat(rows), sampler.head.levels, columns=len(images), scale=2).save(out / "completed.png")


def described(times: Times) -> str:
    """A median with what it is the median of."""
    return f"{duration(times.median)} (median of {len(times.runs)}: {duration(times.least)} to {duration(times.most)})"


def timed(call: Callable[[], object], runs: int) -> Times:
    """Seconds that `call` takes, `runs` times."""
    return Times(tuple(once(call)[1] for _ in range(runs)))


def write_csv(path: Path, facts: dict[str, str], lines: Sequence[Line]) -> None:
    """One line for each checkpoint, each with the conditions of measurement."""
    rows = [{**asdict(line), **facts} for line in lines]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
